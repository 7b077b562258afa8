// Puts memory that a session allocated for its weights onto pages of 2 MB. A decoding step reads all of them once: on pages of 4 KB every
// one of those is a miss of the address translation, which inside a virtual machine costs more than the page's bytes do.
import { readFile } from 'node:fs/promises'
import koffi from 'koffi'
import type { Pointer } from './ort-api.js'

/** [from, to) of addresses. */
export type Range = readonly [from: Pointer, to: Pointer]

/** From sys/mman.h: what is mapped later comes in huge pages; what is there now is copied into them (Linux 6.1). */
const [madvHugePage, madvCollapse] = [14, 25]
const hugePage = 2n << 20n
/** Less memory than this is not worth a look. */
const leastBytes = 16n << 20n
/** Moved in one call: some milliseconds. */
const stepBytes = 32n << 20n

/** Ranges of /proc/self/maps that are private memory without a file, writable: what allocators hand out. */
export const anonymousRanges = (maps: string): Range[] =>
  [...maps.matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 *(?:\[heap\])?$/gm)].map(([, from, to]) => [
    BigInt(`0x${from}`),
    BigInt(`0x${to}`),
  ])

/** What of `after` is not in `before`, cut to whole huge pages; both in order of addresses. */
export function grownRanges(before: readonly Range[], after: readonly Range[]): Range[] {
  const grown: Range[] = []
  const add = (from: Pointer, to: Pointer) => {
    const [first, last] = [((from + hugePage - 1n) / hugePage) * hugePage, (to / hugePage) * hugePage]
    if (last > first) grown.push([first, last])
  }
  for (const [from, to] of after) {
    let at = from
    for (const [known, end] of before) {
      if (end <= at || known >= to) continue
      if (known > at) add(at, known)
      at = end
    }
    if (at < to) add(at, to)
  }
  return grown
}

interface Memory {
  advise(address: Pointer, bytes: Pointer, advice: number): Promise<void>
  /** Gives freed memory back to the system. */
  trim(): Promise<void>
}

/**
 * glibc maps each allocation above a bound by itself, at no multiple of a huge page and between mapped files; below it they lie side by
 * side. Left alone it raises the bound to this, its highest, once such a mapping was freed.
 */
const [mapThresholdOption, mapThreshold] = [-3, 32 << 20]

/** undefined where the system or its C library has no such calls. */
function loadMemory(): Memory | undefined {
  if (process.platform !== 'linux') return undefined
  try {
    const libc = koffi.load('libc.so.6')
    const madvise = libc.func('madvise', 'int', ['uint64_t', 'size_t', 'int'])
    const trim = libc.func('malloc_trim', 'int', ['size_t'])
    libc.func('mallopt', 'int', ['int', 'int'])(mapThresholdOption, mapThreshold)
    return {
      // Whether it works is no matter of correctness: older kernels refuse, and free memory may be too scattered.
      advise: (address, bytes, advice) =>
        new Promise(resolve => madvise.async(address, bytes, advice, () => resolve())),
      trim: () => new Promise(resolve => trim.async(0, () => resolve())),
    }
  } catch {
    return undefined
  }
}
let memory: Memory | undefined | null = null
const loadedMemory = () => {
  if (memory === null) memory = loadMemory()
  return memory
}

const currentRanges = async () => anonymousRanges(await readFile('/proc/self/maps', 'utf8').catch(() => ''))

/** What `watchAllocations` began. */
export interface Moving {
  done: Promise<void>
  /** To be awaited before the memory is freed: else pages would come back that nobody uses. */
  stop(): Promise<void>
}

/**
 * Call it before memory is allocated and what it gives afterwards: that begins to put what was allocated in between on huge pages, as far
 * as the system can. The memory may be used meanwhile.
 */
export async function watchAllocations(): Promise<() => Moving> {
  const calls = loadedMemory()
  if (!calls) return () => ({ done: Promise.resolve(), stop: async () => {} })
  const before = await currentRanges()
  return () => {
    let stopped = false
    const move = async () => {
      const grown = grownRanges(before, await currentRanges())
      if (grown.reduce((sum, [from, to]) => sum + to - from, 0n) < leastBytes) return
      for (const [from, to] of grown) {
        for (let at = from; at < to && !stopped; at += stepBytes) {
          const bytes = to - at < stepBytes ? to - at : stepBytes
          await calls.advise(at, bytes, madvHugePage)
          await calls.advise(at, bytes, madvCollapse)
        }
      }
    }
    const done = move()
    return {
      done,
      stop() {
        stopped = true
        return done
      },
    }
  }
}

/** Gives back what was freed and lies between what is not. */
export const trimAllocations = async (): Promise<void> => loadedMemory()?.trim()
