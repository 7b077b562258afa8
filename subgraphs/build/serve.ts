// Runs one subgraph as a process of its own: GraphQL over HTTP and graphql-transport-ws at /graphql, for a gateway in another process.
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import { type DocumentNode, type ExecutionResult, execute, GraphQLError, parse, validate } from 'graphql'
import { useServer } from 'graphql-ws/use/ws'
import { WebSocketServer } from 'ws'
import { openDatabase } from '../../db/data-source.js'
import { defaultTenantId } from '../../db/scope.js'
import { type Env, readEnv } from '../../lib/env.js'
import { type Logger, makeLogger } from '../../lib/log.js'
import { presentError } from '../../lib/present-error.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import { followerQueue } from './follower-queue.js'
import type { Platform, RequestContext } from './platform.js'
import type { Subgraph } from './subgraph.js'

/** Parsed operations kept: those of query plans, which are few. */
const maximumDocuments = 1000
/** Largest request: inputs are small, `_entities` fetches have at most some thousand ids. */
const bodyLimit = 4 << 20

export interface ServedSubgraph {
  port: number
  close(): Promise<void>
}

/**
 * Opens the data folder beside the platform's process (which runs the jobs) and listens on HOST:PORT.
 * @returns once requests are answered
 */
export async function serveSubgraph(
  subgraph: Subgraph,
  env: Env = readEnv(),
  log: Logger = makeLogger(subgraph.name),
): Promise<ServedSubgraph> {
  await mkdir(env.HARTONOMOUS_DATA, { recursive: true })
  const db = await openDatabase({ folder: env.HARTONOMOUS_DATA })
  const payloads = await openFilePayloadStore(join(env.HARTONOMOUS_DATA, 'payloads'))
  const platform: Platform = { env, log, db, payloads, queue: followerQueue(db, log) }
  await platform.queue.start()
  await subgraph.start?.(platform)

  const newContext = (signal?: AbortSignal): RequestContext => ({
    platform,
    tenantId: defaultTenantId,
    loaders: new Map(),
    signal,
  })
  const present = <R extends ExecutionResult>(result: R): R =>
    result.errors ? { ...result, errors: result.errors.map(error => presentError(error, log)) } : result
  const answer = answerer(subgraph, present)

  const app = Fastify({ bodyLimit, forceCloseConnections: true })
  app.get('/livez', () => ({ subgraph: subgraph.name }))
  app.post('/graphql', async (request, reply) => {
    const gone = new AbortController()
    reply.raw.once('close', () => gone.abort())
    return answer(request.body as OperationBody, newContext(gone.signal))
  })
  const sockets = new WebSocketServer({ server: app.server, path: '/graphql', maxPayload: bodyLimit })
  const streams = useServer(
    {
      schema: subgraph.schema,
      context: () => newContext(),
      onNext(_socket, _id, _message, { contextValue }, result) {
        // One context serves all events of a stream: what was loaded for this one must not be shown with the next.
        ;(contextValue as RequestContext).loaders.clear()
        return present(result)
      },
      onError: (_socket, _id, _message, errors) => errors.map(error => presentError(error, log)),
    },
    sockets,
  )
  await app.listen({ port: env.PORT, host: env.HOST })
  const address = app.server.address()
  const port = typeof address === 'object' && address ? address.port : env.PORT
  log.info({ host: env.HOST, port }, `${subgraph.name} subgraph listens`)

  return {
    port,
    async close() {
      await platform.queue.stop()
      await streams.dispose()
      await app.close()
      await db.close()
    },
  }
}

/** The same until SIGTERM or SIGINT: what a subgraph's main.ts calls. */
export async function runSubgraph(subgraph: Subgraph): Promise<void> {
  const served = await serveSubgraph(subgraph)
  const stop = () => void served.close().then(() => process.exit(0))
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
}

interface OperationBody {
  query?: unknown
  variables?: Record<string, unknown> | null
  operationName?: string | null
}

function answerer(subgraph: Subgraph, present: (result: ExecutionResult) => ExecutionResult) {
  const documents = new Map<string, DocumentNode>()
  /** Parsed and validated; a gateway sends the same texts again and again. */
  function prepare(query: string): DocumentNode {
    const known = documents.get(query)
    if (known) return known
    const document = parse(query, { noLocation: true })
    const [invalid] = validate(subgraph.schema, document)
    if (invalid) throw new GraphQLError(invalid.message, { extensions: { code: 'GRAPHQL_VALIDATION_FAILED' } })
    if (documents.size >= maximumDocuments) documents.clear()
    documents.set(query, document)
    return document
  }
  return async (body: OperationBody | undefined, contextValue: RequestContext): Promise<ExecutionResult> => {
    if (typeof body?.query !== 'string')
      return { errors: [new GraphQLError('The body needs a query', { extensions: { code: 'BAD_REQUEST' } })] }
    let document: DocumentNode
    try {
      document = prepare(body.query)
    } catch (error) {
      if (!(error instanceof GraphQLError)) throw error
      const code = error.extensions.code ?? 'GRAPHQL_PARSE_FAILED'
      return present({ errors: [new GraphQLError(error.message, { extensions: { code } })] })
    }
    const { variables: variableValues, operationName } = body
    return present(await execute({ schema: subgraph.schema, document, variableValues, operationName, contextValue }))
  }
}
