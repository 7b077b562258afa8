import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { keptFigures } from '../../../../bench/kit/kept-figures.js'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kept-figures-'))
})
afterEach(() => rm(folder, { recursive: true }))

test('a figure is kept for the same code and inputs only, and says when it was found', async () => {
  let runs = 0
  const find = async () => ++runs
  const inputs = { judged: 'a'.repeat(64), samples: 4 }
  const first = await keptFigures(folder, 'one')
  expect(await first.of(inputs, find)).toEqual({ found: 1 })
  const resumed = await keptFigures(folder, 'one')
  expect(await resumed.of(inputs, find)).toEqual({ found: 1, keptFrom: expect.stringMatching(/^\d{4}-.*Z$/) })
  expect(await resumed.of({ ...inputs, judged: 'b'.repeat(64) }, find)).toEqual({ found: 2 })
  expect(await resumed.of({ ...inputs, samples: 8 }, find)).toEqual({ found: 3 })
  expect(await (await keptFigures(folder, 'other')).of(inputs, find)).toEqual({ found: 4 })
})

test('where nothing says which code runs, this version and commit do', async () => {
  const find = async () => 1
  await (await keptFigures(folder)).of({ x: 1 }, find)
  expect(await (await keptFigures(folder)).of({ x: 1 }, find)).toMatchObject({ keptFrom: expect.any(String) })
  expect(await (await keptFigures(folder, 'other')).of({ x: 1 }, find)).toEqual({ found: 1 })
})
