// The one port: GraphQL over HTTP, WebSocket and SSE, the explorer, downloads, health, metrics. Stops by draining.
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { HeaderMap } from '@apollo/server'
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify'
import type { ErrorCode } from '../lib/errors.js'
import type { Logger } from '../lib/log.js'
import { presentError } from '../lib/present-error.js'
import { eventStreams } from './event-stream.js'
import { type ExplorerPage, explorerPage } from './explorer.js'
import { exportDownloads, type FinishedExport } from './exports.js'
import type { GraphqlGateway } from './graphql-gateway.js'
import type { gatewayMetrics } from './metrics.js'
import type { OperationRequest } from './operations.js'
import type { RunQuery } from './pictures/picture-data.js'
import { pictureRoutes } from './pictures/picture-routes.js'
import { refuseForeign } from './same-origin.js'
import { operationSocket, type WebSocketLimits } from './websocket.js'

/** Largest request body in bytes; operations are text. */
const bodyLimit = 1 << 20
/** Time that running requests get when the server stops. */
const drainMs = 8_000

export interface ServerOptions<Context extends object> {
  gateway: GraphqlGateway<Context>
  /** One per request and per event of a stream. `signal` fires when the client has gone. */
  newContext: (signal: AbortSignal) => Context
  metrics: ReturnType<typeof gatewayMetrics>
  /** Throws what keeps the platform from serving. */
  checkReady: () => Promise<void>
  dataFolder: string
  finishedExport: FinishedExport
  log: Logger
  webSocketLimits?: Partial<WebSocketLimits>
}

export interface GatewayServer {
  /** `http://127.0.0.1:4000` */
  url: string
  /** Refuses what is new, ends streams, lets running requests end (8 s). */
  drain(): Promise<void>
}

/** @throws the operating system's error where the port cannot be had (EADDRINUSE, EACCES) */
export async function startServer<Context extends object>(
  address: { host: string; port: number },
  options: ServerOptions<Context>,
): Promise<GatewayServer> {
  const { gateway, newContext, metrics, log } = options
  const loopback = ['127.0.0.1', 'localhost', '::1'].includes(address.host)
  const state = { draining: false }
  let explorer: Promise<ExplorerPage> | undefined
  const webSockets = operationSocket(gateway, {
    newContext,
    log,
    limits: options.webSocketLimits,
    streams: metrics.streams('websocket'),
  })
  const runQuery: RunQuery = async (query, variables, signal) => {
    const outcome = await gateway.operate({ query, variables }, () => newContext(signal))
    if (outcome.kind === 'stream') throw new Error('A query was answered by a stream')
    return outcome.kind === 'answer' ? outcome.answer : { errors: outcome.errors }
  }
  const sse = eventStreams(metrics.streams('sse'))

  // A model's name of 200 characters fits into a picture's address.
  const routerOptions = { maxParamLength: 500 }
  const app = Fastify({ bodyLimit, forceCloseConnections: 'idle', exposeHeadRoutes: false, routerOptions })
  // JSON only: what a form of another site can send (text/plain) is not taken.
  app.removeContentTypeParser('text/plain')

  app.addHook('onRequest', async (request, reply) => {
    const refused = refuseForeign(request.headers, loopback)
    if (refused) return sendError(reply, 403, 'FORBIDDEN_ORIGIN', refused)
    if (state.draining && request.url.startsWith('/graphql'))
      return sendError(reply.header('connection', 'close'), 503, 'SHUTTING_DOWN', 'The server is stopping')
  })
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'unknown'
    metrics.request(request.method, route, reply.statusCode, reply.elapsedTime / 1000)
  })
  app.setErrorHandler((error: FastifyError, _request, reply) => {
    const status = error.statusCode ?? 500
    if (status === 413)
      return sendError(reply, 413, 'OPERATION_TOO_LARGE', `The request has more than ${bodyLimit} bytes`)
    if (status >= 400 && status < 500) return sendError(reply, status, 'BAD_REQUEST', error.message)
    const shown = presentError(error, log)
    return reply.code(500).send({ errors: [shown.toJSON()] })
  })
  app.setNotFoundHandler((request, reply) =>
    sendError(reply, 404, 'NOT_FOUND', `Nothing is at ${request.url.slice(0, 200)}; the graph is at /graphql`),
  )

  app.get('/livez', async () => 'ok\n')
  app.get('/readyz', async (_request, reply) => {
    if (state.draining) return reply.code(503).send('stopping\n')
    try {
      await options.checkReady()
      return 'ready\n'
    } catch (error) {
      return reply.code(503).send(`${error instanceof Error ? error.message : String(error)}\n`)
    }
  })
  app.get('/metrics', async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  )
  app.route({
    method: ['GET', 'HEAD'],
    url: '/exports/*',
    handler: exportDownloads(options.dataFolder, options.finishedExport),
  })
  app.get('/pictures/models/:id/:file', pictureRoutes(runQuery, goneSignal))
  app.get('/', async (_request, reply) => reply.redirect('/graphql'))
  app.route({ method: ['GET', 'POST'], url: '/graphql', handler: serveGraphql })
  app.route({
    method: ['HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
    url: '/graphql',
    handler: (request, reply) =>
      sendError(
        reply.header('allow', 'GET, POST'),
        405,
        'BAD_REQUEST',
        `${request.method} is not served; use GET or POST`,
      ),
  })

  async function serveGraphql(request: FastifyRequest, reply: FastifyReply) {
    const accept = request.headers.accept ?? '*/*'
    if (request.method === 'GET' && accept.includes('text/html')) return serveExplorer(request, reply)
    const signal = goneSignal(reply)
    if (accept.includes('text/event-stream')) {
      const operation = streamedOperation(request)
      if (typeof operation === 'string') return sendError(reply, 400, 'BAD_REQUEST', operation)
      reply.hijack()
      try {
        await sse.serve(await gateway.operate(operation, () => newContext(signal)), reply.raw)
      } catch (error) {
        // Nobody else ends a hijacked response.
        presentError(error, log)
        reply.raw.destroy()
      }
      return
    }
    const headers = new HeaderMap()
    for (const [name, value] of Object.entries(request.headers))
      if (value !== undefined) headers.set(name, String(value))
    const search = new URL(request.url, 'http://localhost').search
    const response = await gateway.http(
      { method: request.method, headers, search, body: request.body },
      newContext(signal),
    )
    reply.code(response.status ?? 200)
    for (const [name, value] of response.headers) reply.header(name, value)
    if (response.body.kind === 'complete') return reply.send(response.body.string)
    throw new Error('Incremental delivery is not part of this graph')
  }

  async function serveExplorer(request: FastifyRequest, reply: FastifyReply) {
    explorer ??= explorerPage()
    const page = await explorer
    reply.headers(page.headers)
    if (!request.headers['accept-encoding']?.includes('gzip')) return reply.send(page.html)
    return reply.header('content-encoding', 'gzip').send(page.compressed)
  }

  app.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    const path = request.url?.split('?')[0]
    const refused = refuseForeign(request.headers, loopback)
    if (state.draining) return refuseUpgrade(socket, '503 Service Unavailable')
    if (path !== '/graphql') return refuseUpgrade(socket, '404 Not Found')
    if (refused) return refuseUpgrade(socket, '403 Forbidden')
    webSockets.upgrade(request, socket, head)
  })

  await app.listen({ host: address.host, port: address.port })
  const { port } = app.server.address() as AddressInfo
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return {
    url: `http://${host}:${port}`,
    async drain() {
      state.draining = true
      webSockets.close()
      sse.close()
      const late = setTimeout(() => app.server.closeAllConnections(), drainMs)
      await app.close()
      clearTimeout(late)
    },
  }
}

const sendError = (reply: FastifyReply, status: number, code: ErrorCode, message: string) =>
  reply.code(status).send({ errors: [{ message, extensions: { code } }] })

function refuseUpgrade(socket: Duplex, status: string) {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

/** Fires when the client closes the connection before the answer has left. */
function goneSignal(reply: FastifyReply): AbortSignal {
  const gone = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort()
  })
  return gone.signal
}

/** The operation of a request for an event stream, or what is wrong with it. */
function streamedOperation(request: FastifyRequest): OperationRequest | string {
  const given = (request.method === 'GET' ? request.query : request.body) as Record<string, unknown> | null | undefined
  const { query, operationName = null, variables: text = null } = given ?? {}
  if (typeof query !== 'string' || !query)
    return 'The request has no operation: send { query, variables, operationName }'
  if (operationName !== null && typeof operationName !== 'string') return 'operationName is not a text'
  let variables: unknown = text
  try {
    if (request.method === 'GET' && typeof text === 'string') variables = JSON.parse(text || 'null')
  } catch {
    return 'variables is not JSON'
  }
  if (variables !== null && (typeof variables !== 'object' || Array.isArray(variables)))
    return 'variables is not an object'
  return {
    query,
    operationName,
    variables: variables as Record<string, unknown> | null,
    readOnly: request.method === 'GET',
  }
}
