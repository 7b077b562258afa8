// The federated graph behind one face: Apollo Server and Apollo Gateway execute queries and mutations, subscriptions.ts the streams.
import { ApolloGateway } from '@apollo/gateway'
import {
  ApolloServer,
  type ApolloServerPlugin,
  type HTTPGraphQLRequest,
  type HTTPGraphQLResponse,
} from '@apollo/server'
import { ApolloServerPluginLandingPageDisabled } from '@apollo/server/plugin/disabled'
import { type ExecutionResult, GraphQLError, type GraphQLFormattedError, type GraphQLSchema } from 'graphql'
import type { ErrorCode } from '../lib/errors.js'
import type { Logger } from '../lib/log.js'
import { presentError } from '../lib/present-error.js'
import type { OperationLimits } from './limits.js'
import { type Operation, type OperationRequest, operationChecker, operationErrors } from './operations.js'
import { isAsyncIterable, mapStream, type SubgraphSource } from './source.js'
import { federatedSubscriptions } from './subscriptions.js'

/** An execution result whose errors may be shown. */
export interface Answer {
  data?: ExecutionResult['data']
  errors?: readonly GraphQLFormattedError[]
  extensions?: Record<string, unknown>
}

/** `refused`: the operation was not begun. */
export type Outcome =
  | { kind: 'refused'; errors: readonly GraphQLFormattedError[] }
  | { kind: 'answer'; answer: Answer }
  | { kind: 'stream'; stream: AsyncIterableIterator<Answer> }

/** Told of every operation that ended (a stream: when it closed). */
export type OperationObserver = (event: {
  operation: 'query' | 'mutation' | 'subscription' | 'refused'
  code: ErrorCode | 'OK'
  seconds: number
}) => void

export interface GraphqlGateway<Context> {
  schema: GraphQLSchema
  /** A query or mutation over plain HTTP, with HTTP's own rules (status, negotiation, no mutation by GET). */
  http(request: HTTPGraphQLRequest, context: Context): Promise<HTTPGraphQLResponse>
  /** Any operation, for transports that stream. */
  operate(request: OperationRequest, newContext: () => Context): Promise<Outcome>
  stop(): Promise<void>
}

export async function startGraphqlGateway<Context extends object>(options: {
  supergraphSdl: string
  sources: ReadonlyMap<string, SubgraphSource<Context>>
  log: Logger
  limits?: OperationLimits
  observe?: OperationObserver
}): Promise<GraphqlGateway<Context>> {
  const { supergraphSdl, sources, log } = options
  const observe = options.observe ?? (() => {})
  const gateway = new ApolloGateway({
    supergraphSdl,
    buildService({ name }) {
      const source = sources.get(name)
      if (!source) throw new Error(`The supergraph names the subgraph ${name}, which has no source`)
      return source
    },
    logger: quiet(log),
  })
  const subscribe = federatedSubscriptions(gateway, sources, log)
  let schema: GraphQLSchema | undefined
  gateway.onSchemaLoadOrUpdate(loaded => {
    schema = loaded.apiSchema
  })
  const server = new ApolloServer<Context>({
    gateway,
    introspection: true,
    // Operations are checked before they come here, and cross-site requests refused (operations.ts, same-origin.ts).
    dangerouslyDisableValidation: true,
    csrfPrevention: false,
    persistedQueries: false,
    stopOnTerminationSignals: false,
    includeStacktraceInErrorResponses: false,
    formatError: (formatted, error) => format(presentError(error, log), formatted.locations),
    plugins: [ApolloServerPluginLandingPageDisabled(), observing(observe)],
    logger: quiet(log),
  })
  await server.start()
  if (!schema) throw new Error('The gateway has started without a schema')
  const check = operationChecker(schema, options.limits)

  async function operate(request: OperationRequest, newContext: () => Context): Promise<Outcome> {
    const started = performance.now()
    let checked: Operation
    try {
      checked = check(request)
    } catch (thrown) {
      const errors = operationErrors(thrown).map(e => format(presentError(e, log)))
      observe({ operation: 'refused', code: firstCode(errors), seconds: secondsSince(started) })
      return { kind: 'refused', errors }
    }
    const { operation } = checked.operation
    if (operation !== 'subscription') return { kind: 'answer', answer: await execute(request, newContext()) }
    const result = await subscribe({
      document: checked.document,
      operationName: request.operationName ?? undefined,
      variables: checked.variables,
      newContext,
    })
    if (!isAsyncIterable<ExecutionResult>(result)) {
      const answer = answerOf(result)
      observe({ operation, code: firstCode(answer.errors), seconds: secondsSince(started) })
      return { kind: 'answer', answer }
    }
    let code: ErrorCode | 'OK' = 'OK'
    const stream = mapStream(
      result,
      event => {
        const answer = answerOf(event)
        if (answer.errors) code = firstCode(answer.errors)
        return answer
      },
      () => observe({ operation, code, seconds: secondsSince(started) }),
    )
    return { kind: 'stream', stream }
  }

  async function execute(request: OperationRequest, contextValue: Context): Promise<Answer> {
    const { body } = await server.executeOperation(
      {
        query: request.query,
        variables: request.variables ?? {},
        ...(request.operationName && { operationName: request.operationName }),
      },
      { contextValue },
    )
    return body.kind === 'single' ? body.singleResult : body.initialResult
  }

  return {
    schema,
    operate,
    async http(request, context) {
      const given = requestOf(request)
      if (!given) return server.executeHTTPGraphQLRequest({ httpGraphQLRequest: request, context: async () => context })
      const started = performance.now()
      try {
        if (check(given).operation.operation === 'subscription')
          throw new GraphQLError(
            'Subscriptions are served over graphql-transport-ws and as server-sent events (Accept: text/event-stream)',
            { extensions: { code: 'BAD_REQUEST' } },
          )
      } catch (thrown) {
        const errors = operationErrors(thrown).map(e => format(presentError(e, log)))
        observe({ operation: 'refused', code: firstCode(errors), seconds: secondsSince(started) })
        return refusal(request, errors)
      }
      return server.executeHTTPGraphQLRequest({ httpGraphQLRequest: request, context: async () => context })
    },
    async stop() {
      await server.stop()
      await Promise.all([...sources.values()].map(source => source.close()))
    },
  }

  function answerOf({ data, errors }: ExecutionResult): Answer {
    return errors ? { data: data ?? null, errors: errors.map(e => format(presentError(e, log))) } : { data }
  }
}

/** Text and variables of an HTTP request; undefined where it has none, which Apollo Server then says in its words. */
function requestOf({ method, body, search }: HTTPGraphQLRequest): OperationRequest | undefined {
  const isRecord = (v: unknown): v is Record<string, unknown> =>
    typeof v === 'object' && v !== null && !Array.isArray(v)
  if (method === 'POST') {
    if (!isRecord(body) || typeof body.query !== 'string' || !body.query) return undefined
    const { query, operationName, variables } = body
    if (operationName != null && typeof operationName !== 'string') return undefined
    if (variables != null && !isRecord(variables)) return undefined
    return { query, operationName, variables }
  }
  const parameters = new URLSearchParams(search)
  const query = parameters.get('query')
  if (!query) return undefined
  try {
    const variables: unknown = JSON.parse(parameters.get('variables') || '{}')
    return isRecord(variables) ? { query, operationName: parameters.get('operationName'), variables } : undefined
  } catch {
    return undefined
  }
}

function refusal(request: HTTPGraphQLRequest, errors: readonly GraphQLFormattedError[]): HTTPGraphQLResponse {
  const accepts = request.headers.get('accept') ?? ''
  const type = accepts.includes('application/graphql-response+json')
    ? 'application/graphql-response+json'
    : 'application/json'
  const headers = new Map([
    ['content-type', `${type}; charset=utf-8`],
    ['cache-control', 'no-store'],
  ])
  return {
    status: 400,
    headers,
    body: { kind: 'complete', string: `${JSON.stringify({ errors })}\n` },
  } as HTTPGraphQLResponse
}

/** The error as JSON, without what is for HTTP only. */
function format(error: GraphQLError, locations = error.locations): GraphQLFormattedError {
  const { http: _, ...extensions } = error.extensions
  return {
    message: error.message,
    ...(locations?.length && { locations }),
    ...(error.path && { path: error.path }),
    extensions,
  }
}

const firstCode = (errors: readonly GraphQLFormattedError[] | undefined) =>
  (errors?.[0]?.extensions?.code as ErrorCode | undefined) ?? 'OK'
const secondsSince = (started: number) => (performance.now() - started) / 1000

/** Tells the observer of everything that Apollo Server executes or refuses. */
function observing<Context extends object>(observe: OperationObserver): ApolloServerPlugin<Context> {
  return {
    async requestDidStart() {
      const started = performance.now()
      return {
        async willSendResponse({ operation, response: { body } }) {
          const { errors } = body.kind === 'single' ? body.singleResult : body.initialResult
          const code = firstCode(errors)
          observe({ operation: operation?.operation ?? 'refused', code, seconds: secondsSince(started) })
        },
      }
    },
  }
}

/** Apollo's own words go to the log where they matter: it tells every reload and every deprecation at level info. */
function quiet(log: Logger) {
  return {
    debug: (message?: unknown) => log.trace(message),
    info: (message?: unknown) => log.debug(message),
    warn: (message?: unknown) => log.warn(message),
    error: (message?: unknown) => log.error(message),
  }
}
