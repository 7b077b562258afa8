// Streams the tensors of one open weight file into a payload batch, several at once, with bounded memory.
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { DomainError } from '../../lib/errors.js'
import type { PayloadBatch, PutResult } from '../../payloads/payload-store.js'
import { readExactly } from '../formats/random-access.js'
import type { TensorEntry } from '../formats/tensor-file.js'

/** Tensors in flight: one is hashed on this thread while the others are read and written in libuv's. */
const lanes = 3
/** A tensor up to this size is read once into memory, hashed there and written from there; three lanes hold at most 96 MB. */
const wholeBytes = 32 * 1024 * 1024
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
  let next = 0
  let failed = false
  const lane = async () => {
    let buffer = Buffer.alloc(0)
    while (next < tensors.length && !failed) {
      source.signal.throwIfAborted()
      const index = next++
      const tensor = tensors[index]!
      try {
        if (tensor.bytes > wholeBytes) {
          results[index] = { name: tensor.name, ...(await storeLarge(source, tensor)) }
          continue
        }
        if (buffer.length < tensor.bytes) buffer = Buffer.allocUnsafeSlow(tensor.bytes)
        const bytes = buffer.subarray(0, tensor.bytes)
        await readExactly(source.file, bytes, tensor.offset, source.name)
        results[index] = { name: tensor.name, ...(await source.batch.putBytes(bytes)) }
        source.onBytes(tensor.bytes)
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
