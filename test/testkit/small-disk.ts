// A file system of a few megabytes, for tests of what happens when the disk is full.
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Its folder, within `parent`, and how to take it away; undefined where this process may not mount one. */
export async function smallDisk(
  megabytes: number,
  parent = tmpdir(),
): Promise<{ path: string; remove(): Promise<void> } | undefined> {
  const path = await mkdtemp(join(parent, 'small-disk-'))
  const clean = () => rm(path, { recursive: true, force: true })
  try {
    const options = { stdio: 'ignore', timeout: 5000 } as const
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', path], options)
  } catch {
    await clean()
    return undefined
  }
  return {
    path,
    async remove() {
      // Lazily: a file that a failed test left open must not hide that test's own message.
      execFileSync('umount', ['-l', path])
      await clean()
    },
  }
}
