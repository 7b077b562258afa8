// A subgraph in another process: queries over HTTP on kept-alive connections, subscriptions over one shared graphql-ws connection.
import type { GraphQLDataSourceProcessOptions } from '@apollo/gateway'
import { type ExecutionResult, GraphQLError } from 'graphql'
import { createClient } from 'graphql-ws'
import { Pool } from 'undici'
import { WebSocket } from 'ws'
import type { Logger } from '../lib/log.js'
import { boundedQueue } from './bounded-queue.js'
import type { SubgraphSource } from './source.js'

export interface RemoteOptions {
  log: Pick<Logger, 'warn'>
  /** Longest wait for the answer to a query, milliseconds. Mutations may generate text: they wait as long as the client does. */
  timeoutMs?: number
  /** Events of one stream that are kept for a client that does not read; beyond, its stream ends with SUBSCRIBER_TOO_SLOW. */
  capacity?: number
}

const mutationTimeoutMs = 30 * 60_000

/**
 * @param url the subgraph's GraphQL endpoint, `http://host:port/graphql`; its WebSocket is at the same path
 * @returns a data source that answers SUBGRAPH_UNAVAILABLE where the subgraph does not. A query whose connection was reset is sent
 * once more (a kept-alive connection may close just as it is used); a mutation never is.
 */
export function remoteDataSource<Context extends object>(
  name: string,
  url: string,
  { log, timeoutMs = 30_000, capacity = 1024 }: RemoteOptions,
): SubgraphSource<Context> {
  const { origin, pathname } = new URL(url)
  // Below the 5 s after which node:http servers close idle connections.
  const pool = new Pool(origin, { connections: 64, keepAliveTimeout: 4_000, connect: { timeout: 5_000 } })
  const socket = createClient({
    url: url.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    lazy: true,
    retryAttempts: 3,
    shouldRetry: () => true,
    keepAlive: 12_000,
  })

  function unavailable(cause: unknown): GraphQLError {
    log.warn({ err: cause, subgraph: name }, 'subgraph did not answer')
    const reason = cause instanceof Error ? cause.message : 'connection lost'
    return new GraphQLError(`The ${name} subgraph did not answer (${reason.slice(0, 100)})`, {
      extensions: { code: 'SUBGRAPH_UNAVAILABLE' },
    })
  }

  async function post(body: string, timeout: number, signal?: AbortSignal): Promise<unknown> {
    const response = await pool.request({
      path: pathname,
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body,
      headersTimeout: timeout,
      bodyTimeout: timeout,
      signal,
    })
    const text = await response.body.text()
    try {
      return JSON.parse(text)
    } catch {
      throw new Error(`HTTP ${response.statusCode}, not JSON`)
    }
  }

  async function send(query: string, body: string, signal?: AbortSignal): Promise<ExecutionResult> {
    const mutation = query.startsWith('mutation')
    const timeout = mutation ? mutationTimeoutMs : timeoutMs
    try {
      return (await post(body, timeout, signal).catch(error => {
        if (mutation || !isReset(error)) throw error
        return post(body, timeout, signal)
      })) as ExecutionResult
    } catch (error) {
      throw unavailable(error)
    }
  }

  return {
    async process({ request, context }: GraphQLDataSourceProcessOptions) {
      const { query = '', variables, operationName } = request
      const { signal } = context as { signal?: AbortSignal }
      const result = await send(query, JSON.stringify({ query, variables, operationName }), signal)
      return result as Awaited<ReturnType<SubgraphSource['process']>>
    },
    async subscribe({ query, variables, operationName }) {
      const queue = boundedQueue<ExecutionResult>(capacity, () => unsubscribe())
      const unsubscribe = socket.subscribe<ExecutionResult['data']>(
        { query, variables, ...(operationName && { operationName }) },
        {
          next(result) {
            if (queue.push(result as ExecutionResult)) return
            const message = `The client has not read ${capacity} events`
            queue.fail(new GraphQLError(message, { extensions: { code: 'SUBSCRIBER_TOO_SLOW' } }))
            unsubscribe()
          },
          error(cause) {
            // An array where the subgraph refused the operation, a close event or an error where the connection failed.
            if (!Array.isArray(cause)) return queue.fail(unavailable(cause))
            queue.push({ errors: cause.map(e => new GraphQLError(e.message, { extensions: e.extensions })) })
            queue.end()
          },
          complete: () => queue.end(),
        },
      )
      return queue.stream
    },
    async ping() {
      const answer = await send('{ __typename }', JSON.stringify({ query: '{ __typename }' }))
      if (!answer.data) throw new Error(`The ${name} subgraph is not ready`)
    },
    async close() {
      await socket.dispose()
      await pool.destroy()
    },
  }
}

/** The connection ended before an answer began. */
const isReset = (error: unknown) => {
  const code = (error as { code?: unknown }).code
  return code === 'ECONNRESET' || code === 'EPIPE' || code === 'UND_ERR_SOCKET'
}
