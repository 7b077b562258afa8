// A type-graphql schema becomes a Federation 2 subgraph: its SDL and its executable schema.
import 'reflect-metadata'
import { buildSubgraphSchema } from '@apollo/subgraph'
import { printSchemaWithDirectives } from '@graphql-tools/utils'
import { type GraphQLSchema, parse } from 'graphql'
import { type BuildSchemaOptions, buildSchemaSync, createResolversMap } from 'type-graphql'
import type { RequestContext } from './platform.js'
import { BigIntScalar, DateTimeScalar, JsonScalar } from './scalars.js'

/** Without this line the SDL would be read as Federation 1. */
const link =
  'extend schema @link(url: "https://specs.apollo.dev/federation/v2.12", import: ["@key", "@shareable", "@external", "@requires", "@provides", "@override", "@inaccessible", "@tag"])'

/** type-graphql wants one wherever there are subscriptions; ours bring their own `subscribe`, which bounds what a slow reader holds. */
const noTopics = {
  publish() {},
  subscribe(): never {
    throw new Error('A subscription without its own `subscribe`')
  },
}

/** type-graphql has no place for these; the same in every subgraph, so that composition has one text. */
const rootDescriptions = {
  Query: 'What can be read: models, jobs, capabilities, recipes, storage, and any of them by `node(id:)`.',
  Mutation:
    'What can be changed. Each takes one `input`, and answers with what it changed or the job it queued, and with `userErrors`.',
  Subscription: 'What can be followed as it happens: jobs, and text while it is generated.',
}

function describeRoots(schema: GraphQLSchema): void {
  for (const type of [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()])
    if (type) type.description = rootDescriptions[type.name as keyof typeof rootDescriptions]
}

/** `__resolveReference` per entity type: the reference with its key fields comes in, an instance of the type's class or null goes out. */
export type References = Record<
  string,
  (reference: { id: string }, context: RequestContext) => object | null | Promise<object | null>
>

/**
 * @param options.resolvers resolver classes of this subgraph only
 * @param options.orphanedTypes entities that no resolver returns (references that this subgraph adds fields to)
 * @param references one entry per entity that this subgraph resolves by its key; calls of one `_entities` fetch come in one
 * tick, so a DataLoader batches them. `@requires` fields are in the reference: copy them.
 */
export function buildFederatedSchema(
  options: Pick<BuildSchemaOptions, 'resolvers' | 'orphanedTypes'>,
  references: References = {},
): { schema: GraphQLSchema; sdl: string } {
  const base = buildSchemaSync({
    skipCheck: true,
    validate: false,
    scalarsMap: [{ type: Date, scalar: DateTimeScalar }],
    // An empty list keeps type-graphql from adding classes of other subgraphs in the same process.
    orphanedTypes: [],
    pubSub: noTopics,
    ...options,
  })
  describeRoots(base)
  const sdl = `${link}\n\n${printSchemaWithDirectives(base)}\n`
  const resolvers = createResolversMap(base) as Record<string, object>
  for (const [type, resolve] of Object.entries(references)) {
    resolvers[type] = { ...resolvers[type], __resolveReference: resolve }
  }
  type Module = Parameters<typeof buildSubgraphSchema>[0]
  return { sdl, schema: buildSubgraphSchema({ typeDefs: parse(sdl), resolvers } as Module) }
}

export { BigIntScalar, DateTimeScalar, JsonScalar }
