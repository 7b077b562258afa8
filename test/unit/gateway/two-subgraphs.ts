// Two small subgraphs, joined by one entity: what the gateway's mechanics are tested with.
import { composeServices } from '@apollo/composition'
import { buildSubgraphSchema } from '@apollo/subgraph'
import { type GraphQLSchema, parse } from 'graphql'
import { boundedQueue } from '../../../gateway/bounded-queue.js'
import { DomainError } from '../../../lib/errors.js'

const link =
  'extend schema @link(url: "https://specs.apollo.dev/federation/v2.12", import: ["@key", "@shareable", "@requires", "@external"])\n'

const jobsSdl = `${link}
  type Query { job(id: ID!): Job  broken: String  missing: Job }
  type Mutation { retry(id: ID!): Job }
  type Subscription { jobProgress(id: ID!): Job  breaks: Job }
  type Job @key(fields: "id") { id: ID! completed: Int! model: Model visits: Int! blob: String! }
  type Model @key(fields: "id", resolvable: false) { id: ID! }`

const modelsSdl = `${link}
  type Query { models(first: Int, last: Int, after: String): ModelConnection! }
  type ModelConnection { nodes: [Model!]! totalCount: Int! }
  type Model @key(fields: "id") { id: ID! name: String students(first: Int): ModelConnection! parent: Model layers: [Layer!]! visits: Int! }
  type Layer { index: Int! model: Model! }`

/** Context as the fixture's resolvers see it; `visits` counts within one context. */
export interface FixtureContext {
  visits: { count: number }
}

export interface Fixture {
  supergraphSdl: string
  schemas: Map<string, GraphQLSchema>
  newContext(): FixtureContext
  /** Feeds all open jobProgress streams. */
  publish(completed: number): void
  /** Ends them. */
  finish(): void
  /** Streams open at the source. */
  open(): number
  /** Events that the source has handed out, over all streams. */
  pulled(): number
}

export function twoSubgraphs(): Fixture {
  type Event = { id: string; completed: number }
  const streams = new Set<ReturnType<typeof boundedQueue<Event>>>()
  let pulled = 0
  const model = (id: string) => ({ __typename: 'Model', id })
  const modelRow = (id: string) => ({
    id,
    name: `model ${id}`,
    layers: [0, 1].map(index => ({ index, model: { id } })),
  })
  const page = () => ({ nodes: [modelRow('1'), modelRow('2')], totalCount: 2 })
  const visits = (_: unknown, __: unknown, context: FixtureContext) => ++context.visits.count
  const jobs = {
    Query: {
      job: (_: unknown, { id }: { id: string }) => ({ id, completed: 3 }),
      broken: () => {
        throw new TypeError('a secret of the inside')
      },
      missing: () => {
        throw new DomainError('NOT_FOUND', 'No Job has the id "x"', { field: ['id'] })
      },
    },
    Mutation: { retry: (_: unknown, { id }: { id: string }) => ({ id, completed: 0 }) },
    Subscription: {
      jobProgress: {
        subscribe(_: unknown, { id }: { id: string }) {
          if (id === 'x') throw new DomainError('NOT_FOUND', 'No Job has the id "x"')
          const queue = boundedQueue<Event>(100_000, () => streams.delete(queue))
          streams.add(queue)
          const { next } = queue.stream
          queue.stream.next = async () => {
            const result = await next()
            if (!result.done) pulled++
            return result
          }
          queue.push({ id, completed: 0 })
          return queue.stream
        },
        resolve: (event: Event) => event,
      },
      breaks: {
        subscribe() {
          const queue = boundedQueue<Event>(10, () => {})
          queue.push({ id: '1', completed: 1 })
          queue.fail(new TypeError('a secret of the source'))
          return queue.stream
        },
        resolve: (event: Event) => event,
      },
    },
    Job: {
      model: (job: Event) => (job.id === 'none' ? null : model(job.id)),
      visits,
      blob: () => 'x'.repeat(1 << 16),
    },
  }
  const models = {
    Query: { models: page },
    Model: {
      __resolveReference: ({ id }: { id: string }) => {
        if (id === 'gone') throw new TypeError('a secret of models')
        return modelRow(id)
      },
      students: page,
      visits,
    },
  }
  const sdls = { jobs: jobsSdl, models: modelsSdl }
  const resolvers = { jobs, models }
  const composed = composeServices(
    Object.entries(sdls).map(([name, sdl]) => ({ name, url: `http://${name}/graphql`, typeDefs: parse(sdl) })),
  )
  if (composed.errors) throw new Error(composed.errors.map(e => e.message).join('\n'))
  const schemas = new Map(
    Object.entries(sdls).map(([name, sdl]) => [
      name,
      buildSubgraphSchema({
        typeDefs: parse(sdl),
        resolvers: resolvers[name as keyof typeof resolvers] as never,
      }),
    ]),
  )
  return {
    supergraphSdl: composed.supergraphSdl!,
    schemas,
    newContext: () => ({ visits: { count: 0 } }),
    publish(completed) {
      for (const s of streams) s.push({ id: '7', completed })
    },
    finish() {
      for (const s of streams) s.end()
      streams.clear()
    },
    open: () => streams.size,
    pulled: () => pulled,
  }
}
