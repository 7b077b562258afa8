// Exports that are ingested again are the model that they were written from, as long as nobody changed them.
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { quantiseManifest } from '../../../../compute/handlers/quantise-manifest.js'
import { type ExportQuantization, jobTypes } from '../../../../compute/pool/job-types.js'
import type { ModelFacts } from '../../../../lib/model-facts.js'
import { quantizationSchema } from '../../../../lib/quantization.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
/** Manifests by how they were made. */
const models: Record<string, string> = {}
const made = ['original', 'cut', 'pruned', 'quantised'] as const

beforeAll(async () => {
  context = await handlerContext()
  models.original = (await ingestModel({ source: 'demo/model' }, context)).manifest
  const build = async (stages: object) => {
    const layers = [
      { from: 0, to: 3 },
      { from: 5, to: 8 },
    ]
    const input = jobTypes['student.build'].input.parse({ parent: models.original, layers, stages })
    return (await runStages(input, context)).at(-1)!.manifest
  }
  models.cut = await build({})
  models.pruned = await build({
    headPruning: { metric: 'RANDOM', remove: 1 },
    feedForwardPruning: { metric: 'RANDOM', keep: 320 },
  })
  const options = quantizationSchema.parse({ type: 'INT4', method: 'ROUND_TO_NEAREST' })
  models.quantised = (await quantiseManifest(models.original, options, undefined, context)).manifest
})
afterAll(() => context.dispose())

const facts = (name: string, manifest: string): ModelFacts => ({
  ...{ version: null, recipe: null, quality: null, scores: [], history: [], built: [] },
  lineage: [
    {
      ...{ name, manifest, parameterCount: 1, layerCount: 6, source: null, license: null, objective: null },
    },
  ],
})

async function exported(name: string, format: 'SAFETENSORS' | 'GGUF', quantization?: ExportQuantization) {
  const manifest = models[name]!
  const input = { manifest, name, format, facts: facts(name, manifest), ...(quantization && { quantization }) }
  const { files } = await exportModel(input, context)
  const folder = join(context.dataFolder, 'exports', 'job')
  return { folder, source: format === 'GGUF' ? join(context.dataFolder, 'exports', files[0]!.path) : folder }
}
const stored = async () => {
  const all = []
  for await (const { hash } of context.payloads.list()) all.push(hash)
  return all.sort()
}

describe.each(['SAFETENSORS', 'GGUF'] as const)('%s', format => {
  test.each(made)('the %s model comes back as itself, and nothing is stored twice', async name => {
    const before = await stored()
    const { source } = await exported(name, format)
    expect((await ingestModel({ source }, context)).manifest).toBe(models[name])
    expect(await stored()).toEqual(before)
  })

  test('in another type it is another model', async () => {
    const { source } = await exported('cut', format, 'F16')
    const { manifest } = await ingestModel({ source }, context)
    expect(manifest).not.toBe(models.cut)
    expect((await readManifest(context.payloads, manifest)).parent).toBeUndefined()
  })
})

test('a model that came as GGUF, in blocks of codes, comes back as itself from SafeTensors', async () => {
  const { source } = await exported('cut', 'GGUF', 'Q8_0')
  const file = join(context.dataFolder, 'q8.gguf')
  await rename(source, file)
  models.gguf = (await ingestModel({ source: file }, context)).manifest
  expect((await readManifest(context.payloads, models.gguf)).format).toBe('gguf')
  const { folder } = await exported('gguf', 'SAFETENSORS')
  expect((await ingestModel({ source: folder }, context)).manifest).toBe(models.gguf)
})

test('a changed configuration, tensor or claim makes it another model', async () => {
  const change = async (file: string, to: (bytes: Buffer) => Buffer, name = 'cut') => {
    const { folder } = await exported(name, 'SAFETENSORS')
    const bytes = await readFile(join(folder, file))
    await writeFile(join(folder, file), to(bytes))
    return (await ingestModel({ source: folder }, context)).manifest
  }
  const text = (from: string, to: string) => (bytes: Buffer) => Buffer.from(bytes.toString().replace(from, to))
  expect(await change('config.json', text('"rope_theta": 10000', '"rope_theta": 20000'))).not.toBe(models.cut)
  for (const name of ['cut', 'original']) {
    const flipped = (bytes: Buffer) => {
      bytes[bytes.length - 1]! ^= 1
      return bytes
    }
    const manifest = await change('model.safetensors', flipped, name)
    expect(manifest).not.toBe(models[name])
    const last = async (hash: string) => (await readManifest(context.payloads, hash)).tensors.map(t => t.payload).sort()
    expect(await last(manifest)).not.toEqual(await last(models[name]!))
  }
  expect(await change('README.md', text(models.cut!, models.pruned!))).not.toBe(models.pruned)
  expect(await change('README.md', text('## Limits', '## My own words'))).toBe(models.cut)
})

test('trained tensors are written in the type of the model they come from, rounded to nearest, ties to even', async () => {
  // The demo model as it would have been published in bfloat16, and a child of it in float32.
  const { folder } = await exported('original', 'SAFETENSORS', 'BF16')
  const original = join(context.dataFolder, 'published')
  await rm(original, { recursive: true, force: true })
  await rename(folder, original)
  const parent = (await ingestModel({ source: original }, context)).manifest
  const { parent: _none, sourceFiles: _files, ...trained } = await readManifest(context.payloads, models.original!)
  const { hash } = await context.payloads.put([
    Buffer.from(JSON.stringify({ ...trained, parent: { manifest: parent, layers: [0, 1, 2, 3, 4, 5, 6, 7] } })),
  ])
  models.trained = hash
  const manifest = await exportModel(
    { manifest: hash, name: 'trained', format: 'SAFETENSORS', quantization: 'PARENT' },
    context,
  )
    .then(() => ingestModel({ source: join(context.dataFolder, 'exports', 'job') }, context))
    .then(done => readManifest(context.payloads, done.manifest))
  const before = await readManifest(context.payloads, models.original!)
  expect(new Set(manifest.tensors.map(t => t.dtype))).toEqual(new Set(['BF16']))
  for (const { name, payload } of before.tensors.slice(0, 3)) {
    const floats = new Uint32Array((await context.payloads.get(payload)).slice().buffer)
    const written = new Uint16Array(
      (await context.payloads.get(manifest.tensors.find(t => t.name === name)!.payload)).slice().buffer,
    )
    // Of a float32 the upper half is the bfloat16 below it; the lower half decides.
    const wrong = written.findIndex((bits, i) => {
      const [upper, lower] = [floats[i]! >>> 16, floats[i]! & 0xffff]
      return bits !== upper + (lower > 0x8000 || (lower === 0x8000 && (upper & 1) === 1) ? 1 : 0)
    })
    expect(wrong, name).toBe(-1)
  }
  const config = JSON.parse(await readFile(join(context.dataFolder, 'exports', 'job', 'config.json'), 'utf8'))
  expect(config.torch_dtype).toBe('bfloat16')
  await expect(
    exportModel({ manifest: models.original!, name: 'demo', format: 'SAFETENSORS', quantization: 'PARENT' }, context),
  ).rejects.toMatchObject({ code: 'UNSUPPORTED_FORMAT', message: expect.stringContaining('comes from no other model') })
})
