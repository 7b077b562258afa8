// Keyset pages over a real table: every way through a list sees every row once.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ModelEvent } from '../../../../db/entities/index.js'
import { defaultTenantId, scoped } from '../../../../db/scope.js'
import { newId } from '../../../../lib/ids.js'
import {
  type ConnectionArguments,
  type Order,
  paginate,
  paginateArray,
} from '../../../../subgraphs/build/connection.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import { addModel, openSubgraphPlatform, type SubgraphPlatform } from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
/** 23 rows; their times collide in groups of five, so the id must decide. */
const rows = Array.from({ length: 23 }, (_, i) => ({
  id: newId(),
  tenantId: defaultTenantId,
  modelId: '',
  kind: 'X',
  description: String(i),
  jobId: null,
  createdAt: new Date(1_700_000_000_000 + Math.floor(i / 5)),
}))
beforeAll(async () => {
  kit = await openSubgraphPlatform()
  const model = await addModel(kit.platform, 'm')
  for (const row of rows) row.modelId = model.id
  await kit.platform.db.tx(em => em.insert(ModelEvent, rows))
})
afterAll(() => kit.close())

const page = (args: ConnectionArguments, order?: Order[]) =>
  paginate(
    kit.platform.db.read.createQueryBuilder(ModelEvent, 'e').where({ ...scoped(defaultTenantId), kind: 'X' }),
    args,
    'events',
    order,
  )
const texts = (nodes: ModelEvent[]) => nodes.map(n => Number(n.description))
const ascending = Array.from({ length: 23 }, (_, i) => i)
const descending = [...ascending].reverse()

test.each([
  ['by id, newest first', undefined, descending],
  ['by time', [{ property: 'createdAt' }], ascending],
  ['by time, latest first', [{ property: 'createdAt', descending: true }], descending],
] as const)('forward and backward pages see every row once: %s', async (_name, order, expected) => {
  const forward: number[] = []
  for (let after: string | null = null, more = true; more; ) {
    const p = await page({ first: 4, after }, order && [...order])
    forward.push(...texts(p.nodes))
    expect(p.pageInfo.hasPreviousPage).toBe(after !== null)
    after = p.pageInfo.endCursor
    more = p.pageInfo.hasNextPage
  }
  expect(forward).toEqual(expected)
  const backward: number[] = []
  for (let before: string | null = null, more = true; more; ) {
    const p = await page({ last: 4, before }, order && [...order])
    backward.unshift(...texts(p.nodes))
    expect(p.pageInfo.hasNextPage).toBe(before !== null)
    before = p.pageInfo.startCursor
    more = p.pageInfo.hasPreviousPage
  }
  expect(backward).toEqual(expected)
})

test('after and before together bound the page from both sides', async () => {
  const all = await page({ first: 100 })
  const args = { after: all.edges[2]!.cursor, before: all.edges[8]!.cursor }
  expect(texts((await page(args)).nodes)).toEqual(descending.slice(3, 8))
  expect(texts((await page({ ...args, last: 2 })).nodes)).toEqual(descending.slice(6, 8))
  const page1 = await page({ ...args, first: 2 })
  expect(texts(page1.nodes)).toEqual(descending.slice(3, 5))
  expect(await page1.totalCount).toBe(23)
})

test('a row that came in between is neither seen twice nor lost', async () => {
  const first = await page({ first: 3 })
  const row = { ...rows[0]!, id: newId(), description: '99' }
  await kit.platform.db.tx(em => em.insert(ModelEvent, row))
  const second = await page({ first: 3, after: first.pageInfo.endCursor })
  expect(texts(second.nodes)).toEqual(descending.slice(3, 6))
  await kit.platform.db.tx(em => em.delete(ModelEvent, { id: row.id }))
})

test('limits: 0 is an empty page, 100 is allowed, 101 and -1 are refused with the number', async () => {
  expect((await page({ first: 0 })).edges).toEqual([])
  expect((await page({ first: 100 })).edges).toHaveLength(23)
  await expect(page({ first: 101 })).rejects.toMatchObject({
    code: 'BAD_USER_INPUT',
    message: 'first: 101, expected 0 to 100',
  })
  await expect(page({ last: -1 })).rejects.toMatchObject({ code: 'BAD_USER_INPUT', field: ['last'] })
})

test('a cursor of another list, another order or another shape is INVALID_CURSOR', async () => {
  const other = (await page({ first: 1 }, [{ property: 'createdAt' }])).pageInfo.endCursor
  const forged = [
    '',
    'x',
    other,
    Buffer.from('["events:-id",{"a":1}]').toString('base64url'),
    Buffer.from('{}').toString('base64url'),
  ]
  for (const after of forged)
    await expect(page({ after })).rejects.toMatchObject({ code: 'INVALID_CURSOR', field: ['after'] })
  // SQL in a cursor is a value like any other.
  const sql = Buffer.from(`["events:-id","x' OR 1=1 --"]`).toString('base64url')
  expect((await page({ before: sql })).edges).toEqual([])
})

test('a page costs one query, and a count only where the total is asked for', async () => {
  const { read } = kit.platform.db
  expect(await queriesOf(read, () => page({ first: 2 }))).toHaveLength(1)
  expect(await queriesOf(read, async () => (await page({ first: 2 })).totalCount)).toHaveLength(2)
})

test('pages of a list in memory go both ways and refuse cursors of items that are gone', () => {
  const items = ['a', 'b', 'c', 'd', 'e']
  const of = (args: ConnectionArguments, list = items) => paginateArray(list, args, 'letters', x => x)
  const first = of({ first: 2 })
  expect(first.nodes).toEqual(['a', 'b'])
  expect(first.pageInfo).toMatchObject({ hasNextPage: true, hasPreviousPage: false })
  expect(of({ first: 2, after: first.pageInfo.endCursor }).nodes).toEqual(['c', 'd'])
  expect(of({ last: 2 }).nodes).toEqual(['d', 'e'])
  expect(of({ last: 2 }).pageInfo).toMatchObject({ hasNextPage: false, hasPreviousPage: true })
  expect(() => of({ after: first.pageInfo.endCursor }, ['a'])).toThrow(
    expect.objectContaining({ code: 'INVALID_CURSOR' }),
  )
})
