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

export interface PlatformClient {
  readonly url: string
  /** Runs a query or mutation; GraphQL errors throw PlatformError with the first error's code. */
  query<T>(document: string, variables?: Record<string, unknown>): Promise<T>
  /** Runs a mutation with one root field; its userErrors throw PlatformError. Returns the payload. */
  mutate<T>(document: string, input: Record<string, unknown>): Promise<T>
  /** Events of a subscription with one root field; the connection is re-made when it is lost. */
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
  const sockets = createClient({ url: endpoint.replace(/^http/, 'ws'), webSocketImpl: WebSocket, retryAttempts: 5 })

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
      for await (const event of sockets.iterate({ query: document, variables })) {
        yield first(unwrap<Record<string, T>>(event as Answer))
      }
    },
    async close() {
      await sockets.dispose()
    },
  }
}
