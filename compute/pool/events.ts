// Fans job events out to any number of readers, fast, slow or dead, in bounded memory.
import { finalStates, type JobEvent, type JobRecord } from './queue.js'

/**
 * What the readers of one job share: states and deltas in one log, progress as the newest record only. A reader is a cursor
 * into it, so a thousand readers that never read cost a thousand cursors. The log is kept until the job ends, for readers who come
 * later; deltas are tokens, which a model's context bounds.
 */
interface Channel {
  log: JobEvent[]
  progress: JobRecord | undefined
  ended: boolean
  readers: Set<Reader>
}

interface Reader {
  cursor: number
  /** Sequence of the last progress this reader has seen. */
  sequence: number
  wake: () => void
}

/** Jobs one reader of `watchAll` may be behind; beyond it the oldest is dropped. */
export const watchAllCapacity = 256
/** Deltas joined into one at most, for a reader far behind: an event should stay small beside a socket's buffers. */
const mostJoined = 512

export interface JobEvents {
  /** The job's state changed. */
  state(job: JobRecord): void
  /** The job, still running, came further. */
  progress(job: JobRecord): void
  delta(event: Extract<JobEvent, { kind: 'delta' }>): void
  /** @param from `start`: with the states and deltas that were, as far as they are known, before those that come */
  watch(jobId: string, from?: 'now' | 'start'): AsyncIterableIterator<JobEvent>
  watchAll(tenantId: string): AsyncIterableIterator<JobRecord>
  /** Ends all streams: the server stops. */
  close(): void
  /** Open streams, for metrics and tests. */
  readerCount(): number
}

export function jobEvents(): JobEvents {
  const channels = new Map<string, Channel>()
  const lists = new Set<{ tenantId: string; waiting: Map<string, JobRecord>; wake: () => void }>()
  let closed = false

  const wakeAll = (channel: Channel) => {
    for (const reader of channel.readers) reader.wake()
  }

  const makeChannel = (jobId: string): Channel => {
    const channel: Channel = { log: [], progress: undefined, ended: closed, readers: new Set() }
    if (!closed) channels.set(jobId, channel)
    return channel
  }

  function append(jobId: string, event: JobEvent) {
    // What has deltas may get readers later.
    const channel = channels.get(jobId) ?? (event.kind === 'delta' ? makeChannel(jobId) : undefined)
    if (!channel) return
    channel.log.push(event)
    if (event.kind === 'job' && finalStates.includes(event.job.state)) {
      channel.ended = true
      // A retried job gets a channel of its own; readers of this one keep it until they have read it.
      channels.delete(jobId)
    }
    wakeAll(channel)
  }

  function toLists(job: JobRecord) {
    for (const list of lists) {
      if (list.tenantId !== job.tenantId) continue
      // Delete and set: the map stays ordered by age of the last change.
      list.waiting.delete(job.id)
      list.waiting.set(job.id, job)
      if (list.waiting.size > watchAllCapacity) list.waiting.delete(list.waiting.keys().next().value as string)
      list.wake()
    }
  }

  return {
    state(job) {
      append(job.id, { kind: 'job', job })
      toLists(job)
    },
    progress(job) {
      const channel = channels.get(job.id)
      if (channel) {
        channel.progress = job
        wakeAll(channel)
      }
      toLists(job)
    },
    delta: event => append(event.jobId, event),

    watch(jobId, from = 'now') {
      const channel = channels.get(jobId) ?? makeChannel(jobId)
      const reader: Reader = { cursor: from === 'start' ? 0 : channel.log.length, sequence: 0, wake: () => {} }
      // What was already there is the caller's snapshot, not an event.
      reader.sequence = channel.progress?.progress?.sequence ?? 0
      channel.readers.add(reader)

      const take = (): IteratorResult<JobEvent> | undefined => {
        const at = reader.cursor
        const first = channel.log[at]
        if (first?.kind === 'job') {
          reader.cursor++
          reader.sequence = Math.max(reader.sequence, first.job.progress?.sequence ?? 0)
          return { done: false, value: first }
        }
        if (first) {
          const joined = joinDeltas(channel.log, at)
          reader.cursor += joined.count
          return { done: false, value: joined.event }
        }
        const { progress } = channel
        if (!channel.ended && progress?.progress && progress.progress.sequence > reader.sequence) {
          reader.sequence = progress.progress.sequence
          return { done: false, value: { kind: 'job', job: progress } }
        }
        return channel.ended || closed ? { done: true, value: undefined } : undefined
      }
      return stream(
        take,
        wake => (reader.wake = wake),
        () => {
          channel.readers.delete(reader)
          const written = channel.log.some(event => event.kind === 'delta')
          if (channel.readers.size === 0 && !written && channels.get(jobId) === channel) channels.delete(jobId)
        },
      )
    },

    watchAll(tenantId) {
      const list = { tenantId, waiting: new Map<string, JobRecord>(), wake: () => {} }
      if (!closed) lists.add(list)
      const take = (): IteratorResult<JobRecord> | undefined => {
        const next = list.waiting.entries().next()
        if (next.done) return closed ? { done: true, value: undefined } : undefined
        list.waiting.delete(next.value[0])
        return { done: false, value: next.value[1] }
      }
      return stream(
        take,
        wake => (list.wake = wake),
        () => lists.delete(list),
      )
    },

    close() {
      closed = true
      for (const channel of channels.values()) wakeAll(channel)
      for (const list of lists) list.wake()
    },
    readerCount: () => [...channels.values()].reduce((n, channel) => n + channel.readers.size, lists.size),
  }
}

/** The deltas from `at` on, up to the next state, as one. `tokenId` and `index` are the last one's, `offset` is the first one's. */
function joinDeltas(log: JobEvent[], at: number) {
  const deltas: Extract<JobEvent, { kind: 'delta' }>[] = []
  for (let i = at; log[i]?.kind === 'delta' && deltas.length < mostJoined; i++)
    deltas.push(log[i] as Extract<JobEvent, { kind: 'delta' }>)
  const last = deltas.at(-1) as Extract<JobEvent, { kind: 'delta' }>
  return {
    count: deltas.length,
    event: {
      ...last,
      offset: deltas[0]!.offset,
      textDelta: deltas.map(d => d.textDelta).join(''),
      tokenIds: deltas.flatMap(d => d.tokenIds),
      ...(last.logProbabilities && { logProbabilities: deltas.flatMap(d => d.logProbabilities ?? []) }),
    },
  }
}

/** An async iterator over `take`, which returns undefined where there is nothing yet. `return()` ends a waiting `next()`. */
function stream<T>(
  take: () => IteratorResult<T> | undefined,
  onWake: (wake: () => void) => void,
  close: () => void,
): AsyncIterableIterator<T> {
  let waiting: ((result: IteratorResult<T>) => void)[] = []
  let done = false
  const finish = () => {
    if (done) return
    done = true
    onWake(() => {})
    close()
    for (const resolve of waiting) resolve({ done: true, value: undefined })
    waiting = []
  }
  const poll = () => {
    const result = take()
    if (result?.done) finish()
    return result
  }
  onWake(() => {
    while (waiting.length > 0 && !done) {
      const result = poll()
      if (!result) return
      waiting.shift()?.(result)
    }
  })
  return {
    async next() {
      if (done) return { done: true, value: undefined }
      const result = waiting.length === 0 ? poll() : undefined
      return result ?? new Promise(resolve => waiting.push(resolve))
    },
    async return() {
      finish()
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
