// An open weight file of a source: its checked header, and the proof that it stayed the same while it was read.
import { constants, type Stats } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { DomainError } from '../../lib/errors.js'
import { type GgufFile, readGguf } from '../formats/gguf.js'
import { fileAccess, readExactly } from '../formats/random-access.js'
import { readSafetensors, type SafetensorsFile } from '../formats/safetensors.js'
import type { LocalFile, LocalModel } from '../sources/local-source.js'

export interface WeightFile {
  name: string
  handle: FileHandle
  bytes: number
  content: SafetensorsFile | GgufFile
  /** @throws DomainError SOURCE_INTERRUPTED where the file was changed since it was opened */
  checkUnchanged(): Promise<void>
}

export async function openWeightFile(local: LocalFile, format: LocalModel['format']): Promise<WeightFile> {
  const { name, path } = local
  // Without O_NONBLOCK, a pipe that took the file's place would hang the worker.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(error => {
    throw new DomainError('SOURCE_NOT_FOUND', `${path}: cannot be opened (${error.code})`, { cause: error })
  })
  try {
    const before = await handle.stat()
    if (!before.isFile()) throw new DomainError('INVALID_MODEL_FILE', `${path} is not a file`)
    const access = fileAccess(handle, before.size, name)
    const content = format === 'gguf' ? await readGguf(access) : await readSafetensors(access)
    if (content.tensors.length === 0) throw new DomainError('INVALID_MODEL_FILE', `${name}: holds no tensors`)
    return { name, handle, bytes: before.size, content, checkUnchanged: () => checkUnchanged(handle, before, name) }
  } catch (error) {
    await handle.close()
    throw error
  }
}

async function checkUnchanged(handle: FileHandle, before: Stats, name: string) {
  const after = await handle.stat()
  if (after.size === before.size && after.mtimeMs === before.mtimeMs) return
  throw new DomainError(
    'SOURCE_INTERRUPTED',
    `${name}: changed while it was read (${before.size} bytes before, ${after.size} after)`,
    { retryable: true },
  )
}

/** Byte ranges that belong to neither header nor tensors and hold something else than zeros. */
export async function nonZeroGaps(file: WeightFile): Promise<{ offset: number; bytes: Uint8Array }[]> {
  const gaps = []
  let at = file.content.headerBytes
  for (const tensor of [...file.content.tensors, { offset: file.bytes, bytes: 0 }]) {
    if (tensor.offset > at) {
      const bytes = Buffer.alloc(tensor.offset - at)
      await readExactly(file.handle, bytes, at, file.name)
      if (bytes.some(byte => byte !== 0)) gaps.push({ offset: at, bytes })
    }
    at = tensor.offset + tensor.bytes
  }
  return gaps
}
