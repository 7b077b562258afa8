// Pruned models leave the platform and come back as they were; where a format cannot hold them, the refusal says which one can.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { openModel } from '../../../../compute/inference/model.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { readGolden, writeGoldenFolder } from '../../../testkit/golden-models.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let llama: string
let qwen: string
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  await writePicoLlama(join(context.dataFolder, 'pico'), { layers: 3 })
  llama = (await ingestModel({ source: join(context.dataFolder, 'pico') }, context)).manifest
  const source = await writeGoldenFolder(await readGolden('qwen2'), join(context.dataFolder, 'qwen2'))
  qwen = (await ingestModel({ source }, context)).manifest
})
afterAll(() => context.dispose())

async function prune(parent: string, heads: number[][], keep?: number): Promise<string> {
  const input = jobTypes['student.build'].input.parse({
    parent,
    layers: [{ from: 0, to: 3 }],
    stages: {
      headPruning: { metric: 'GIVEN', heads },
      ...(keep ? { feedForwardPruning: { metric: 'RANDOM', keep } } : {}),
    },
  })
  return (await runStages(input, context)).at(-1)!.manifest
}
let count = 0
async function exported(manifest: string, format: 'SAFETENSORS' | 'GGUF') {
  const jobId = `export-${count++}`
  const { files } = await exportModel({ manifest, name: 'pruned', format }, { ...context, jobId })
  const folder = join(context.dataFolder, 'exports', jobId)
  return { folder, files: files.map(f => f.path.split('/').at(-1)!) }
}
async function logits(manifest: string): Promise<number[]> {
  const model = await openModel(await readManifest(context.payloads, manifest), context)
  const ids = [1, 5, 9, 4, 22, 17]
  const result = await model.forward({ ids: [ids], wantLogits: 'last' })
  await model.dispose()
  return [...result.logits[0]!]
}
const expectClose = (found: number[], wanted: number[]) => {
  expect(Math.max(...wanted.map((value, i) => Math.abs(value - found[i]!)))).toBeLessThan(1e-4)
}

it.each([
  ['llama', 2, 40],
  ['qwen2', 2, 64],
] as const)('%s with the same sizes in all layers, as a folder and as GGUF', async (family, heads, keep) => {
  const manifest = await prune(family === 'llama' ? llama : qwen, [[1], [0], [1]], keep)
  const { folder } = await exported(manifest, 'SAFETENSORS')
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
  expect(config).toMatchObject({ num_attention_heads: heads, num_key_value_heads: 1, intermediate_size: keep })
  const before = await logits(manifest)
  expectClose(await logits((await ingestModel({ source: folder }, context)).manifest), before)
  const gguf = await exported(manifest, 'GGUF')
  expectClose(await logits((await ingestModel({ source: gguf.folder }, context)).manifest), before)
})

it('says where transformers will not open what was pruned', async () => {
  const source = join(context.dataFolder, 'three')
  await writePicoLlama(source, { heads: 4, keyValueHeads: 4 })
  const parent = (await ingestModel({ source }, context)).manifest
  const { layerCount, hiddenSize } = (await readManifest(context.payloads, parent)).dimensions
  expect(hiddenSize! % 3).not.toBe(0)
  const stages = { headPruning: { metric: 'GIVEN', heads: Array.from({ length: layerCount }, () => [0]) } }
  const input = jobTypes['student.build'].input.parse({ parent, layers: [{ from: 0, to: layerCount }], stages })
  const manifest = (await runStages(input, context)).at(-1)!.manifest
  const notesOf = async (of: string, jobId: string) =>
    (await exportModel({ manifest: of, name: 'pruned', format: 'SAFETENSORS' }, { ...context, jobId })).notes ?? []
  expect(await notesOf(manifest, 'three')).toEqual([
    expect.stringContaining(`hidden_size (${hiddenSize}) is no multiple of their heads (3)`),
  ])
  expect(await notesOf(parent, 'four')).toEqual([])
})

it('with other sizes in each layer as GGUF only, whose numbers by layer are read back', async () => {
  const manifest = await prune(llama, [[1], [], [0]])
  await expect(exported(manifest, 'SAFETENSORS')).rejects.toMatchObject({
    code: 'UNSUPPORTED_FORMAT',
    message: expect.stringMatching(/key\/value heads 1, 2, 1.*GGUF can say it/),
  })
  const { folder } = await exported(manifest, 'GGUF')
  const again = (await ingestModel({ source: folder }, context)).manifest
  const { architecture, dimensions } = await readManifest(context.payloads, again)
  expect(architecture).toBe('deci')
  expect(dimensions.perLayer).toEqual((await readManifest(context.payloads, manifest)).dimensions.perLayer)
  expectClose(await logits(again), await logits(manifest))
})

it('with other sizes in each layer of a family that no format can hold, not at all', async () => {
  const manifest = await prune(qwen, [[1], [], [0]])
  await expect(exported(manifest, 'GGUF')).rejects.toMatchObject({
    code: 'UNSUPPORTED_FORMAT',
    message: expect.stringContaining('GGUF can say that for llama models only'),
  })
})
