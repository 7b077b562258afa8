// Streams the tensors of one open weight file into a payload batch, several at once, with bounded memory.
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { DomainError } from '../../lib/errors.js'
import type { PayloadBatch, PutResult } from '../../payloads/payload-store.js'
import { readExactly } from '../formats/random-access.js'
import type { TensorEntry } from '../formats/tensor-file.js'

/** Tensors in flight: one is hashed on this thread while the others are read and written in libuv's. */
const lanes = 4
/** Tensors up to this size pass through their lane's own buffer, which stays in the processor's cache. */
const laneBytes = 2 * 1024 * 1024
/** Tensors up to this size are read into memory once, hashed there and written from there, one at a time. */
const wholeBytes = 64 * 1024 * 1024
/** Larger ones pass in chunks of this size. */
const chunkBytes = 4 * 1024 * 1024

export interface StoredRange extends PutResult {
  name: string
}

interface Source {
  file: FileHandle
  /** For messages. */
  name: string
  batch: PayloadBatch
  signal: AbortSignal
  onBytes(bytes: number): void
}

/** Chunks of a byte range: the next is read while the caller works on the one it has. Two buffers take turns. */
async function* readRange(source: Source, offset: number, bytes: number): AsyncGenerator<Uint8Array> {
  const buffers = [Buffer.allocUnsafeSlow(chunkBytes), Buffer.allocUnsafeSlow(chunkBytes)]
  const fill = async (at: number, turn: number) => {
    const chunk = buffers[turn % 2]!.subarray(0, Math.min(chunkBytes, bytes - at))
    await readExactly(source.file, chunk, offset + at, source.name)
    return chunk
  }
  let next = fill(0, 0)
  for (let at = 0, turn = 1; at < bytes; turn++) {
    source.signal.throwIfAborted()
    const chunk = await next
    at += chunk.length
    if (at < bytes) {
      next = fill(at, turn)
      // An error is met at the next turn; it must not count as unhandled when the caller stops before.
      next.catch(() => {})
    }
    yield chunk
  }
}

/** Hashes first and writes only where the payload is new, so that what is known costs no write at all. */
async function storeLarge(source: Source, tensor: TensorEntry): Promise<PutResult> {
  const digest = createHash('sha256')
  for await (const chunk of readRange(source, tensor.offset, tensor.bytes)) {
    digest.update(chunk)
    source.onBytes(chunk.length)
  }
  const hash = digest.digest('hex')
  if (await source.batch.has(hash, tensor.bytes)) return { hash, bytes: tensor.bytes, written: false }
  const result = await source.batch.put(copied(readRange(source, tensor.offset, tensor.bytes)))
  if (result.hash === hash) return result
  throw new DomainError('SOURCE_INTERRUPTED', `${source.name}: tensor ${tensor.name} changed while it was read`)
}

// `put` holds the first chunks until it knows how long the payload is, and the buffers take turns.
async function* copied(chunks: AsyncIterable<Uint8Array>) {
  for await (const chunk of chunks) yield Buffer.from(chunk)
}

/** Stores the tensors (in the order given, so that the disk reads ahead) and returns hash and size of each, in the same order. */
export async function storeTensors(source: Source, tensors: readonly TensorEntry[]): Promise<StoredRange[]> {
  const results: StoredRange[] = new Array(tensors.length)
  const large = makeTurns()
  let shared = Buffer.alloc(0)
  const storeWhole = async (tensor: TensorEntry, buffer: Buffer): Promise<PutResult> => {
    const bytes = buffer.subarray(0, tensor.bytes)
    await readExactly(source.file, bytes, tensor.offset, source.name)
    const result = await source.batch.putBytes(bytes)
    source.onBytes(tensor.bytes)
    return result
  }
  const store = (tensor: TensorEntry, own: Buffer): Promise<PutResult> => {
    if (tensor.bytes <= own.length) return storeWhole(tensor, own)
    // One large tensor at a time, so that memory is bounded whatever the model's size.
    return large(() => {
      if (tensor.bytes > wholeBytes) return storeLarge(source, tensor)
      if (shared.length < tensor.bytes) shared = Buffer.allocUnsafeSlow(tensor.bytes)
      return storeWhole(tensor, shared)
    })
  }
  let next = 0
  let failed = false
  const lane = async () => {
    const own = Buffer.allocUnsafeSlow(laneBytes)
    while (next < tensors.length && !failed) {
      source.signal.throwIfAborted()
      const index = next++
      const tensor = tensors[index]!
      try {
        results[index] = { name: tensor.name, ...(await store(tensor, own)) }
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: lanes }, lane))
  const error = ended.find(result => result.status === 'rejected')
  if (error) throw error.reason
  return results
}

/** Runs one piece of work after the other. */
function makeTurns() {
  let last: Promise<unknown> = Promise.resolve()
  return <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work)
    last = turn.catch(() => {})
    return turn
  }
}
