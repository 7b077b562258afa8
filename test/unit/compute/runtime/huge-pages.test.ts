import { readFile } from 'node:fs/promises'
import { release } from 'node:os'
import { describe, expect, test } from 'vitest'
import { anonymousRanges, grownRanges, type Range, watchAllocations } from '../../../../compute/runtime/huge-pages.js'

const megabytes = (from: number, to: number): Range => [BigInt(from) << 20n, BigInt(to) << 20n]

test('of a process’s map only writable private memory without a file counts', () => {
  const maps = [
    '00400000-00600000 r-xp 00000000 fe:00 123                        /usr/bin/node',
    '01000000-09000000 rw-p 00000000 00:00 0                          [heap]',
    '7f0000000000-7f0004000000 rw-p 00000000 00:00 0 ',
    '7f0004000000-7f0008000000 ---p 00000000 00:00 0 ',
    '7f0010000000-7f0014000000 rw-p 00000000 fe:00 456                        /tmp/weights',
    '7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]',
  ].join('\n')
  expect(anonymousRanges(maps)).toEqual([
    [0x1000000n, 0x9000000n],
    [0x7f0000000000n, 0x7f0004000000n],
  ])
})

describe('what memory grew by', () => {
  test.each<[string, Range[], Range[], Range[]]>([
    ['a new range', [], [megabytes(4, 12)], [megabytes(4, 12)]],
    ['a range that grew at its end', [megabytes(4, 8)], [megabytes(4, 20)], [megabytes(8, 20)]],
    ['two sides of a known range', [megabytes(10, 12)], [megabytes(4, 20)], [megabytes(4, 10), megabytes(12, 20)]],
    ['whole huge pages only', [], [megabytes(3, 9)], [megabytes(4, 8)]],
    ['nothing where it shrank', [megabytes(4, 20)], [megabytes(4, 8)], []],
    ['nothing below one huge page', [], [megabytes(3, 5)], []],
  ])('%s', (_, before, after, expected) => {
    expect(grownRanges(before, after)).toEqual(expected)
  })
})

test('memory allocated while watched is as it was, and on Linux lies on huge pages where the kernel can', async () => {
  const begin = await watchAllocations()
  const memory = Buffer.alloc(64 << 20, 7)
  await begin().done
  expect(memory.every(byte => byte === 7)).toBe(true)
  const [major, minor] = release().split('.').map(Number) as [number, number]
  // Copying into huge pages came with Linux 6.1.
  if (process.platform !== 'linux' || major < 6 || (major === 6 && minor < 1)) return
  const enabled = await readFile('/sys/kernel/mm/transparent_hugepage/enabled', 'utf8').catch(() => '[never]')
  if (enabled.includes('[never]')) return
  const huge = /AnonHugePages: *(\d+)/.exec(await readFile('/proc/self/smaps_rollup', 'utf8'))
  expect(Number(huge?.[1])).toBeGreaterThan(32 * 1024)
})
