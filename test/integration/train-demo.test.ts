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

/** The float32 tensors that were written: length of the header, header, bytes. */
async function readTensors(name: string) {
  const bytes = await readFile(join(folder, name, 'model.safetensors'))
  const begin = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, begin)) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >
  return Object.entries(header).flatMap(([tensor, { dtype, data_offsets }]) => {
    if (dtype !== 'F32') return []
    const [from, to] = data_offsets.map(at => at + begin) as [number, number]
    return [{ name: tensor, values: new Float32Array(Uint8Array.from(bytes.subarray(from, to)).buffer) }]
  })
}

test('the demo model trains from nothing to the same bytes for the same seed', async () => {
  const first = await train('first', '--steps', '2')
  expect((await readdir(join(folder, 'first'))).sort()).toEqual(
    expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json']),
  )
  // What blocks add to the residual stream is nothing before the first step: these weights begin as zeros.
  const outputs = (await readTensors('first')).filter(({ name }) => /(o|down)_proj\.weight$/.test(name))
  expect(outputs).toHaveLength(16)
  for (const { name, values } of outputs)
    expect(
      values.some(value => value !== 0 && Number.isFinite(value)),
      name,
    ).toBe(true)
  // 512 tokens to choose from: nothing is known yet.
  const loss = Number(/loss ([\d.]+)/.exec(first.stdout)?.[1])
  expect(loss).toBeGreaterThan(5)
  expect(loss).toBeLessThan(8)
  expect((await train('again', '--steps', '2')).hash).toBe(first.hash)
}, 240_000)

test('a count of steps that is none is wrong usage', async () => {
  await expect(train('none', '--steps', '0')).rejects.toMatchObject({ code: 2 })
})
