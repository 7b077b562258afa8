// The node subgraph: finds anything by its global id. It knows only whether rows exist; their fields come from the subgraphs that own them.

import { Arg, type ClassType, Ctx, Directive, ID, ObjectType, Query, Resolver } from 'type-graphql'
import type { EntityTarget, FindOptionsWhere } from 'typeorm'
import {
  Job,
  ModelAtom,
  ProbeDataset,
  StudentModelRecipe,
  StudentModelTaxonomy,
  TensorAtom,
} from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { type NodeType, parseGlobalId, toGlobalId } from '../../lib/ids.js'
import { Node } from '../build/common-types.js'
import { maximumPageSize } from '../build/connection.js'
import { loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'

interface Row {
  id: string
  tenantId: string
}
type Existing = (context: RequestContext, ids: readonly string[]) => Promise<string[]>

const rowsOf =
  <E extends Row>(table: EntityTarget<E>, alive: (row: E) => boolean = () => true): Existing =>
  async ({ platform, tenantId }, ids) => {
    const where = { ...scoped(tenantId), id: anyOf(ids) } as unknown as FindOptionsWhere<E>
    return (await platform.db.read.find(table, { where })).filter(alive).map(row => row.id)
  }

/** Every type that `node` finds, and how it sees which ids exist. A subgraph that gains a Node type adds a line. */
const finders = {
  Model: rowsOf(ModelAtom, row => row.deletedAt === null),
  Tensor: rowsOf(TensorAtom),
  Job: rowsOf(Job),
  Device: async ({ platform }) => platform.queue.devices().map(d => d.id),
  Capability: rowsOf(StudentModelTaxonomy),
  ProbeDataset: rowsOf(ProbeDataset),
  Recipe: rowsOf(StudentModelRecipe),
} as const satisfies Partial<Record<NodeType, Existing>>
type FoundType = keyof typeof finders

function reference(name: FoundType): ClassType<Node> {
  @Directive('@key(fields: "id", resolvable: false)')
  @ObjectType(name, { implements: Node })
  class Reference extends Node {}
  return Reference
}
const references = Object.fromEntries(Object.keys(finders).map(name => [name, reference(name as FoundType)])) as Record<
  FoundType,
  ClassType<Node>
>

/** Global ids that exist; one query per type and tick. */
const nodes = (context: RequestContext) =>
  loader(context, 'node.nodes', async (globalIds: readonly string[]) => {
    const idsByType = new Map<FoundType, string[]>()
    for (const globalId of globalIds) {
      const parsed = parseGlobalId(globalId)
      if (!parsed || !(parsed.type in finders)) continue
      const type = parsed.type as FoundType
      idsByType.set(type, [...(idsByType.get(type) ?? []), parsed.id])
    }
    const found = await Promise.all(
      [...idsByType].map(async ([type, ids]) =>
        (await finders[type](context, ids)).map(id => {
          const globalId = toGlobalId(type, id)
          return [globalId, Object.assign(new references[type](), { id: globalId })] as const
        }),
      ),
    )
    return new Map<string, Node>(found.flat())
  })

@Resolver()
class NodeResolver {
  @Query(() => Node, {
    nullable: true,
    description: 'Anything by its global id; null where there is nothing (any more).',
  })
  async node(@Arg('id', () => ID, { description: 'Global id.' }) id: string, @Ctx() context: RequestContext) {
    return (await nodes(context).load(id)) ?? null
  }

  @Query(() => [Node], {
    nullable: 'items',
    description: 'Several things by their global ids, in the order asked; null where there is nothing (any more).',
  })
  async nodes(
    @Arg('ids', () => [ID], { description: 'Global ids, at most 100.' }) ids: string[],
    @Ctx() context: RequestContext,
  ) {
    if (ids.length > maximumPageSize)
      throw new DomainError('BAD_USER_INPUT', `ids: ${ids.length} ids, at most ${maximumPageSize}`, { field: ['ids'] })
    return Promise.all(ids.map(async id => (await nodes(context).load(id)) ?? null))
  }
}

export const subgraph: Subgraph = {
  name: 'node',
  ...buildFederatedSchema({ resolvers: [NodeResolver], orphanedTypes: Object.values(references) }),
  effects: {},
}
