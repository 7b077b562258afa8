// What teachers say is kept up to a limit and asked for once.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { TeacherRow } from '../../../../compute/training/batch-feeds.js'
import { teacherCache } from '../../../../compute/training/teacher-cache.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'teacher-cache-'))
})
afterAll(() => rm(folder, { recursive: true }))

const say = async (ids: readonly number[]): Promise<TeacherRow> => ({
  ids: Int32Array.from(ids.flatMap(id => [id, id + 1])),
  probabilities: Float32Array.from(ids.flatMap(() => [0.5, 0.25])),
  tail: Float32Array.from(ids, () => 0.25),
  entropy: Float32Array.from(ids, () => -1),
})
/** Of three tokens: two ids and probabilities, tail and entropy each, of 4 bytes. */
const rowBytes = 3 * 6 * 4
const open = (limit: number, vocabulary?: number) =>
  teacherCache(folder, 'teacher', { tokens: 2, temperature: 1, vocabulary }, 4, say, limit)

test('rows are kept while the limit holds, and those beyond it said anew each time', async () => {
  const cache = open(2 * rowBytes)
  for (const first of [10, 20, 30]) await cache.row([first, 1, 2])
  expect(cache.said).toBe(3)
  const again = open(0)
  for (const first of [10, 20, 30]) expect(await again.row([first, 1, 2])).toEqual(await say([first, 1, 2]))
  expect(again.said).toBe(1)
})

test('what is said of a smaller vocabulary is another row', async () => {
  const cache = open(rowBytes, 8)
  await cache.row([10, 1, 2])
  expect(cache.said).toBe(1)
})
