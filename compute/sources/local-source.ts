// A source on this machine: one file, a sharded index or a folder.
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import { maximumIndexBytes, parseShardIndex } from '../formats/shard-index.js'
import { auxiliaryNames, type ChosenFiles, chooseFiles, maximumAuxiliaryBytes } from './choose-files.js'

export interface LocalFile {
  /** Plain file name, as it is written out again. */
  name: string
  path: string
  bytes: number
}

export interface LocalModel {
  format: 'safetensors' | 'gguf'
  weights: LocalFile[]
  auxiliary: LocalFile[]
  /** Shard that must hold each tensor, where an index says so. */
  weightMap?: Map<string, string>
}

const notFound = (message: string, cause?: unknown) =>
  new DomainError('SOURCE_NOT_FOUND', message, { field: ['input', 'source'], cause })

async function describe(path: string): Promise<LocalFile | 'folder'> {
  let entry: Awaited<ReturnType<typeof stat>>
  try {
    entry = await stat(path)
  } catch (error) {
    throw notFound(
      `${path}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'does not exist' : 'cannot be read'}`,
      error,
    )
  }
  if (entry.isDirectory()) return 'folder'
  if (!entry.isFile()) throw notFound(`${path}: neither a file nor a folder`)
  return { name: basename(path), path, bytes: entry.size }
}

async function file(path: string): Promise<LocalFile> {
  const found = await describe(path)
  if (found === 'folder') throw new DomainError('INVALID_MODEL_FILE', `${path} is a folder, expected a file`)
  return found
}

/**
 * Finds the files of a model at a path.
 * @throws DomainError SOURCE_NOT_FOUND, INVALID_MODEL_FILE (a folder called x.gguf, a malformed index), UNSUPPORTED_FORMAT (other endings)
 */
export async function findLocalModel(path: string): Promise<LocalModel> {
  const found = await describe(path)
  if (found === 'folder') {
    if (/\.(gguf|safetensors)$/i.test(path)) {
      throw new DomainError('INVALID_MODEL_FILE', `${path} is a folder, not a file as its name says`)
    }
    return await load(path, chooseFiles(await readdir(path), path))
  }
  const folder = dirname(path)
  if (/\.gguf$/i.test(found.name)) return { format: 'gguf', weights: [found], auxiliary: [] }
  if (found.name.endsWith('.safetensors')) {
    // Configuration and tokenizer lie beside the weights by convention.
    const beside = await readdir(folder).catch(() => [] as string[])
    return await load(folder, {
      format: 'safetensors',
      weights: [found.name],
      auxiliary: beside.includes('config.json') ? auxiliaryNames.filter(name => beside.includes(name)) : [],
    })
  }
  if (found.name.endsWith('.safetensors.index.json')) {
    const beside = await readdir(folder)
    return await load(folder, {
      format: 'safetensors',
      weights: [],
      index: found.name,
      auxiliary: auxiliaryNames.filter(name => beside.includes(name)),
    })
  }
  throw new DomainError(
    'UNSUPPORTED_FORMAT',
    `${path}: expected a .safetensors or .gguf file, a .safetensors.index.json or a folder`,
    { field: ['input', 'source'] },
  )
}

async function load(folder: string, chosen: ChosenFiles): Promise<LocalModel> {
  const auxiliary: LocalFile[] = []
  for (const name of chosen.auxiliary) {
    const found = await describe(join(folder, name))
    if (found === 'folder') continue
    if (found.bytes > maximumAuxiliaryBytes) {
      throw new DomainError('INVALID_MODEL_FILE', `${name}: ${found.bytes} bytes, at most ${maximumAuxiliaryBytes}`)
    }
    auxiliary.push(found)
  }
  if (!chosen.index) {
    const weights = []
    for (const name of chosen.weights) weights.push(await file(join(folder, name)))
    return { format: chosen.format, weights, auxiliary }
  }
  const index = await file(join(folder, chosen.index))
  if (index.bytes > maximumIndexBytes) {
    throw new DomainError('INVALID_MODEL_FILE', `${index.name}: ${index.bytes} bytes, at most ${maximumIndexBytes}`)
  }
  const { files, weightMap } = parseShardIndex(await readFile(index.path), index.name)
  const weights = []
  for (const name of files) weights.push(await file(join(folder, name)))
  return { format: chosen.format, weights, auxiliary: [index, ...auxiliary], weightMap }
}
