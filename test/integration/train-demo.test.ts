import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { projectFile } from '../../lib/project.js'

const run = promisify(execFile)
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'train-demo-test-'))
})
afterAll(() => rm(folder, { recursive: true }))

const train = async (name: string, ...options: string[]) => {
  const { stdout } = await run(process.execPath, [
    projectFile('dist', 'scripts', 'train-demo.js'),
    join(folder, name),
    ...options,
  ])
  const weights = await readFile(join(folder, name, 'model.safetensors'))
  return { stdout, hash: createHash('sha256').update(weights).digest('hex') }
}

test('the demo model trains from nothing to the same bytes for the same seed', async () => {
  const first = await train('first', '--steps', '2')
  expect((await readdir(join(folder, 'first'))).sort()).toEqual(
    expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json']),
  )
  // 512 tokens to choose from: nothing is known yet.
  const loss = Number(/loss ([\d.]+)/.exec(first.stdout)?.[1])
  expect(loss).toBeGreaterThan(5)
  expect(loss).toBeLessThan(8)
  expect((await train('again', '--steps', '2')).hash).toBe(first.hash)
}, 120_000)

test('a count of steps that is none is wrong usage', async () => {
  await expect(train('none', '--steps', '0')).rejects.toMatchObject({ code: 2 })
})
