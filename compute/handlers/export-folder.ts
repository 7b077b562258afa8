// A folder below exports/ that appears whole or not at all; every file is hashed while it is written.
import { createHash } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { syncFolder, translateWriteError, writeAll } from '../../payloads/file-payload-store.js'

export interface ExportedFile {
  /** Relative to the exports folder. */
  path: string
  sizeBytes: number
  sha256: string
}

const temporaryPrefix = '.tmp-'
export const exportsFolder = (dataFolder: string) => join(dataFolder, 'exports')

/** Runs `write` on a temporary folder and moves it to exports/<jobId>; a failure leaves nothing. */
export async function writeExport(
  dataFolder: string,
  jobId: string,
  write: (
    file: (name: string, chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) => Promise<void>,
  ) => Promise<void>,
): Promise<ExportedFile[]> {
  const root = exportsFolder(dataFolder)
  const temporary = join(root, `${temporaryPrefix}${jobId}`)
  const final = join(root, jobId)
  await rm(temporary, { recursive: true, force: true })
  await mkdir(temporary, { recursive: true })
  const files: ExportedFile[] = []
  try {
    await write(async (name, chunks) => {
      const hash = createHash('sha256')
      const path = join(temporary, name)
      await mkdir(dirname(path), { recursive: true })
      const file = await open(path, 'wx')
      let sizeBytes = 0
      try {
        for await (const chunk of chunks) {
          const written = writeAll(file, chunk)
          hash.update(chunk)
          sizeBytes += chunk.length
          await written
        }
        await file.datasync()
      } catch (error) {
        throw translateWriteError(error, `the export ${name}`)
      } finally {
        await file.close()
      }
      files.push({ path: `${jobId}/${name}`, sizeBytes, sha256: hash.digest('hex') })
    })
    for (const folder of new Set(files.map(f => dirname(join(root, `${temporaryPrefix}${f.path}`)))))
      await syncFolder(folder)
    await syncFolder(temporary)
    // A retried job replaces what its first attempt wrote.
    await rm(final, { recursive: true, force: true })
    await rename(temporary, final)
    await syncFolder(root)
    return files
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw error
  }
}

/** Removes the exports of all jobs but these; only while no job runs. */
export async function removeOtherExports(dataFolder: string, keep: readonly string[]) {
  const root = exportsFolder(dataFolder)
  const kept = new Set(keep)
  let removed = 0
  let bytes = 0
  for (const name of await readdir(root).catch(() => [] as string[])) {
    if (name.startsWith(temporaryPrefix) || kept.has(name)) continue
    const folder = join(root, name)
    for (const file of await readdir(folder, { recursive: true }).catch(() => [] as string[])) {
      const entry = await stat(join(folder, file))
      if (entry.isFile()) bytes += entry.size
    }
    await rm(folder, { recursive: true, force: true })
    removed++
  }
  return { removed, bytes }
}

/** Removes what killed exports left; only while no job runs. */
export async function removeUnfinishedExports(dataFolder: string): Promise<void> {
  const root = exportsFolder(dataFolder)
  for (const name of await readdir(root).catch(() => [] as string[])) {
    if (name.startsWith(temporaryPrefix)) await rm(join(root, name), { recursive: true, force: true })
  }
}
