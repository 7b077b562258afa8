// Folders under <data>/downloads: one per address, held by one process at a time, kept after a failure so that the next try resumes.
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** An abandoned partial download is kept this long for somebody to try again. */
const keepMilliseconds = 7 * 24 * 3600 * 1000
const lockName = '.lock'

/** Locks of this process, by path: a lock with our process id that is not here was left by a predecessor. */
const held = new Set<string>()

export interface DownloadFolder {
  path: string
  /** Gives the folder back; `remove` deletes what was downloaded. */
  release(remove: boolean): Promise<void>
}

const downloadsFolder = (dataFolder: string) => join(dataFolder, 'downloads')

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function tryLock(lock: string): Promise<boolean> {
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      await writeFile(lock, String(process.pid), { flag: 'wx' })
      held.add(lock)
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const pid = Number(await readFile(lock, 'utf8').catch(() => ''))
    if (held.has(lock) || (pid > 0 && pid !== process.pid && isAlive(pid))) return false
    await rm(lock, { force: true })
  }
  return false
}

/** The folder of an address, or one of its own where another download of the same address is under way. */
export async function claimDownloadFolder(dataFolder: string, address: string): Promise<DownloadFolder> {
  const name = createHash('sha256').update(address).digest('hex')
  const shared = join(downloadsFolder(dataFolder), name)
  await mkdir(shared, { recursive: true })
  const lock = join(shared, lockName)
  if (await tryLock(lock)) {
    return {
      path: shared,
      async release(remove) {
        await rm(remove ? shared : lock, { recursive: true, force: true })
        held.delete(lock)
      },
    }
  }
  const own = `${shared}-${process.pid}-${randomUUID()}`
  await mkdir(own)
  return { path: own, release: () => rm(own, { recursive: true, force: true }) }
}

/** Removes folders that nobody has touched for a week, and private ones whose process has ended. */
export async function removeStaleDownloads(
  dataFolder: string,
  now = Date.now(),
): Promise<{ removed: number; bytes: number }> {
  const root = downloadsFolder(dataFolder)
  let removed = 0
  let bytes = 0
  for (const name of await readdir(root).catch(() => [] as string[])) {
    const folder = join(root, name)
    const files = await readdir(folder).catch(() => [] as string[])
    let newest = (await stat(folder).catch(() => undefined))?.mtimeMs ?? 0
    let size = 0
    for (const file of files) {
      const entry = await stat(join(folder, file)).catch(() => undefined)
      newest = Math.max(newest, entry?.mtimeMs ?? 0)
      size += entry?.size ?? 0
    }
    // Private folders (address, process, random) are never resumed.
    const abandoned = name.includes('-') && !isAlive(Number(name.split('-')[1]))
    if (!abandoned && now - newest < keepMilliseconds) continue
    await rm(folder, { recursive: true, force: true })
    removed++
    bytes += size
  }
  return { removed, bytes }
}
