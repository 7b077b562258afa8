// A control group of the kernel that limits a process and its children to so much memory, page cache included, and tells their peak.
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface MemoryLimit {
  /** Puts a process, and the children it starts from now on, under the limit. */
  add(pid: number): void
  /** Peak of everything counted, in bytes: at the limit as soon as files of that size were read. */
  peakBytes(): number
  /** Anonymous memory now: what cannot be dropped and read again. */
  anonymousBytes(): number
  /** Processes that the kernel ended because the limit could not be kept. */
  killed(): number
  remove(): void
}

/** Throws where this process may not make control groups (root may). */
export function limitMemory(bytes: number): MemoryLimit {
  const [first, second] = ['/sys/fs/cgroup/memory', '/sys/fs/cgroup']
  const old = existsSync(join(first, 'memory.limit_in_bytes'))
  const folder = join(old ? first : second, `hartonomous-bench-${process.pid}`)
  const names = old
    ? {
        limit: 'memory.limit_in_bytes',
        peak: 'memory.max_usage_in_bytes',
        anonymous: 'total_rss',
        events: 'memory.oom_control',
      }
    : { limit: 'memory.max', peak: 'memory.peak', anonymous: 'anon', events: 'memory.events' }
  mkdirSync(folder)
  const read = (name: string) => readFileSync(join(folder, name), 'utf8')
  const field = (text: string, name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
  writeFileSync(join(folder, names.limit), String(bytes))
  return {
    add: pid => writeFileSync(join(folder, 'cgroup.procs'), String(pid)),
    peakBytes: () => Number(read(names.peak)),
    anonymousBytes: () => field(read('memory.stat'), names.anonymous),
    killed: () => field(read(names.events), 'oom_kill'),
    remove: () => rmdirSync(folder),
  }
}
