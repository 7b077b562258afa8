// Federated subscriptions: the owning subgraph's stream is the first fetch of the plan, and every event runs the rest of the plan.
//
// Apollo's planner plans subscriptions (primary fetch + rest) but its executor refuses them. So each event is executed as a
// query plan whose first fetch, from a made-up service, answers with the event; the gateway's own executor does the rest:
// entities of other subgraphs, aliases, variables, conditions, error paths, result shape.

import { operationFromDocument, type Schema } from '@apollo/federation-internals'
import { type ApolloGateway, buildOperationContext, executeQueryPlan } from '@apollo/gateway'
import type { FetchNode, PlanNode, QueryPlan, QueryPlanner } from '@apollo/query-planner'
import { type DocumentNode, type ExecutionResult, GraphQLError, type GraphQLSchema } from 'graphql'
import type { Logger } from '../lib/log.js'
import { presentError } from '../lib/present-error.js'
import { isAsyncIterable, mapStream, type SubgraphSource } from './source.js'

/** Name of the service that answers with the event; no subgraph can have it. */
const eventService = '__event__'
const maximumPlans = 500
/** Of one document: readers of one stream are at most some events apart, those further behind make their own. */
const maximumResults = 64
/** Characters of an event whose result is kept for others: pieces of text are small, and 64 of them are 1 MB at most. */
const maximumSharedEvent = 8192

interface Generation {
  planner: QueryPlanner
  api: Schema
  schema: GraphQLSchema
  supergraph: GraphQLSchema
  /** By document and operation name: parsed documents are cached, so the object is the key. */
  plans: Map<DocumentNode, Map<string, QueryPlan>>
  results: SharedResults
}

/** By document while it has readers, and by what else makes a result. */
type SharedResults = Map<DocumentNode, { readers: number; results: Map<string, Promise<ExecutionResult>> }>

export interface SubscriptionRequest<Context> {
  document: DocumentNode
  operationName?: string
  variables: Record<string, unknown>
  /** A fresh context for each event and each fetch of the source. */
  newContext: () => Context
}

type PlanOptions = Parameters<typeof executeQueryPlan>[2]

/**
 * Hangs onto the gateway before it loads: it hears of the supergraph and of every update. Streams opened before an update go on
 * with the plan they began with.
 * @returns opens a stream for a valid subscription operation. An event whose fields failed is a result with errors and the stream goes on;
 * a source that breaks is one last result with an error. `return()` closes the upstream.
 */
export function federatedSubscriptions<Context extends object>(
  gateway: ApolloGateway,
  sources: ReadonlyMap<string, SubgraphSource<Context>>,
  log: Logger,
): (request: SubscriptionRequest<Context>) => Promise<AsyncIterableIterator<ExecutionResult> | ExecutionResult> {
  let current: Generation | undefined
  gateway.onSchemaLoadOrUpdate(({ apiSchema }) => {
    // The only access to the planner there is; the reason why the gateway's exact version is pinned.
    const planner = gateway.__testing().queryPlanner
    if (!planner) throw new Error('The gateway has loaded a supergraph but no query planner')
    current = {
      planner,
      schema: apiSchema,
      api: planner.supergraph.apiSchema(),
      supergraph: planner.supergraph.schema.toGraphQLJSSchema(),
      plans: new Map(),
      results: new Map(),
    }
  })

  return async ({ document, operationName, variables, newContext }) => {
    if (!current) throw new Error('No supergraph is loaded yet')
    const { api, schema, supergraph } = current
    const failed = (error: unknown): ExecutionResult => ({ errors: [presentError(error, log)] })

    let plan: QueryPlan
    try {
      plan = planFor(current, document, operationName)
    } catch (error) {
      // The planner refuses what it cannot plan, such as @include on a subscription's root field.
      const message = error instanceof Error ? error.message : String(error)
      return failed(new GraphQLError(message, { extensions: { code: 'GRAPHQL_VALIDATION_FAILED' } }))
    }
    if (plan.node?.kind !== 'Subscription')
      return failed(new GraphQLError('Not a subscription', { extensions: { code: 'BAD_REQUEST' } }))
    const { primary, rest } = plan.node
    const source = sources.get(primary.serviceName)
    if (!source) return failed(new Error(`No source for the subgraph ${primary.serviceName}`))

    const events = await source
      .subscribe(
        {
          query: primary.operation,
          operationName: primary.operationName,
          variables: Object.fromEntries(
            (primary.variableUsages ?? []).filter(name => Object.hasOwn(variables, name)).map(v => [v, variables[v]]),
          ),
        },
        newContext,
      )
      .catch(failed)
    if (!isAsyncIterable<ExecutionResult>(events)) return events

    const eventPlan = planOfEvent(primary, rest)
    const fetched = Object.fromEntries(sources) as Record<string, SubgraphSource>
    const operation = buildOperationContext({ schema, operationDocument: document, operationName })
    const hydrate = async (event: ExecutionResult): Promise<ExecutionResult> => {
      const services = { ...fetched, [eventService]: { process: async () => event } }
      const request = {
        request: { query: primary.operation, variables, operationName },
        context: newContext(),
        metrics: {},
        logger: log,
        schema,
        document,
        source: primary.operation,
        cache: undefined,
      } as unknown as PlanOptions
      const result = await executeQueryPlan(eventPlan, services as never, request, operation, supergraph, api)
      const { errors, ...shown } = result as ExecutionResult
      return errors ? { ...shown, errors: errors.map(error => presentError(error, log)) } : shown
    }
    // With nothing left to fetch, the event alone makes the result: readers of one operation share it.
    if (rest) return mapStream(endWithError(events, failed), hydrate)
    const shared = sharedResults(current.results, document, [operationName, variables], hydrate)
    return mapStream(endWithError(events, failed), shared.once, shared.leave)
  }
}

/** `once` is `hydrate` run once for all readers of an operation who get the same event at about the same time; the last that leaves drops the results. */
function sharedResults(
  all: SharedResults,
  document: DocumentNode,
  request: readonly unknown[],
  hydrate: (event: ExecutionResult) => Promise<ExecutionResult>,
) {
  const own = all.get(document) ?? { readers: 0, results: new Map<string, Promise<ExecutionResult>>() }
  all.set(document, own)
  own.readers++
  const { results } = own
  const prefix = JSON.stringify(request)
  return {
    once(event: ExecutionResult): Promise<ExecutionResult> {
      // Errors are not made of text alone.
      if (event.errors) return hydrate(event)
      const text = JSON.stringify(event.data)
      if (text.length > maximumSharedEvent) return hydrate(event)
      const key = `${prefix}${text}`
      const known = results.get(key)
      if (known) return known
      const made = hydrate(event)
      if (results.size >= maximumResults) results.delete(results.keys().next().value as string)
      results.set(key, made)
      made.catch(() => results.delete(key))
      return made
    },
    leave() {
      if (--own.readers === 0) all.delete(document)
    },
  }
}

function planFor({ planner, api, plans }: Generation, document: DocumentNode, operationName = ''): QueryPlan {
  const known = plans.get(document)?.get(operationName)
  if (known) return known
  const plan = planner.buildQueryPlan(
    operationFromDocument(api, document, { operationName: operationName || undefined }),
  )
  if (plans.size >= maximumPlans) plans.delete(plans.keys().next().value as DocumentNode)
  plans.set(document, (plans.get(document) ?? new Map<string, QueryPlan>()).set(operationName, plan))
  return plan
}

function planOfEvent(primary: FetchNode, rest: PlanNode | undefined): QueryPlan {
  const head: FetchNode = { ...primary, serviceName: eventService }
  if (!rest) return { kind: 'QueryPlan', node: head }
  const tail = rest.kind === 'Sequence' ? rest.nodes : [rest]
  return { kind: 'QueryPlan', node: { kind: 'Sequence', nodes: [head, ...tail] } }
}

/** A stream that breaks says so in a last result, then ends. */
function endWithError(
  events: AsyncIterable<ExecutionResult>,
  failed: (error: unknown) => ExecutionResult,
): AsyncIterable<ExecutionResult> {
  const upstream = events[Symbol.asyncIterator]()
  let broken = false
  return {
    [Symbol.asyncIterator]: () => ({
      async next() {
        if (broken) return { done: true, value: undefined }
        try {
          return await upstream.next()
        } catch (error) {
          broken = true
          return { done: false, value: failed(error) }
        }
      },
      async return() {
        await upstream.return?.()
        return { done: true, value: undefined }
      },
    }),
  }
}
