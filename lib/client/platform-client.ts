// A small client of the gateway for the CLI, the demo and the tests: queries over HTTP, subscriptions over graphql-transport-ws.
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'

export interface UserError {
  field: string[] | null
  message: string
  code: string
}

/** The gateway answered with errors, or a mutation with userErrors. */
export class PlatformError extends Error {
  override readonly name = 'PlatformError'
  constructor(
    message: string,
    readonly code: string,
  ) {
    super(message)
  }
}

/** The connection of a subscription ended before its operation did: the server stopped, or is not reachable (any more). */
export class ConnectionLostError extends Error {
  override readonly name = 'ConnectionLostError'
  constructor(
    message: string,
    /** Whether the server said itself that it stops. */
    readonly serverStopping: boolean,
  ) {
    super(message)
  }
}

/** Close code of a server that stops. */
const goingAway = 1001

/** graphql-ws throws what the socket said: close events `{ code, reason }` and error events `{ message }`, neither of them an Error. */
function connectionLost(thrown: unknown, serverStopping: boolean): unknown {
  if (thrown instanceof PlatformError || typeof thrown !== 'object' || thrown === null) return thrown
  if ('code' in thrown && 'reason' in thrown) {
    const { code, reason } = thrown as { code: number; reason: string }
    return new ConnectionLostError(
      reason || `the connection was closed with code ${code}`,
      serverStopping || code === goingAway,
    )
  }
  // Errors of graphql-ws itself and of the protocol stay as they are.
  if (thrown instanceof Error || Array.isArray(thrown)) return thrown
  return new ConnectionLostError(
    String((thrown as { message?: unknown }).message ?? 'the connection was lost'),
    serverStopping,
  )
}

export interface PlatformClient {
  readonly url: string
  /** Runs a query or mutation; GraphQL errors throw PlatformError with the first error's code. */
  query<T>(document: string, variables?: Record<string, unknown>): Promise<T>
  /** Runs a mutation with one root field; its userErrors throw PlatformError. Returns the payload. */
  mutate<T>(document: string, input: Record<string, unknown>): Promise<T>
  /**
   * Events of a subscription with one root field; a lost connection is re-made.
   * @throws ConnectionLostError where the server stops or stays away
   */
  subscribe<T>(document: string, variables: Record<string, unknown>): AsyncIterableIterator<T>
  close(): Promise<void>
}

const first = <T>(data: Record<string, T>): T => {
  const value = Object.values(data)[0]
  if (value === undefined) throw new PlatformError('The answer holds no field', 'BAD_REQUEST')
  return value
}

interface Answer {
  data?: Record<string, unknown> | null
  errors?: readonly { message: string; extensions?: Record<string, unknown> }[]
}

function unwrap<T>(answer: Answer): T {
  const error = answer.errors?.[0]
  if (error) throw new PlatformError(error.message, String(error.extensions?.code ?? 'INTERNAL_SERVER_ERROR'))
  return answer.data as T
}

/** @param url address of the platform, e.g. `http://127.0.0.1:4000` */
export function connectPlatform(url: string): PlatformClient {
  const endpoint = `${url.replace(/\/$/, '')}/graphql`
  // What the server said when it closed the last open connection; the reconnect that then fails only says that nobody is there.
  let serverStopping = false
  const sockets = createClient({
    url: endpoint.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    retryAttempts: 5,
    on: {
      connected: () => {
        serverStopping = false
      },
      closed: event => {
        if ((event as { code?: number }).code === goingAway) serverStopping = true
      },
    },
  })

  async function query<T>(document: string, variables: Record<string, unknown> = {}): Promise<T> {
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: document, variables }),
    })
    const text = await response.text()
    try {
      return unwrap<T>(JSON.parse(text) as Answer)
    } catch (error) {
      if (error instanceof SyntaxError)
        throw new PlatformError(`${endpoint} answered ${response.status} with no GraphQL`, 'BAD_REQUEST')
      throw error
    }
  }

  return {
    url,
    query,
    async mutate<T>(document: string, input: Record<string, unknown>) {
      const payload = first(await query<Record<string, T & { userErrors: UserError[] }>>(document, { input }))
      const error = payload.userErrors[0]
      if (error) throw new PlatformError(error.message, error.code)
      return payload
    },
    async *subscribe<T>(document: string, variables: Record<string, unknown>) {
      const events = sockets.iterate({ query: document, variables })
      try {
        for await (const event of events) yield first(unwrap<Record<string, T>>(event as Answer))
      } catch (error) {
        throw connectionLost(error, serverStopping)
      }
    },
    async close() {
      await sockets.dispose()
    },
  }
}
