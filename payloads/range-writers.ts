// The threads that take byte ranges of open files into a store: one per core, started when first needed, kept for the next ingest.
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { DomainError } from '../lib/errors.js'
import { compiledFile } from '../lib/project.js'

export interface RequestedRange {
  /** Bytes. */
  offset: number
  bytes: number
  /** Name to write a new payload under until it is committed. */
  temporary: string
}

/** What a thread is asked: file descriptors are the process's, so both sides may use them. */
export interface RangeRequest {
  id: number
  /** Descriptor of the file read from. */
  source: number
  /** Folder of the store. */
  root: string
  /** Whose ranges these are: what one batch brings twice is written once (by each thread). */
  batch: string
  ranges: RequestedRange[]
  /** [1] not 0 once the ranges are not wanted any more. */
  cancelled: Int32Array
}

/** `file`: descriptor of what was written, open and unsynced; absent where the store has this payload. */
export interface RangeResult {
  hash: string
  file?: number
}

type Failure = 'short' | 'changed' | 'cancelled'

/** What it answers: bytes of a long range as they are hashed, then one of the others. */
export type RangeMessage = { id: number } & (
  | { progress: number }
  | { results: RangeResult[] }
  | { failed: Failure; at: number; end: number }
  | { error: Error; code: string | undefined }
)

interface Pending {
  name: string
  bytes: number
  reported: number
  onBytes(bytes: number): void
  resolve(results: RangeResult[]): void
  reject(error: unknown): void
}

interface Thread {
  worker: Worker
  pending: Map<number, Pending>
  /** Bytes asked for and not answered. */
  bytes: number
}

/** Threads hash and copy; more of them than this only fight over the disk. */
export const maximumThreads = Math.min(8, Math.max(2, availableParallelism()))

function failureOf(name: string, { failed, at, end }: { failed: Failure; at: number; end: number }) {
  if (failed === 'cancelled') return new DomainError('CANCELLED', 'The job was cancelled')
  const what = failed === 'short' ? `ends at byte ${at}, expected ${end}` : 'changed while it was read'
  return new DomainError('SOURCE_INTERRUPTED', `${name}: ${what}`)
}

const threads: Thread[] = []
let lastId = 0

function startThread(): Thread {
  // Descriptors that the thread opens are closed by the other side.
  const worker = new Worker(compiledFile('payloads/range-writer.js'), { trackUnmanagedFds: false })
  const thread: Thread = { worker, pending: new Map(), bytes: 0 }
  const end = (error: Error) => {
    const at = threads.indexOf(thread)
    if (at >= 0) threads.splice(at, 1)
    for (const pending of thread.pending.values()) pending.reject(error)
    thread.pending.clear()
  }
  worker.on('message', (message: RangeMessage) => answer(thread, message))
  worker.once('error', end)
  worker.once('exit', code => end(new Error(`A thread of the payload store ended with ${code}`)))
  // After `on('message')`, which would keep the process alive again.
  worker.unref()
  threads.push(thread)
  return thread
}

function answer(thread: Thread, message: RangeMessage) {
  const pending = thread.pending.get(message.id)
  if (!pending) return
  if ('progress' in message) {
    pending.reported += message.progress
    pending.onBytes(message.progress)
    return
  }
  thread.pending.delete(message.id)
  thread.bytes -= pending.bytes
  if (thread.pending.size === 0) thread.worker.unref()
  if ('results' in message) {
    pending.onBytes(pending.bytes - pending.reported)
    pending.resolve(message.results)
  } else if ('failed' in message) pending.reject(failureOf(pending.name, message))
  else pending.reject(Object.assign(message.error, { code: message.code }))
}

/** The thread with the least to do; another one where all are busy and there may be more. */
function leastBusy(): Thread {
  const idle = threads.find(thread => thread.pending.size === 0)
  if (idle) return idle
  if (threads.length < maximumThreads) return startThread()
  return threads.reduce((least, thread) => (thread.bytes < least.bytes ? thread : least))
}

/**
 * Hashes the ranges of an open file and writes each to its `temporary` where the store in `root` does not hold it; all or none of them.
 * Throws SOURCE_INTERRUPTED where the file is shorter or changes meanwhile, CANCELLED, and errors of the system as they are.
 */
export function storeRanges(
  work: Pick<RangeRequest, 'source' | 'root' | 'batch' | 'ranges'> & {
    name: string
    signal?: AbortSignal
    onBytes(bytes: number): void
  },
): Promise<RangeResult[]> {
  const { source, root, batch, ranges, name, signal, onBytes } = work
  const cancelled = new Int32Array(new SharedArrayBuffer(4))
  const cancel = () => void Atomics.store(cancelled, 0, 1)
  const request: RangeRequest = { id: ++lastId, source, root, batch, ranges, cancelled }
  const bytes = ranges.reduce((sum, range) => sum + range.bytes, 0)
  const thread = leastBusy()
  return new Promise<RangeResult[]>((resolve, reject) => {
    signal?.addEventListener('abort', cancel)
    thread.pending.set(request.id, { name, bytes, reported: 0, onBytes, resolve, reject })
    thread.bytes += bytes
    thread.worker.ref()
    thread.worker.postMessage(request)
  }).finally(() => signal?.removeEventListener('abort', cancel))
}
