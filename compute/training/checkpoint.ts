// A training run on disk: state, weights and moments in one file that appears whole or not at all; the one before stays until then.
import { randomUUID } from 'node:crypto'
import { type FileHandle, mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import { writeAll } from '../formats/float-weights.js'
import type { TrainedTensor } from './adamw.js'

type Part = 'weight' | 'first' | 'second'
const allParts: readonly Part[] = ['weight', 'first', 'second']

/** Longest header that is read: the losses of some hundred thousand steps. */
const maximumHeaderBytes = 64 * 1024 * 1024

interface Header<S> {
  version: 1
  /** Of what the run depends on: another run's file is not taken. */
  key: string
  parts: readonly Part[]
  tensors: { name: string; elements: number }[]
  state: S
}

/** @throws DISK_FULL; then the file that was there before is still there */
export async function writeCheckpoint<S>(
  folder: string,
  name: string,
  key: string,
  state: S,
  tensors: readonly TrainedTensor[],
  parts: readonly Part[] = allParts,
): Promise<void> {
  await mkdir(folder, { recursive: true })
  const temporary = join(folder, `.${process.pid}-${randomUUID()}.tmp`)
  const header: Header<S> = {
    version: 1,
    key,
    parts,
    tensors: tensors.map(({ name: own, weight }) => ({ name: own, elements: weight.length })),
    state,
  }
  const text = Buffer.from(JSON.stringify(header))
  try {
    const file = await open(temporary, 'wx')
    try {
      await writeAll(file, BigUint64Array.of(BigInt(text.length)))
      await writeAll(file, text)
      for (const tensor of tensors) for (const part of parts) await writeAll(file, tensor[part])
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, join(folder, name))
  } catch (error) {
    await rm(temporary, { force: true })
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
    throw new DomainError('DISK_FULL', `No space left for the checkpoint ${join(folder, name)}`, { cause: error })
  }
}

/** The state alone, for what must be known before there are tensors to fill; undefined where there is none, or one of another run. */
export async function readCheckpointState<S>(folder: string, name: string, key: string): Promise<S | undefined> {
  const file = await open(join(folder, name), 'r').catch(() => undefined)
  if (!file) return undefined
  try {
    const found = await readHeader<S>(file)
    return found?.header.key === key ? found.header.state : undefined
  } finally {
    await file.close()
  }
}

/** Fills the tensors from a file and gives its state; undefined where there is none, or one of another run or cut short: nothing is changed then. */
export async function readCheckpoint<S>(
  folder: string,
  name: string,
  key: string,
  tensors: readonly TrainedTensor[],
): Promise<S | undefined> {
  for (const left of await readdir(folder).catch(() => [] as string[])) {
    if (left.endsWith('.tmp')) await rm(join(folder, left), { force: true })
  }
  const file = await open(join(folder, name), 'r').catch(() => undefined)
  if (!file) return undefined
  try {
    const found = await readHeader<S>(file)
    if (!found) return undefined
    const { header, begin } = found
    const same = tensors.every(
      ({ name: own, weight }, i) => header.tensors[i]?.name === own && header.tensors[i]?.elements === weight.length,
    )
    const bytes = tensors.reduce((sum, { weight }) => sum + weight.byteLength * header.parts.length, begin)
    if (header.key !== key || !same || (await file.stat()).size !== bytes) return undefined
    let at = begin
    for (const tensor of tensors) {
      for (const part of header.parts) {
        const view = new Uint8Array(tensor[part].buffer, tensor[part].byteOffset, tensor[part].byteLength)
        for (let done = 0; done < view.length; ) {
          const { bytesRead } = await file.read(view, done, view.length - done, at + done)
          if (bytesRead === 0) throw new Error(`checkpoint ${join(folder, name)} ends early`)
          done += bytesRead
        }
        at += view.length
      }
    }
    return header.state
  } finally {
    await file.close()
  }
}

async function readHeader<S>(file: FileHandle): Promise<{ header: Header<S>; begin: number } | undefined> {
  const length = new BigUint64Array(1)
  const { bytesRead } = await file.read(new Uint8Array(length.buffer), 0, 8, 0)
  const size = Number(length[0])
  if (bytesRead < 8 || size > maximumHeaderBytes) return undefined
  const text = Buffer.alloc(size)
  await file.read(text, 0, size, 8)
  try {
    return { header: JSON.parse(text.toString('utf8')) as Header<S>, begin: 8 + size }
  } catch {
    return undefined
  }
}
