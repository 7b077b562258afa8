// A subgraph as the gateway sees it: it answers fetches of query plans and opens streams for subscriptions.
import type { GraphQLDataSource } from '@apollo/gateway'
import type { ExecutionResult } from 'graphql'

/** What a subgraph's stream is opened with: the primary fetch of a subscription's plan. */
export interface StreamRequest {
  query: string
  operationName?: string
  variables: Record<string, unknown>
}

/**
 * `Context` is what resolvers get; the source makes one per event, so that nothing cached for one event is shown with the next.
 */
export interface SubgraphSource<Context extends object = object> extends GraphQLDataSource {
  subscribe(
    request: StreamRequest,
    newContext: () => Context,
  ): Promise<AsyncIterableIterator<ExecutionResult> | ExecutionResult>
  /** Throws where the subgraph does not answer. */
  ping(): Promise<void>
  close(): Promise<void>
}

export const isAsyncIterable = <T>(value: unknown): value is AsyncIterable<T> =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value

/**
 * Maps a stream; `return()` reaches the source at once, also while a `next()` waits (an async generator would queue it behind).
 */
export function mapStream<A, B>(
  source: AsyncIterable<A>,
  map: (value: A) => Promise<B> | B,
  ended: () => void = () => {},
): AsyncIterableIterator<B> {
  const upstream = source[Symbol.asyncIterator]()
  let open = true
  const end = () => {
    if (open) ended()
    open = false
  }
  const stream: AsyncIterableIterator<B> = {
    [Symbol.asyncIterator]: () => stream,
    async next() {
      try {
        const result = open ? await upstream.next() : undefined
        if (result && !result.done && open) return { done: false, value: await map(result.value) }
      } catch (error) {
        end()
        // Readers do not call return() after a next() that failed: where only `map` did, the source would stay open.
        void Promise.resolve(upstream.return?.()).catch(() => {})
        throw error
      }
      end()
      return { done: true, value: undefined }
    },
    async return() {
      end()
      await upstream.return?.()
      return { done: true, value: undefined }
    },
    async throw(error) {
      end()
      await upstream.return?.()
      throw error
    },
  }
  return stream
}
