// Creates a folder with its parents, and ends also where the file system takes none.
import { existsSync, mkdirSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

/**
 * As `mkdir -p`. Node's own `recursive: true` does not come back where a file system answers ENOENT below a folder that exists, as /proc does.
 * @throws Error of the system, e.g. ENOENT, EACCES, ENOTDIR, EEXIST where a file has the name
 */
export function makeFolder(path: string): void {
  const folder = resolve(path)
  const parent = dirname(folder)
  if (!existsSync(parent)) makeFolder(parent)
  if (existsSync(folder)) {
    // Fails where it is a file.
    mkdirSync(folder, { recursive: true })
    return
  }
  try {
    mkdirSync(folder)
  } catch (error) {
    // Another process was faster.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
