// Tensors as raw float32 files: the payload itself where it is float32, else a file derived from it once and kept as a cache.
import { randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { endianness } from 'node:os'
import { dirname, join } from 'node:path'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import type { ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { dequantize } from './dequantize.js'
import { ggmlTypeByName } from './ggml-types.js'

/** What a handler's context offers and float weights need. */
export interface DerivedContext {
  payloads: PayloadStore
  dataFolder: string
  env: Pick<Env, 'HARTONOMOUS_DERIVED_BYTES'>
  signal?: AbortSignal
  /** Where given, collects the files asked for: none of them is evicted for another. */
  kept?: KeptFiles
}

/** Files that belong together, as those of one model or one session: making the last may take longer than files stay recent. */
export interface KeptFiles {
  paths: Set<string>
  /** When their times of use were written last, so that other processes keep them too. */
  touchedAt: number
}

/** The sets of this process whose files are in use. */
const alive = new Set<KeptFiles>()
/** Files that this process made and will make again when it needs them: the first to go where the cache is full. */
const released = new Set<string>()

/** A set whose files are not evicted until it is released. */
export function keepFiles(): KeptFiles {
  const kept = { paths: new Set<string>(), touchedAt: Date.now() }
  alive.add(kept)
  return kept
}

/**
 * The files of the set are no longer in use here.
 * @param atOnce they may be evicted now, not only when they have not been used for a while: for models larger than the cache
 */
export function releaseFiles(kept: KeptFiles, atOnce = false): void {
  alive.delete(kept)
  if (atOnce) for (const path of kept.paths) released.add(path)
}

export type StoredTensor = Pick<ManifestTensor, 'name' | 'dtype' | 'shape' | 'bytes' | 'payload'>

/** Elements converted per step: 4 MB of float32, so that memory stays flat and a cancelled job stops within milliseconds. */
const stepElements = 1024 * 1024
/** A derived file used this recently is never evicted: a session may be about to map it. */
const keepMilliseconds = 10 * 60 * 1000
/** How old a file's time of use may be before it is written anew: saves a system call per tensor. */
const touchMilliseconds = 60 * 1000

export const derivedFolder = (dataFolder: string) => join(dataFolder, 'derived', 'f32')

export const elementCount = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1)

/** The bytes a tensor of this dtype and shape must have; undefined where ggml does not know the dtype. */
export function storedBytes(dtype: string, elements: number): number | undefined {
  const type = ggmlTypeByName(dtype)
  return type && (elements / type.blockSize) * type.blockBytes
}

/** Streams a tensor's values; each array is valid until the next one is asked for. */
export async function* readFloat32(
  payloads: PayloadStore,
  tensor: StoredTensor,
  signal?: AbortSignal,
): AsyncIterable<Float32Array> {
  const elements = elementCount(tensor.shape)
  const type = ggmlTypeByName(tensor.dtype)
  if (type && storedBytes(tensor.dtype, elements) !== tensor.bytes) {
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${tensor.name}: ${tensor.bytes} bytes, expected ${storedBytes(tensor.dtype, elements)} for ${tensor.dtype} [${tensor.shape}]`,
    )
  }
  const blockBytes = type?.blockBytes ?? 1
  const blocksPerStep = Math.max(1, Math.floor(stepElements / (type?.blockSize ?? 1)))
  const values = new Float32Array(blocksPerStep * (type?.blockSize ?? 1))
  const pending = new Uint8Array(blocksPerStep * blockBytes)
  let filled = 0
  const flush = function* () {
    const count = dequantize(tensor.dtype, pending.subarray(0, filled), values)
    filled = 0
    if (count > 0) yield values.subarray(0, count)
  }
  for await (const chunk of payloads.open(tensor.payload)) {
    signal?.throwIfAborted()
    for (let at = 0; at < chunk.length; ) {
      const take = Math.min(chunk.length - at, pending.length - filled)
      pending.set(chunk.subarray(at, at + take), filled)
      filled += take
      at += take
      if (filled === pending.length) yield* flush()
    }
  }
  if (filled > 0) yield* flush()
}

/** Whole tensor as float32 in memory: for small models, tests and statistics. */
export async function readTensorFloat32(payloads: PayloadStore, tensor: StoredTensor): Promise<Float32Array> {
  const all = new Float32Array(elementCount(tensor.shape))
  let at = 0
  for await (const values of readFloat32(payloads, tensor)) {
    all.set(values, at)
    at += values.length
  }
  return all
}

/** Where the float32 form of a tensor lies once `ensureFloat32` has seen to it. */
export const float32Path = (
  { payloads, dataFolder }: Pick<DerivedContext, 'payloads' | 'dataFolder'>,
  { payload, dtype }: Pick<StoredTensor, 'payload' | 'dtype'>,
) => (dtype === 'F32' ? payloads.path(payload) : derivedPath(dataFolder, payload, dtype))

const derivedPath = (dataFolder: string, payload: string, form: string) =>
  join(derivedFolder(dataFolder), payload.slice(0, 2), `${payload}.${form}`)

/**
 * Absolute path of a raw little-endian float32 file holding the tensor, row-major as `shape` says. It lies inside the data folder, so
 * that ONNX external data can name it relative to there.
 * @throws DomainError UNSUPPORTED_FORMAT (dtype), SHAPE_MISMATCH (bytes and shape disagree), PAYLOAD_MISSING, DISK_FULL
 */
export async function ensureFloat32(context: DerivedContext, tensor: StoredTensor): Promise<string> {
  const { payloads, signal } = context
  const bytes = elementCount(tensor.shape) * 4
  if (tensor.dtype === 'F32') {
    const size = await payloads.size(tensor.payload)
    if (size === bytes) return payloads.path(tensor.payload)
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${tensor.name}: payload of ${size} bytes, expected ${bytes} for F32 [${tensor.shape}]`,
    )
  }
  // The dtype is part of the name: the same bytes mean other numbers as F16 than as BF16.
  return ensureDerived(context, { payload: tensor.payload, form: tensor.dtype, bytes, of: tensor.name }, async file => {
    for await (const values of readFloat32(payloads, tensor, signal)) await writeAll(file, values)
  })
}

/** Writes all bytes of an array, from `position` on or where the file stands. */
export async function writeAll(file: FileHandle, values: ArrayBufferView, position?: number): Promise<void> {
  const view = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  for (let at = 0; at < view.length; ) {
    at += (await file.write(view, at, view.length - at, position === undefined ? null : position + at)).bytesWritten
  }
}

export interface DerivedFile {
  /** The payload it is made of, or the first of several; the file goes when that does. */
  payload: string
  /** Names the form, and what else went into it. */
  form: string
  bytes: number
  /** What messages call the tensor. */
  of: string
}

/**
 * Path of a file that can be made again at any time: taken from the cache or made now, with the cache kept within its limit. Two makers
 * at once are fine: both write the same bytes and rename.
 */
export async function ensureDerived(
  context: DerivedContext,
  { payload, form, bytes, of }: DerivedFile,
  write: (file: FileHandle) => Promise<void>,
): Promise<string> {
  if (endianness() !== 'LE') throw new Error('Weights are little-endian files; this machine is big-endian')
  const { dataFolder, kept } = context
  const path = derivedPath(dataFolder, payload, form)
  const folder = dirname(path)
  const now = Date.now()
  const existing = await stat(path).catch(() => undefined)
  // A file cut short by a power loss has another size and is made again; that is why nothing here is synced.
  if (existing?.size === bytes) {
    if (now - existing.mtimeMs > touchMilliseconds) await touch(path)
    kept?.paths.add(path)
    released.delete(path)
    return path
  }
  // Before it is made, so that the cache does not pass its limit by a file.
  await evict(dataFolder, context.env.HARTONOMOUS_DERIVED_BYTES, bytes)
  await mkdir(folder, { recursive: true })
  const temporary = join(folder, `.${process.pid}-${randomUUID()}.tmp`)
  const file = await open(temporary, 'wx')
  try {
    try {
      await write(file)
    } finally {
      await file.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
    throw new DomainError('DISK_FULL', `No space left for the ${form} form of tensor ${of} (${bytes} bytes)`, {
      cause: error,
    })
  }
  kept?.paths.add(path)
  released.delete(path)
  if (kept && Date.now() - kept.touchedAt > touchMilliseconds) {
    kept.touchedAt = Date.now()
    for (const own of kept.paths) await touch(own)
  }
  return path
}

/** A file that has gone meanwhile is made again when it is asked for. */
const touch = (path: string) => utimes(path, new Date(), new Date()).catch(() => {})

/** Bytes of the float32 files that have to be made for these tensors; one that two share counts once. */
export function derivedBytes(tensors: Iterable<StoredTensor>): number {
  const sizes = new Map<string, number>()
  for (const { dtype, payload, shape } of tensors)
    if (dtype !== 'F32') sizes.set(`${payload}.${dtype}`, elementCount(shape) * 4)
  return [...sizes.values()].reduce((sum, size) => sum + size, 0)
}

/**
 * Refuses to run tensors at once whose float32 files alone are more than the cache may hold: each opening would make all of them again.
 * @throws DomainError DISK_FULL with both numbers
 */
export function checkDerivedFits(tensors: Iterable<StoredTensor>, env: DerivedContext['env'], model: string): void {
  const bytes = derivedBytes(tensors)
  const limit = env.HARTONOMOUS_DERIVED_BYTES
  if (bytes <= limit) return
  throw new DomainError(
    'DISK_FULL',
    `${model}: its float32 form takes ${bytes} bytes, HARTONOMOUS_DERIVED_BYTES allows ${limit}; raise it to run this model`,
  )
}

/** Every file of the cache with its payload's hash. */
export async function* listDerived(dataFolder: string) {
  const root = derivedFolder(dataFolder)
  for (const folder of await readdir(root).catch(() => [] as string[])) {
    for (const name of await readdir(join(root, folder)).catch(() => [] as string[])) {
      const path = join(root, folder, name)
      const entry = await stat(path).catch(() => undefined)
      if (entry?.isFile()) yield { path, payload: name.split('.')[0]!, bytes: entry.size, usedAt: entry.mtimeMs }
    }
  }
}

// Bytes this process believes are cached, per data folder: the folder is walked only at the first file made and when the limit is passed.
const knownBytes = new Map<string, number>()

/** Removes the files used longest ago until the cache has room for `added` bytes. */
async function evict(dataFolder: string, limit: number, added: number) {
  const known = knownBytes.get(dataFolder)
  if (known !== undefined && known + added <= limit) {
    knownBytes.set(dataFolder, known + added)
    return
  }
  const files = []
  for await (const file of listDerived(dataFolder)) files.push(file)
  let total = files.reduce((sum, file) => sum + file.bytes, added)
  const inUse = (path: string) => [...alive].some(kept => kept.paths.has(path))
  const oldest = files
    .filter(file => (released.has(file.path) || Date.now() - file.usedAt > keepMilliseconds) && !inUse(file.path))
    .sort((a, b) => a.usedAt - b.usedAt)
  for (const file of oldest) {
    if (total <= limit) break
    await rm(file.path, { force: true })
    released.delete(file.path)
    total -= file.bytes
  }
  knownBytes.set(dataFolder, total)
}
