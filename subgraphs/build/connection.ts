// Relay connections: types per node class, arguments with their limits, keyset pages over the database and pages of short lists.

import { ArgsType, type ClassType, Directive, Field, Int, ObjectType } from 'type-graphql'
import type { ObjectLiteral, SelectQueryBuilder } from 'typeorm'
import { andAnyOf } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { PageInfo } from './common-types.js'
import { groupBy } from './loader.js'

export const maximumPageSize = 100
export const defaultPageSize = 50

@ArgsType()
export class ConnectionArguments {
  @Field(() => Int, {
    nullable: true,
    description: 'How many items from the beginning: 0 to 100, 50 where neither first nor last is given.',
  })
  first?: number | null
  @Field(() => String, { nullable: true, description: 'Only items after this cursor.' })
  after?: string | null
  @Field(() => Int, { nullable: true, description: 'How many items from the end: 0 to 100.' })
  last?: number | null
  @Field(() => String, { nullable: true, description: 'Only items before this cursor.' })
  before?: string | null
}

/** One page of a list; `totalCount` costs a query only where it is selected. */
export class Page<T> {
  readonly nodes: T[]
  readonly pageInfo: PageInfo
  constructor(
    readonly edges: { cursor: string; node: T }[],
    has: { previous: boolean; next: boolean },
    private readonly count: () => Promise<number> | number,
  ) {
    this.nodes = edges.map(e => e.node)
    this.pageInfo = {
      hasPreviousPage: has.previous,
      hasNextPage: has.next,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: edges.at(-1)?.cursor ?? null,
    }
  }
  get totalCount() {
    return this.count()
  }
  map<U>(f: (node: T) => U): Page<U> {
    const has = { previous: this.pageInfo.hasPreviousPage, next: this.pageInfo.hasNextPage }
    return new Page(
      this.edges.map(e => ({ cursor: e.cursor, node: f(e.node) })),
      has,
      this.count,
    )
  }
}

/**
 * The GraphQL types `<name>Connection` and `<name>Edge` of a node class of this subgraph. Resolvers return a `Page`.
 * @param name GraphQL name of the node type
 */
export function connectionOf<T extends object>(name: string, node: () => ClassType<T>): ClassType<Page<T>> {
  @Directive('@shareable')
  @ObjectType(`${name}Edge`, { description: `A ${name} in a list, with its cursor.` })
  class Edge {
    @Field(() => String, { description: 'Opaque place of this item in the list, for `after` and `before`.' })
    cursor!: string
    @Field(node, { description: `The ${name}.` })
    node!: T
  }
  @Directive('@shareable')
  @ObjectType(`${name}Connection`, { description: `A page of a list of ${name} items.` })
  class Connection {
    @Field(() => [Edge], { description: 'The items with their cursors.' })
    edges!: Edge[]
    @Field(() => [node()], { description: 'The items without cursors.' })
    nodes!: T[]
    @Field(() => PageInfo, { description: 'Where this page lies in the whole list.' })
    pageInfo!: PageInfo
    @Field(() => Int, { description: 'Items in the whole list, over all pages.' })
    totalCount!: number
  }
  return Connection as unknown as ClassType<Page<T>>
}

export type Cursor = (string | number)[]

/** Opaque text of a place in a list; `list` names the list and its order, so that a cursor of another is refused. */
const encodeCursor = (list: string, values: Cursor) =>
  Buffer.from(JSON.stringify([list, ...values])).toString('base64url')

function decodeCursor(list: string, text: string, length: number, field: string): Cursor {
  const fail = () =>
    new DomainError('INVALID_CURSOR', `${field}: "${text.slice(0, 60)}" is not a cursor of this list`, {
      field: [field],
    })
  let values: unknown
  try {
    values = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'))
  } catch {
    throw fail()
  }
  if (!Array.isArray(values) || values[0] !== list || values.length !== length + 1) throw fail()
  const rest: unknown[] = values.slice(1)
  if (!rest.every((v): v is string | number => typeof v === 'string' || typeof v === 'number')) throw fail()
  return rest
}

/** Checked arguments: `size` items, from the end where `backward`. */
export function checkPage(args: ConnectionArguments): { size: number; backward: boolean } {
  for (const name of ['first', 'last'] as const) {
    const value = args[name]
    if (value != null && (value < 0 || value > maximumPageSize))
      throw new DomainError('BAD_USER_INPUT', `${name}: ${value}, expected 0 to ${maximumPageSize}`, { field: [name] })
  }
  if (args.first != null && args.last != null)
    throw new DomainError('BAD_USER_INPUT', 'first and last: give one of them, not both', { field: ['last'] })
  return { size: args.first ?? args.last ?? defaultPageSize, backward: args.last != null }
}

/** A sort key: a property of the query's main entity that is never null. */
export interface Order {
  property: string
  descending?: boolean
}

/**
 * A page of a query by keyset: one query for `size + 1` rows, whatever the offset, and one count where `totalCount` is selected.
 * @param query filtered and scoped, without order and limit; its main entity has an `id`
 * @param list name of the list; together with the order it marks its cursors
 * @param order sort keys before `id` (never null; default none). Ids are time-ordered, so the default is newest first.
 * @throws BAD_USER_INPUT (first, last), INVALID_CURSOR
 */
export async function paginate<E extends ObjectLiteral>(
  query: SelectQueryBuilder<E>,
  args: ConnectionArguments,
  list: string,
  order: Order[] = [],
): Promise<Page<E>> {
  const { size, backward } = checkPage(args)
  const keys = sortKeys(order)
  const mark = markOf(list, keys)
  const column = (key: Order) => `${query.alias}.${key.property}`
  const page = query.clone()

  /** Rows strictly on the far side of the cursor: (a > x) or (a = x and b > y) … */
  const bound = (cursor: Cursor, forward: boolean, name: string) => {
    const parameters = Object.fromEntries(cursor.map((value, i) => [`${name}${i}`, value]))
    const terms = keys.map((key, i) => {
      const comparison = Boolean(key.descending) === forward ? '<' : '>'
      const equal = keys.slice(0, i).map((k, j) => `${column(k)} = :${name}${j}`)
      return `(${[...equal, `${column(key)} ${comparison} :${name}${i}`].join(' AND ')})`
    })
    page.andWhere(`(${terms.join(' OR ')})`, parameters)
  }
  if (args.after != null) bound(decodeCursor(mark, args.after, keys.length, 'after'), true, 'after')
  if (args.before != null) bound(decodeCursor(mark, args.before, keys.length, 'before'), false, 'before')

  page.orderBy()
  for (const key of keys) page.addOrderBy(column(key), Boolean(key.descending) !== backward ? 'DESC' : 'ASC')
  const rows = await page.take(size + 1).getMany()
  return toPage(query, args, mark, keys, rows, () => query.clone().getCount())
}

/**
 * The same list of many parents (the tensors of each model) by two queries in all: one for the rows, one for the totals where one is asked
 * for. With a cursor, which belongs to one parent's list, it is a page per parent.
 * @param query as for `paginate`, without the parents
 * @param parent property that holds the parent's id
 * @param list name of one parent's list
 */
export async function paginateEach<E extends ObjectLiteral>(
  query: SelectQueryBuilder<E>,
  args: ConnectionArguments,
  parent: string,
  parentIds: readonly string[],
  list: (parentId: string) => string,
  order: Order[] = [],
): Promise<Map<string, Page<E>>> {
  const { size, backward } = checkPage(args)
  const parentColumn = `${query.alias}.${parent}`
  if (args.after != null || args.before != null || parentIds.length === 1) {
    const one = (id: string) =>
      paginate(query.clone().andWhere(`${parentColumn} = :parentId`, { parentId: id }), args, list(id), order)
    return new Map(await Promise.all(parentIds.map(async id => [id, await one(id)] as const)))
  }
  const keys = sortKeys(order)
  const direction = (key: Order) => (Boolean(key.descending) !== backward ? 'DESC' : 'ASC')
  const all = andAnyOf(query.clone(), parentColumn, parentIds)
  const terms = keys.map(key => `${query.alias}.${key.property} ${direction(key)}`).join(', ')
  const ranked = all
    .clone()
    .select(`${query.alias}.id`, 'id')
    .addSelect(`ROW_NUMBER() OVER (PARTITION BY ${parentColumn} ORDER BY ${terms})`, 'place')
  const page = query.connection.manager
    .createQueryBuilder<E>(query.expressionMap.mainAlias!.target, query.alias)
    .where(`${query.alias}.id IN (SELECT ranked.id FROM (${ranked.getQuery()}) ranked WHERE ranked.place <= :size)`)
    .setParameters({ ...ranked.getParameters(), size: size + 1 })
  for (const key of keys) page.addOrderBy(`${query.alias}.${key.property}`, direction(key))
  const rows = groupBy(await page.getMany(), row => row[parent] as string)

  let counts: Promise<Map<string, number>> | undefined
  const countAll = async () => {
    const found = await all
      .clone()
      .select(parentColumn, 'parent')
      .addSelect('COUNT(*)', 'n')
      .groupBy(parentColumn)
      .getRawMany<{ parent: string; n: number }>()
    return new Map(found.map(row => [row.parent, Number(row.n)]))
  }
  const count = async (id: string) => {
    counts ??= countAll()
    return (await counts).get(id) ?? 0
  }
  return new Map(
    parentIds.map(id => [id, toPage(query, args, markOf(list(id), keys), keys, rows.get(id) ?? [], () => count(id))]),
  )
}

const sortKeys = (order: readonly Order[]): Order[] => [
  ...order,
  { property: 'id', descending: order[0] ? order[0].descending : true },
]

/** What the cursors of a list begin with: its name and order. */
const markOf = (list: string, keys: readonly Order[]) =>
  `${list}:${keys.map(k => (k.descending ? '-' : '') + k.property).join()}`

/** @param rows up to one more than the page holds, in the order they were read */
function toPage<E extends ObjectLiteral>(
  query: SelectQueryBuilder<E>,
  args: ConnectionArguments,
  mark: string,
  keys: readonly Order[],
  rows: E[],
  count: () => Promise<number>,
): Page<E> {
  const { size, backward } = checkPage(args)
  const more = rows.length > size
  const shown = more ? rows.slice(0, size) : rows
  if (backward) shown.reverse()
  const { driver } = query.connection
  const metadata = query.expressionMap.mainAlias!.metadata
  const cursorOf = (row: E) =>
    encodeCursor(
      mark,
      // As the database holds it: dates become numbers, so that the comparison with it needs no conversion.
      keys.map(key => {
        const property = metadata.findColumnWithPropertyName(key.property)!
        const value: unknown = driver.preparePersistentValue(property.getEntityValue(row), property)
        return value instanceof Date ? value.toISOString() : (value as string | number)
      }),
    )
  return new Page(
    shown.map(node => ({ cursor: cursorOf(node), node })),
    { previous: backward ? more : args.after != null, next: backward ? args.before != null : more },
    count,
  )
}

/** A page of a list that is in memory as a whole (layers, the students of a model), in its order. */
export function paginateArray<T>(
  items: readonly T[],
  args: ConnectionArguments,
  list: string,
  key: (item: T) => string,
): Page<T> {
  const { size, backward } = checkPage(args)
  const place = (text: string, field: string) => {
    const [wanted] = decodeCursor(list, text, 1, field)
    const index = items.findIndex(item => key(item) === wanted)
    if (index < 0)
      throw new DomainError('INVALID_CURSOR', `${field}: the item of this cursor is not in the list any more`, {
        field: [field],
      })
    return index
  }
  const from = args.after == null ? 0 : place(args.after, 'after') + 1
  const to = args.before == null ? items.length : place(args.before, 'before')
  const start = backward ? Math.max(from, to - size) : from
  const end = backward ? to : Math.min(to, from + size)
  return new Page(
    items.slice(start, end).map(node => ({ cursor: encodeCursor(list, [key(node)]), node })),
    { previous: start > 0, next: end < items.length },
    () => items.length,
  )
}
