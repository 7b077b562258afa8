// Operations as server-sent events (graphql-sse, distinct connections): one request, one stream of `next` events, then `complete`.
// Not graphql-sse's own handler: it reads the source as fast as it can and keeps what a slow client has not taken.
import type { ServerResponse } from 'node:http'
import type { Answer, Outcome } from './graphql-gateway.js'

const headers = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  'x-accel-buffering': 'no',
}
/** Comments that keep proxies from closing a quiet stream. */
const keepAliveMs = 12_000
/** A client that has taken nothing for this long is gone. */
const stalledMs = 30_000

export interface EventStreams {
  /** Writes an operation's outcome to the response; resolves when the response has ended. */
  serve(outcome: Outcome, response: ServerResponse): Promise<void>
  size(): number
  /** Ends all streams: a last event says SHUTTING_DOWN. */
  close(): void
}

export function eventStreams(streams?: { opened(): void; closed(): void }): EventStreams {
  const closers = new Set<() => void>()

  async function serve(outcome: Outcome, response: ServerResponse): Promise<void> {
    response.writeHead(200, headers)
    response.write(':\n\n')
    if (outcome.kind !== 'stream') {
      const answer = outcome.kind === 'refused' ? { errors: outcome.errors } : outcome.answer
      response.end(next(answer) + complete)
      return
    }
    const { stream } = outcome
    streams?.opened()
    let stopping = false
    const close = () => {
      stopping = true
      void stream.return?.()
    }
    const gone = () => void stream.return?.()
    closers.add(close)
    response.once('close', gone)
    // It may have left while the operation was begun; 'close' does not come again.
    if (response.destroyed) gone()
    const keepAlive = setInterval(() => {
      if (!response.writableNeedDrain) response.write(':\n\n')
    }, keepAliveMs)
    try {
      // The next event is asked for only once this one has left.
      for await (const answer of stream) {
        if (response.destroyed) break
        if (!response.write(next(answer)) && !(await drained(response))) break
      }
      if (stopping) response.write(next(shuttingDown))
      response.end(complete)
    } finally {
      clearInterval(keepAlive)
      closers.delete(close)
      response.off('close', gone)
      streams?.closed()
    }
  }

  return {
    serve,
    size: () => closers.size,
    close() {
      for (const close of closers) close()
    },
  }
}

const next = (answer: Answer) => `event: next\ndata: ${JSON.stringify(answer)}\n\n`
const complete = 'event: complete\ndata:\n\n'
const shuttingDown: Answer = {
  errors: [{ message: 'The server is stopping; try again in a moment', extensions: { code: 'SHUTTING_DOWN' } }],
}

/** False where the client has gone, or taken nothing for `stalledMs`. */
function drained(response: ServerResponse): Promise<boolean> {
  return new Promise(resolve => {
    const end = (ok: boolean) => {
      clearTimeout(timer)
      response.off('drain', onDrain)
      response.off('close', onClose)
      if (!ok) response.destroy()
      resolve(ok)
    }
    const onDrain = () => end(true)
    const onClose = () => end(false)
    const timer = setTimeout(onClose, stalledMs)
    response.once('drain', onDrain)
    response.once('close', onClose)
  })
}
