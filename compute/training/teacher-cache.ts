// What teachers say, kept on disk by content: one file per teacher, tokens of a row and form, shared by all students of that teacher.
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, statfs, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TeacherRow } from './batch-feeds.js'
import type { TeacherOptions } from './teacher.js'

/** To be raised whenever the same row would be written otherwise. */
const version = 1

export const teachersFolder = (dataFolder: string) => join(dataFolder, 'derived', 'teachers')

/** Files are found by the teacher's manifest (which names its tokenizer), the tokens, and how many of them are named at which temperature. */
function fileOf(dataFolder: string, teacher: string, ids: readonly number[], form: TeacherOptions): string {
  const { tokens, temperature, hidden = [], vocabulary } = form
  const hash = createHash('sha256')
    .update(JSON.stringify([version, tokens, temperature, hidden, ...(vocabulary === undefined ? [] : [vocabulary])]))
    .update(new Uint8Array(Int32Array.from(ids).buffer))
    .digest('hex')
  return join(teachersFolder(dataFolder), teacher, `${hash}.row`)
}

const bytesOf = (array: Float32Array | Int32Array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

export interface TeacherCache {
  /** A row from the cache, or said now and kept. */
  row(ids: readonly number[]): Promise<TeacherRow>
  /** Rows that were said anew so far. */
  readonly said: number
}

/**
 * @param teacher hash of its manifest
 * @param say asked where the cache has nothing; attention is never kept, it is as large as the square of the sequence
 * @param width hidden size
 * @param limit bytes that one run keeps at most
 */
export function teacherCache(
  dataFolder: string,
  teacher: string,
  form: TeacherOptions,
  width: number,
  say: (ids: readonly number[]) => Promise<TeacherRow>,
  limit: number,
): TeacherCache {
  const { tokens: k, hidden = [], attention = [] } = form
  let [said, keptBytes] = [0, 0]
  return {
    get said() {
      return said
    },
    async row(ids) {
      if (attention.length > 0) return say(ids)
      const path = fileOf(dataFolder, teacher, ids, form)
      const n = ids.length
      const lengths = [n * k, n * k, n, n, ...hidden.map(() => n * width)]
      const total = lengths.reduce((a, b) => a + b, 0) * 4
      const kept = await readFile(path).catch(() => undefined)
      // A file cut short by a power loss has another size and is made again.
      if (kept?.length === total) {
        // For eviction: the least recently used go first.
        void utimes(path, new Date(), new Date()).catch(() => {})
        const aligned = new Uint8Array(kept).buffer
        let at = 0
        const parts = lengths.map(length => {
          const part = new Float32Array(aligned, at, length)
          at += length * 4
          return part
        })
        const [named, probabilities, tail, entropy, ...states] = parts
        const ids_ = new Int32Array(named!.buffer, named!.byteOffset, named!.length)
        return {
          ids: ids_,
          probabilities: probabilities!,
          tail: tail!,
          entropy: entropy!,
          ...(states.length > 0 ? { hidden: states } : {}),
        }
      }
      const row = await say(ids)
      said++
      if (keptBytes + total <= limit && (await hasRoom(dataFolder))) {
        keptBytes += total
        await keep(path, [row.ids, row.probabilities, row.tail, row.entropy, ...(row.hidden ?? [])])
      }
      return row
    },
  }
}

/** What is left to checkpoints, payloads and the database: a share of the disk, of a large one no more than these bytes. */
const freeShare = 0.05
const freeBytes = 5e9

async function hasRoom(folder: string): Promise<boolean> {
  const { bavail, blocks, bsize } = await statfs(folder)
  return bavail * bsize > Math.min(freeShare * blocks * bsize, freeBytes)
}

/** Appears whole or not at all. A full disk only costs saying it again. */
async function keep(path: string, parts: readonly (Float32Array | Int32Array)[]): Promise<void> {
  const folder = join(path, '..')
  const temporary = join(folder, `.${process.pid}-${randomUUID()}.tmp`)
  try {
    await mkdir(folder, { recursive: true })
    await writeFile(temporary, Buffer.concat(parts.map(bytesOf)))
    await rename(temporary, path)
  } catch {
    await rm(temporary, { force: true })
  }
}

/** Removes what teachers other than `alive` said, and the rows used longest ago until the rest takes at most `limit` bytes. */
export async function trimTeachers(dataFolder: string, alive: ReadonlySet<string>, limit: number): Promise<void> {
  const root = teachersFolder(dataFolder)
  const files: { path: string; bytes: number; usedAt: number }[] = []
  for (const teacher of await readdir(root).catch(() => [] as string[])) {
    if (!alive.has(teacher)) {
      await rm(join(root, teacher), { recursive: true, force: true })
      continue
    }
    for (const name of await readdir(join(root, teacher))) {
      const path = join(root, teacher, name)
      const found = await stat(path).catch(() => undefined)
      if (found) files.push({ path, bytes: found.size, usedAt: found.mtimeMs })
    }
  }
  let total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  for (const { path, bytes } of files.sort((a, b) => a.usedAt - b.usedAt)) {
    if (total <= limit) return
    await rm(path, { force: true })
    total -= bytes
  }
}
