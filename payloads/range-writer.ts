// Worker thread of the file store: reads ranges of an open file, hashes them and writes each under a temporary name where its payload is new.
// Synchronous on purpose: hundreds of small files cost more in promises and hand-overs to other threads than in work.
import { createHash, hash } from 'node:crypto'
import { closeSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort } from 'node:worker_threads'
import type { RangeMessage, RangeRequest, RangeResult, RequestedRange } from './range-writers.js'

/** Ranges up to this size are read once, hashed and written from memory. */
const holdBytes = 32 * 1024 * 1024
/** Longer ones pass in chunks of this size, once to hash them and, where they are new, once more to write them. */
const chunkBytes = 4 * 1024 * 1024

let held: Buffer = Buffer.alloc(0)
const memory = (bytes: number) => {
  if (held.length < bytes) held = Buffer.allocUnsafeSlow(Math.max(bytes, chunkBytes))
  return held.subarray(0, bytes)
}

class RangeFailure extends Error {
  constructor(
    readonly reason: 'short' | 'changed' | 'cancelled',
    readonly at = 0,
    readonly end = 0,
  ) {
    super(reason)
  }
}

function readAll(source: number, target: Uint8Array, position: number) {
  for (let at = 0; at < target.length; ) {
    const read = readSync(source, target, at, target.length - at, position + at)
    if (read === 0) throw new RangeFailure('short', position + at, position + target.length)
    at += read
  }
}

/** A short write (disk nearly full) goes on until the system says why. */
function writeAll(file: number, bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at, bytes.length - at)
}

/** Hashes that this thread has written for a batch and nobody has committed yet, of the batches it saw last. */
const written = new Map<string, Set<string>>()
const rememberedBatches = 16

function writtenFor(batch: string): Set<string> {
  const known = written.get(batch) ?? new Set()
  written.delete(batch)
  written.set(batch, known)
  if (written.size > rememberedBatches) written.delete(written.keys().next().value!)
  return known
}

const isPresent = (root: string, digest: string, bytes: number) => {
  const entry = statSync(join(root, digest.slice(0, 2), digest), { throwIfNoEntry: false })
  return entry?.isFile() === true && entry.size === bytes
}

function discard(file: number, temporary: string) {
  closeSync(file)
  rmSync(temporary, { force: true })
}

/** Opens the temporary file, lets `fill` write it and leaves it open: the caller syncs it while this thread goes on. */
function writeTemporary(temporary: string, fill: (file: number) => void): number {
  const file = openSync(temporary, 'wx')
  try {
    fill(file)
    return file
  } catch (error) {
    discard(file, temporary)
    throw error
  }
}

function throwIfCancelled({ cancelled }: RangeRequest) {
  if (Atomics.load(cancelled, 0) !== 0) throw new RangeFailure('cancelled')
}

/** SHA-256 of a range that passes in chunks. */
function digestOf(request: RangeRequest, { offset, bytes }: RequestedRange, onChunk: (chunk: Uint8Array) => void) {
  const digest = createHash('sha256')
  for (let at = 0; at < bytes; ) {
    throwIfCancelled(request)
    const chunk = memory(Math.min(chunkBytes, bytes - at))
    readAll(request.source, chunk, offset + at)
    digest.update(chunk)
    onChunk(chunk)
    at += chunk.length
  }
  return digest.digest('hex')
}

function storeRange(request: RangeRequest, range: RequestedRange, known: ReadonlySet<string>): RangeResult {
  const { offset, bytes, temporary } = range
  const isKnown = (digest: string) => known.has(digest) || isPresent(request.root, digest, bytes)
  if (bytes <= holdBytes) {
    const held = memory(bytes)
    readAll(request.source, held, offset)
    const digest = hash('sha256', held, 'hex')
    if (isKnown(digest)) return { hash: digest }
    return { hash: digest, file: writeTemporary(temporary, file => writeAll(file, held)) }
  }
  const onChunk = (chunk: Uint8Array) => post({ id: request.id, progress: chunk.length })
  const digest = digestOf(request, range, onChunk)
  if (isKnown(digest)) return { hash: digest }
  const file = writeTemporary(temporary, target => {
    if (digestOf(request, range, chunk => writeAll(target, chunk)) !== digest) throw new RangeFailure('changed')
  })
  return { hash: digest, file }
}

/** All ranges or none: what was written before a failure is taken away again. */
function storeAll(request: RangeRequest): RangeResult[] {
  const known = writtenFor(request.batch)
  const results: RangeResult[] = []
  try {
    for (const range of request.ranges) {
      throwIfCancelled(request)
      const result = storeRange(request, range, known)
      results.push(result)
      known.add(result.hash)
    }
    return results
  } catch (error) {
    results.forEach(({ hash: digest, file }, index) => {
      known.delete(digest)
      if (file !== undefined) discard(file, request.ranges[index]!.temporary)
    })
    throw error
  }
}

const post = (message: RangeMessage) => parentPort!.postMessage(message)

parentPort!.on('message', (request: RangeRequest) => {
  const { id } = request
  try {
    post({ id, results: storeAll(request) })
  } catch (error) {
    if (error instanceof RangeFailure) post({ id, failed: error.reason, at: error.at, end: error.end })
    else post({ id, error: error as Error, code: (error as NodeJS.ErrnoException).code })
  }
})
