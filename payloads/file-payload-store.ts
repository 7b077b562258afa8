// The payload store on a folder: root/<first two hex digits>/<sha256>, written in root/tmp, synced, renamed, folder synced.
import { createHash, randomUUID } from 'node:crypto'
import { close, constants, fdatasync, mkdirSync, statSync } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { DomainError } from '../lib/errors.js'
import type { FileRanges, PayloadBatch, PayloadStore, PutResult } from './payload-store.js'
import { maximumThreads, type RangeResult, type RequestedRange, storeRanges } from './range-writers.js'

/** Bytes per read when a payload is streamed out or hashed: large enough to hide system call costs, small enough to abort soon. */
const chunkBytes = 1024 * 1024
/** A payload up to this size is held in memory until its hash is known, so that an existing one costs no write at all. */
const holdBytes = 4 * 1024 * 1024
/** Syncs under way at once: the file system's journal commits those that wait together in one go. */
const parallelSyncs = 32
/** Written files that wait for their sync, each an open descriptor: far below the usual limit of 1,024. */
const maximumUnsynced = 64
/** What is asked of a thread of the store at once: at most so many bytes (unless one range is longer) and so many ranges. */
const groupBytes = 2 * 1024 * 1024
const groupFiles = 32
/** A temporary file of another living process is its own affair, unless it is this old. */
const staleMilliseconds = 24 * 3600 * 1000

const hashPattern = /^[0-9a-f]{64}$/
const errorCode = (error: unknown) => (error as NodeJS.ErrnoException | undefined)?.code

/** Turns "no space" of the system into DISK_FULL; everything else stays what it is. */
export function translateWriteError(error: unknown, what: string): unknown {
  const code = errorCode(error)
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error
  return new DomainError('DISK_FULL', `No space left on the device while writing ${what}`, { cause: error })
}

export const abortError = (signal: AbortSignal) =>
  signal.reason instanceof DomainError
    ? signal.reason
    : new DomainError('CANCELLED', 'The job was cancelled', { cause: signal.reason })

export function throwIfAborted(signal: AbortSignal | undefined) {
  if (signal?.aborted) throw abortError(signal)
}

/** Writes all of `bytes`; a short write (disk nearly full) goes on until the system says why. */
export async function writeAll(file: FileHandle, bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at, bytes.length - at)).bytesWritten
}

/** What is left to do with a written file. */
type WrittenFile = Pick<FileHandle, 'datasync' | 'close'>

/** The same for a bare descriptor. */
const syncDescriptor = promisify(fdatasync)
const closeDescriptor = promisify(close)
const writtenFile = (descriptor: number): WrittenFile => ({
  datasync: () => syncDescriptor(descriptor),
  close: () => closeDescriptor(descriptor),
})

/** Makes a rename in this folder survive a power loss. */
export async function syncFolder(path: string) {
  const folder = await open(path, constants.O_RDONLY)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Runs `work` over the items, at most `limit` at once; the first error is thrown after all that began have ended. */
async function forEachLimit<T>(items: Iterable<T>, limit: number, work: (item: T) => Promise<void>) {
  const iterator = items[Symbol.iterator]()
  const lane = async () => {
    for (let next = iterator.next(); !next.done; next = iterator.next()) await work(next.value)
  }
  const results = await Promise.allSettled(Array.from({ length: limit }, lane))
  const failed = results.find(r => r.status === 'rejected')
  if (failed) throw failed.reason
}

/** Cuts a list of ranges into runs of a few megabytes or files each. */
function groupRanges(ranges: FileRanges['ranges']): FileRanges['ranges'][] {
  const groups: { offset: number; bytes: number }[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const range of ranges) {
    if (bytes + range.bytes > groupBytes || groups.at(-1)!.length === groupFiles) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)!.push(range)
    bytes += range.bytes
  }
  return groups
}

/** A counting gate: `run` waits until fewer than `limit` are inside. */
function makeGate(limit: number) {
  let inside = 0
  const waiting: (() => void)[] = []
  return async <T>(work: () => Promise<T>): Promise<T> => {
    if (inside >= limit) await new Promise<void>(resolve => waiting.push(resolve))
    else inside++
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else inside--
    }
  }
}

/** Synchronous: a call takes microseconds, the way to a thread and back ten times that, and an ingest asks once per tensor. */
function sizeOf(path: string): number | undefined {
  const entry = statSync(path, { throwIfNoEntry: false })
  return entry?.isFile() ? entry.size : undefined
}

/**
 * All 256 folders at once: no put has to make one and make it durable, which would cost as much as the payloads themselves.
 * Synchronous, because 256 round trips to a thread take longer than the calls. The last folder stands for all.
 */
async function makeFolders(root: string) {
  const names = Array.from({ length: 256 }, (_, i) => join(root, i.toString(16).padStart(2, '0')))
  if ((await stat(names[255]!).catch(() => undefined))?.isDirectory()) return
  for (const name of names) mkdirSync(name, { recursive: true })
  await syncFolder(root)
}

/** Temporary files of this process that are still being written. */
const ownTemporary = new Set<string>()

function processLives(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return errorCode(error) === 'EPERM'
  }
}

/**
 * Opens (and where needed makes) the store in `root`.
 * Payloads appear under their hash whole or not at all; an interrupted writer leaves only files in root/tmp.
 */
export async function openFilePayloadStore(root: string): Promise<PayloadStore> {
  const temporary = join(root, 'tmp')
  await mkdir(temporary, { recursive: true })
  await makeFolders(root)
  const quarantined = join(root, 'quarantine')
  const folderOf = (hash: string) => join(root, hash.slice(0, 2))

  async function missing(hash: string) {
    const aside = sizeOf(join(quarantined, hash)) !== undefined
    return new DomainError(
      'PAYLOAD_MISSING',
      aside
        ? `Payload ${hash} was corrupt and has been set aside; ingest the model's source again to repair it`
        : `Payload ${hash} is not in the store; ingest the model's source again to repair it`,
    )
  }

  function path(hash: string): string {
    // Hashes come from manifests and requests: anything else would be a way out of the folder.
    if (!hashPattern.test(hash))
      throw new DomainError('PAYLOAD_MISSING', `"${hash.slice(0, 80)}" is not a payload hash`)
    return join(folderOf(hash), hash)
  }

  function batch(signal?: AbortSignal): PayloadBatch {
    const id = randomUUID()
    const staged = new Map<string, { temporary: string; synced: Promise<void> }>()
    const gate = makeGate(parallelSyncs)
    const unsynced = new Set<Promise<void>>()
    let closed = false

    async function temporaryName() {
      if (unsynced.size >= maximumUnsynced) await Promise.race(unsynced).catch(() => {})
      const name = join(temporary, `${process.pid}-${randomUUID()}`)
      ownTemporary.add(name)
      return name
    }

    async function write(fill: (file: FileHandle) => Promise<void>, what: string) {
      const name = await temporaryName()
      let file: FileHandle | undefined
      try {
        file = await open(name, 'wx')
        await fill(file)
        return { name, file }
      } catch (error) {
        await file?.close().catch(() => {})
        await discard(name)
        throw translateWriteError(error, what)
      }
    }

    async function discard(name: string) {
      await rm(name, { force: true })
      ownTemporary.delete(name)
    }

    /** Takes the written file into the batch; where the same bytes came in meanwhile, these are thrown away. */
    async function stage(hash: string, bytes: number, name: string, file: WrittenFile): Promise<PutResult> {
      if (closed || staged.has(hash)) {
        await file.close()
        await discard(name)
        if (closed) throw new Error('This batch has ended')
        return { hash, bytes, written: false }
      }
      const synced = gate(async () => {
        try {
          await file.datasync()
        } catch (error) {
          throw translateWriteError(error, `payload ${hash}`)
        } finally {
          await file.close()
        }
      })
      // Awaited in commit or rollback; until then a failure must not count as unhandled.
      const done = () => void unsynced.delete(synced)
      synced.then(done, done)
      unsynced.add(synced)
      staged.set(hash, { temporary: name, synced })
      return { hash, bytes, written: true }
    }

    // A file of another size under this name was damaged from outside: it is replaced.
    const present = (hash: string, bytes: number) => staged.has(hash) || sizeOf(path(hash)) === bytes

    async function putBytes(bytes: Uint8Array): Promise<PutResult> {
      throwIfAborted(signal)
      const hash = createHash('sha256').update(bytes).digest('hex')
      if (present(hash, bytes.length)) return { hash, bytes: bytes.length, written: false }
      const { name, file } = await write(f => writeAll(f, bytes), `a payload of ${bytes.length} bytes`)
      return stage(hash, bytes.length, name, file)
    }

    /** One message to a thread of the store: its answer costs as much whether it is about one small tensor or thirty. */
    async function putGroup({ file, name, onBytes }: FileRanges, group: FileRanges['ranges'], stop?: AbortSignal) {
      const ranges: RequestedRange[] = []
      for (const { offset, bytes } of group) ranges.push({ offset, bytes, temporary: await temporaryName() })
      let written: RangeResult[]
      try {
        written = await storeRanges({ source: file.fd, root, batch: id, ranges, name, signal: stop, onBytes })
      } catch (error) {
        for (const range of ranges) ownTemporary.delete(range.temporary)
        throw translateWriteError(error, `payloads of ${name}`)
      }
      // All of them, even where one fails: each has a descriptor that somebody must close.
      const staging = written.map(async ({ hash, file: descriptor }, index): Promise<PutResult> => {
        const { bytes, temporary: target } = ranges[index]!
        if (descriptor !== undefined) return stage(hash, bytes, target, writtenFile(descriptor))
        ownTemporary.delete(target)
        return { hash, bytes, written: false }
      })
      await Promise.allSettled(staging)
      return Promise.all(staging)
    }

    async function putRanges(wanted: FileRanges): Promise<PutResult[]> {
      const stop = wanted.signal && signal ? AbortSignal.any([wanted.signal, signal]) : (wanted.signal ?? signal)
      const groups = groupRanges(wanted.ranges)
      const results: PutResult[][] = new Array(groups.length)
      // Two for each thread: it never waits for the next.
      await forEachLimit(groups.entries(), 2 * maximumThreads, async ([index, group]) => {
        throwIfAborted(stop)
        results[index] = await putGroup(wanted, group, stop)
      })
      return results.flat()
    }

    async function put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<PutResult> {
      const held: Uint8Array[] = []
      let heldBytes = 0
      const iterator =
        Symbol.asyncIterator in chunks
          ? chunks[Symbol.asyncIterator]()
          : (chunks[Symbol.iterator]() as Iterator<Uint8Array>)
      try {
        let next = await iterator.next()
        for (; !next.done && heldBytes + next.value.length <= holdBytes; next = await iterator.next()) {
          throwIfAborted(signal)
          held.push(next.value)
          heldBytes += next.value.length
        }
        if (next.done) return await putBytes(Buffer.concat(held, heldBytes))
        const hash = createHash('sha256')
        let bytes = 0
        const { name, file } = await write(async f => {
          const append = async (chunk: Uint8Array) => {
            throwIfAborted(signal)
            // The write is under way in a libuv thread while this thread hashes.
            const written = writeAll(f, chunk)
            hash.update(chunk)
            bytes += chunk.length
            await written
          }
          for (const chunk of held) await append(chunk)
          for (; !next.done; next = await iterator.next()) await append(next.value)
        }, 'a payload')
        const digest = hash.digest('hex')
        if (present(digest, bytes)) {
          await file.close()
          await discard(name)
          return { hash: digest, bytes, written: false }
        }
        return await stage(digest, bytes, name, file)
      } catch (error) {
        await iterator.return?.()
        throw error
      }
    }

    async function rollback() {
      closed = true
      for (const entry of staged.values()) {
        await entry.synced.catch(() => {})
        await discard(entry.temporary)
      }
      staged.clear()
    }

    async function commit() {
      if (closed) return
      try {
        for (const entry of staged.values()) await entry.synced
        throwIfAborted(signal)
        const touched = new Set([...staged.keys()].map(folderOf))
        await forEachLimit(staged, parallelSyncs, async ([hash, entry]) => {
          // Another writer may have put the same payload meanwhile: the same bytes, so either may stay.
          await rename(entry.temporary, path(hash))
          ownTemporary.delete(entry.temporary)
        })
        await forEachLimit(touched, parallelSyncs, syncFolder)
        staged.clear()
        closed = true
      } catch (error) {
        await rollback()
        throw translateWriteError(error, `payloads in ${root}`)
      }
    }

    return { put, putBytes, putRanges, commit, rollback }
  }

  async function* openRange(hash: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const file = await openPayload(hash)
    try {
      const end = length === undefined ? Number.POSITIVE_INFINITY : offset + length
      for (let at = offset; at < end; ) {
        const want = Math.min(chunkBytes, end - at)
        const buffer = Buffer.allocUnsafeSlow(want)
        const { bytesRead } = await file.read(buffer, 0, want, at)
        if (bytesRead === 0) {
          if (length === undefined) return
          throw new DomainError('PAYLOAD_CORRUPT', `Payload ${hash} ends at byte ${at}, expected ${end}`)
        }
        at += bytesRead
        yield buffer.subarray(0, bytesRead)
      }
    } finally {
      await file.close()
    }
  }

  async function openPayload(hash: string): Promise<FileHandle> {
    try {
      return await open(path(hash), 'r')
    } catch (error) {
      if (errorCode(error) === 'ENOENT') throw await missing(hash)
      throw error
    }
  }

  async function put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, signal?: AbortSignal) {
    const one = batch(signal)
    try {
      const result = await one.put(chunks)
      await one.commit()
      return result
    } catch (error) {
      await one.rollback()
      throw error
    }
  }

  async function size(hash: string) {
    const bytes = sizeOf(path(hash))
    if (bytes === undefined) throw await missing(hash)
    return bytes
  }

  async function get(hash: string): Promise<Uint8Array> {
    const file = await openPayload(hash)
    try {
      return await file.readFile()
    } finally {
      await file.close()
    }
  }

  async function* list() {
    for (const folder of await readdir(root)) {
      if (!/^[0-9a-f]{2}$/.test(folder)) continue
      for (const name of await readdir(join(root, folder))) {
        if (!hashPattern.test(name) || !name.startsWith(folder)) continue
        const bytes = sizeOf(join(root, folder, name))
        if (bytes !== undefined) yield { hash: name, bytes }
      }
    }
  }

  async function verify(hash: string, signal?: AbortSignal) {
    const file = await openPayload(hash)
    try {
      const digest = createHash('sha256')
      const buffer = Buffer.allocUnsafeSlow(chunkBytes)
      for (let bytes = 0; ; ) {
        throwIfAborted(signal)
        const { bytesRead } = await file.read(buffer, 0, chunkBytes, bytes)
        if (bytesRead === 0) return { hash: digest.digest('hex'), bytes }
        digest.update(buffer.subarray(0, bytesRead))
        bytes += bytesRead
      }
    } finally {
      await file.close()
    }
  }

  async function quarantine(hash: string) {
    await mkdir(quarantined, { recursive: true })
    await rename(path(hash), join(quarantined, hash))
    await syncFolder(quarantined)
    await syncFolder(folderOf(hash))
  }

  async function removeQuarantined(needed: (hash: string) => boolean) {
    let removed = 0
    for (const name of await readdir(quarantined).catch(() => [] as string[])) {
      if (!hashPattern.test(name)) continue
      if (needed(name) && sizeOf(path(name)) === undefined) continue
      await rm(join(quarantined, name), { force: true })
      removed++
    }
    return removed
  }

  async function removeTemporary(exclusive = false) {
    let removed = 0
    for (const name of await readdir(temporary)) {
      const file = join(temporary, name)
      if (ownTemporary.has(file)) continue
      const pid = Number(name.split('-')[0])
      const others = Number.isInteger(pid) && pid > 0 && pid !== process.pid && processLives(pid)
      const age = Date.now() - ((await stat(file).catch(() => undefined))?.mtimeMs ?? 0)
      if (others && !exclusive && age < staleMilliseconds) continue
      await rm(file, { force: true, recursive: true })
      removed++
    }
    return removed
  }

  return {
    root,
    put,
    batch,
    has: async hash => sizeOf(path(hash)) !== undefined,
    size,
    path,
    get,
    open: openRange,
    list,
    remove: hash => rm(path(hash), { force: true }),
    quarantine,
    quarantinedAt: async () => (await stat(quarantined).catch(() => undefined))?.mtimeMs ?? 0,
    removeQuarantined,
    verify,
    removeTemporary,
  }
}
