// Starts a platform as a user would (the compiled entry, its own process) on a temporary folder and a free port, and talks to it as a client.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { launchPlatform } from '../../lib/client/launch-platform.js'

// biome-ignore lint/suspicious/noExplicitAny: what an answer holds is known to the test that wrote the query
export type Json = any

export interface GraphqlAnswer<T = Record<string, Json>> {
  data?: T | null
  errors?: { message: string; path?: (string | number)[]; extensions: { code: string; errorId?: string } }[]
}

export interface FinishedJob {
  id: string
  type: string
  state: 'SUCCEEDED' | 'FAILED' | 'CANCELLED'
  output: Json
  durationMs: number | null
  error: { code: string; message: string } | null
}

export type TestPlatform = Awaited<ReturnType<typeof startTestPlatform>>

/**
 * @param options.env variables of the platform's process
 * @param options.dataFolder an existing folder, which is then not removed by `stop`
 */
export async function startTestPlatform(options: { env?: Record<string, string>; dataFolder?: string } = {}) {
  const dataFolder = options.dataFolder ?? mkdtempSync(join(tmpdir(), 'hartonomous-test-'))
  const launched = await launchPlatform(dataFolder, options.env)
  return {
    ...client(launched.url),
    pid: launched.pid,
    dataFolder,
    async stop() {
      await launched.stop()
      if (!options.dataFolder) rmSync(dataFolder, { recursive: true, force: true })
    },
  }
}

/** A client of a gateway that serves at `url`. */
export function client(url: string) {
  const endpoint = `${url}/graphql`

  const raw = async (
    query: string,
    variables?: object,
    headers: Record<string, string> = {},
  ): Promise<GraphqlAnswer> => {
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ query, variables }),
    })
    return (await response.json()) as GraphqlAnswer
  }

  /** Data of a query or mutation; the first error throws as `message [CODE]`. */
  const gql = async <T = Record<string, Json>>(query: string, variables?: object): Promise<T> => {
    const { data, errors } = await raw(query, variables)
    if (errors?.length) throw new Error(`${errors[0]!.message} [${errors[0]!.extensions?.code}]`)
    return data as T
  }

  /** Payload of a mutation named by the api's convention (`field(input: FieldInput!)`); the first userError throws. */
  const mutate = async <T = Record<string, Json>>(field: string, input: object, selection: string): Promise<T> => {
    const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
    const query = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
    const payload = (await gql(query, { input }))[field]
    const error = payload.userErrors[0]
    if (error) throw new Error(`${field}: ${error.message} [${error.code}]`)
    return payload
  }

  /** Events over graphql-transport-ws; `return()` (leaving a for-await) closes the connection. */
  async function* subscribe(query: string, variables?: Record<string, unknown>): AsyncGenerator<GraphqlAnswer> {
    const socket = createClient({ url: endpoint.replace(/^http/, 'ws'), webSocketImpl: WebSocket, retryAttempts: 0 })
    try {
      yield* socket.iterate({ query, variables }) as AsyncIterableIterator<GraphqlAnswer>
    } finally {
      await socket.dispose()
    }
  }

  /** Events as server-sent events. */
  async function* sse(query: string, variables?: object, signal?: AbortSignal): AsyncGenerator<GraphqlAnswer> {
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify({ query, variables }),
      signal,
    })
    if (!response.body || !response.headers.get('content-type')?.startsWith('text/event-stream'))
      throw new Error(`not a stream: ${response.status} ${await response.text()}`)
    let text = ''
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const block = text.slice(0, end)
        text = text.slice(end + 2)
        if (block.startsWith('event: complete')) return
        if (block.startsWith('event: next')) yield JSON.parse(block.slice(block.indexOf('data:') + 5))
      }
    }
    throw new Error('the stream ended without complete')
  }

  /** Waits for the job's final state. */
  const job = async (id: string, seconds = 120): Promise<FinishedJob> => {
    const query = 'query($id: ID!) { job(id: $id) { id type state output durationMs error { code message } } }'
    for (const deadline = Date.now() + seconds * 1000; Date.now() < deadline; ) {
      const found = (await gql(query, { id })).job
      if (['SUCCEEDED', 'FAILED', 'CANCELLED'].includes(found.state)) return found
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    throw new Error(`job ${id} has not ended in ${seconds} s`)
  }

  /** The same; anything but SUCCEEDED throws with the job's error. */
  const succeeded = async (id: string, seconds?: number): Promise<FinishedJob> => {
    const ended = await job(id, seconds)
    if (ended.state !== 'SUCCEEDED') throw new Error(`${ended.type} ${ended.state}: ${ended.error?.message}`)
    return ended
  }

  /** Ingests and waits; returns the model. */
  const ingest = async (source: string, name: string): Promise<{ id: string; name: string; job: FinishedJob }> => {
    const { job: queued } = await mutate('ingestModel', { source, name }, 'job { id }')
    const ended = await succeeded(queued.id)
    const { model } = (await gql('query($id: ID!) { job(id: $id) { model { id name } } }', { id: queued.id })).job
    return { ...model, job: ended }
  }

  return { url, raw, gql, mutate, subscribe, sse, job, succeeded, ingest }
}
