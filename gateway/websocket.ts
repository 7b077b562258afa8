// Operations over graphql-transport-ws: bounded per connection, in memory and in number.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ExecutionResult, GraphQLError, parse } from 'graphql'
import { CloseCode, handleProtocols, makeServer } from 'graphql-ws'
import { type WebSocket, WebSocketServer } from 'ws'
import type { Logger } from '../lib/log.js'
import { presentError } from '../lib/present-error.js'
import type { GraphqlGateway, Outcome } from './graphql-gateway.js'
import { mapStream } from './source.js'

export interface WebSocketLimits {
  /** Operations open at once in one connection. */
  operations: number
  /** Largest message of a client, in bytes. */
  messageBytes: number
  /** Unsent bytes at which a connection is ended. Events wait for the socket one by one; this catches pongs and many streams at once. */
  unsentBytes: number
  /** A ping this often; a client that has not answered by the next is gone. */
  keepAliveMs: number
}
export const webSocketLimits: WebSocketLimits = {
  operations: 100,
  messageBytes: 1 << 20,
  unsentBytes: 16 << 20,
  keepAliveMs: 12_000,
}

/** What graphql-ws is told of every operation: it needs a document that says "this may be a stream". */
const anySubscription = parse('subscription { any }')

export interface OperationSocket {
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  /** Connections now. */
  size(): number
  /** Ends all streams and connections: 1001, after which clients reconnect elsewhere or later. */
  close(): void
}

/**
 * A stream's next event is asked of its source only once the last one has left the process (graphql-ws awaits `send`), so a client that
 * reads slowly holds one event per stream here, and the source supersedes or bounds the rest.
 */
export function operationSocket<Context extends object>(
  gateway: GraphqlGateway<Context>,
  options: {
    newContext: (signal: AbortSignal) => Context
    log: Logger
    limits?: Partial<WebSocketLimits>
    streams?: { opened(): void; closed(): void }
  },
): OperationSocket {
  const limits = { ...webSocketLimits, ...options.limits }
  const { log, streams } = options
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.messageBytes,
    perMessageDeflate: false,
    handleProtocols,
  })

  interface Extra {
    gone: AbortSignal
  }
  // Carries an outcome through graphql-ws, which would otherwise parse, validate and execute by itself.
  const outcomes = new WeakMap<object, Outcome>()
  const server = makeServer<Record<string, unknown>, Extra>({
    async onSubscribe({ subscriptions, extra }, _id, { query, operationName, variables }) {
      const open = Object.keys(subscriptions).length
      if (open > limits.operations)
        return [
          new GraphQLError(`This connection has ${limits.operations} operations open, no more are allowed`, {
            extensions: { code: 'TOO_MANY_SUBSCRIPTIONS' },
          }),
        ]
      const outcome = await gateway.operate({ query, operationName, variables }, () => options.newContext(extra.gone))
      if (outcome.kind === 'refused') return outcome.errors.map(e => new GraphQLError(e.message, e))
      const args = { schema: gateway.schema, document: anySubscription, contextValue: {} }
      outcomes.set(args.contextValue, outcome)
      return args
    },
    // Every operation takes this way, since the document given above is a subscription; the outcome may be a single answer.
    subscribe({ contextValue }) {
      const outcome = outcomes.get(contextValue as object)
      if (outcome?.kind === 'stream') {
        streams?.opened()
        return mapStream(
          outcome.stream,
          answer => answer as ExecutionResult,
          () => streams?.closed(),
        )
      }
      return (outcome?.kind === 'answer' ? outcome.answer : { errors: [] }) as ExecutionResult
    },
    // Answers hold errors in their JSON form already.
    onNext: (_context, _id, _payload, _args, result) => result,
    onError: (_context, _id, _payload, errors) => errors.map(error => presentError(error, log).toJSON()),
  })

  sockets.on('connection', (socket: WebSocket) => {
    const gone = new AbortController()
    let alive = true
    const overflowing = () => {
      if (socket.bufferedAmount <= limits.unsentBytes) return false
      log.warn({ bytes: socket.bufferedAmount }, 'connection ended: the client does not read')
      socket.terminate()
      return true
    }
    const pings = setInterval(() => {
      if (!alive) return socket.terminate()
      alive = false
      if (!overflowing()) socket.ping()
    }, limits.keepAliveMs)
    socket.on('pong', () => {
      alive = true
    })
    socket.on('ping', overflowing)
    socket.on('error', error => log.debug({ err: error }, 'connection failed'))
    const closed = server.opened(
      {
        protocol: socket.protocol,
        send: data =>
          new Promise<void>((resolve, reject) => {
            if (socket.readyState !== socket.OPEN || overflowing()) return resolve()
            socket.send(data, error => (error && socket.readyState === socket.OPEN ? reject(error) : resolve()))
          }),
        close: (code, reason) => socket.close(code, reason),
        onMessage: handle =>
          socket.on('message', data => {
            if (overflowing()) return
            handle(String(data)).catch(error => {
              const shown = presentError(error, log)
              socket.close(CloseCode.InternalServerError, shown.message.slice(0, 120))
            })
          }),
      },
      { gone: gone.signal },
    )
    socket.once('close', (code, reason) => {
      clearInterval(pings)
      gone.abort()
      void closed(code, String(reason))
    })
  })

  return {
    upgrade(request, socket, head) {
      sockets.handleUpgrade(request, socket, head, connection => sockets.emit('connection', connection, request))
    },
    size: () => sockets.clients.size,
    close() {
      for (const client of sockets.clients) client.close(1001, 'Server is stopping')
      sockets.close()
    },
  }
}
