// GGUF export of models whose RoPE is scaled: what is said comes along, and what cannot be said is refused, never left out.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readGguf } from '../../../../compute/formats/gguf.js'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { memoryAccess } from '../../../../compute/formats/random-access.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { encodeSafetensors, makePicoLlama, picoTokenizer } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeEach(async () => {
  context = await handlerContext()
})
afterEach(() => context.dispose())

/** Manifest of a pico model of this family with this `rope_scaling`. */
async function ingestScaled(rope_scaling: Record<string, unknown> | undefined, model_type = 'llama') {
  const { tensors, config } = makePicoLlama()
  if (model_type === 'qwen2')
    for (const [name, { shape }] of [...tensors])
      if (/[qkv]_proj\.weight$/.test(name))
        tensors.set(name.replace('weight', 'bias'), { shape: [shape[0]!], data: new Float32Array(shape[0]!) })
  const folder = join(context.dataFolder, 'source')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(tensors))
  const architectures = [model_type === 'qwen2' ? 'Qwen2ForCausalLM' : 'LlamaForCausalLM']
  await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, model_type, architectures, rope_scaling }))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(picoTokenizer()))
  return (await ingestModel({ source: folder }, context)).manifest
}

async function exportGguf(manifest: string, quantization?: 'F16') {
  const input = { manifest, name: 'm', format: 'GGUF', ...(quantization && { quantization }) } as const
  const [file] = (await exportModel(input, context)).files
  return join(context.dataFolder, 'exports', file!.path)
}

const scalingOf = async (file: string) => {
  const { metadata, tensors } = await readGguf(memoryAccess(await readFile(file)))
  const stated = [...metadata].filter(([key]) => key.includes('.rope.scaling.'))
  return { stated: Object.fromEntries(stated), factors: tensors.some(t => t.name === 'rope_freqs.weight') }
}

const llama3 = {
  ...{ rope_type: 'llama3', factor: 32, low_freq_factor: 1, high_freq_factor: 4 },
  original_max_position_embeddings: 32,
}

describe('a SafeTensors model', () => {
  test.each(['llama', 'qwen2'])('of %s with linear scaling says it', async family => {
    const file = await exportGguf(await ingestScaled({ rope_type: 'linear', factor: 4 }, family))
    expect((await scalingOf(file)).stated).toEqual({
      [`${family}.rope.scaling.type`]: 'linear',
      [`${family}.rope.scaling.factor`]: 4,
    })
  })

  test('of llama with the scaling of Llama 3 has its factors as a tensor', async () => {
    expect(await scalingOf(await exportGguf(await ingestScaled(llama3)))).toEqual({ stated: {}, factors: true })
  })

  test('without scaling says nothing of it', async () => {
    expect(await scalingOf(await exportGguf(await ingestScaled(undefined)))).toEqual({ stated: {}, factors: false })
  })

  test.each([
    ['llama', { rope_type: 'yarn', factor: 4 }, 'UNSUPPORTED_ARCHITECTURE', 'RoPE scaling "yarn" is not known here'],
    ['qwen2', { type: 'longrope' }, 'UNSUPPORTED_ARCHITECTURE', 'RoPE scaling "longrope" is not known here'],
    ['llama', { type: 'linear' }, 'UNSUPPORTED_ARCHITECTURE', 'RoPE scaling "linear": factor is undefined'],
    [
      'qwen2',
      llama3,
      'UNSUPPORTED_FORMAT',
      'RoPE scaling "llama3": GGUF can say it for llama models only, not for qwen2',
    ],
  ])(
    '%#: of %s with what GGUF files of ours cannot say is refused, and nothing is written',
    async (family, scaling, code, message) => {
      const manifest = await ingestScaled(scaling, family)
      await expect(exportGguf(manifest)).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
      expect(await readdir(join(context.dataFolder, 'exports')).catch(() => [])).toEqual([])
      await exportModel({ manifest, name: 'm', format: 'SAFETENSORS' }, context)
    },
  )
})

/** The model of a GGUF file whose metadata says this of its scaling. */
async function ggufStating(stated: Record<string, unknown>, ropeScaling: Record<string, unknown> | undefined) {
  const { manifest } = await ingestModel({ source: await exportGguf(await ingestScaled(undefined)) }, context)
  const { sourceFiles: _, ...model } = await readManifest(context.payloads, manifest)
  const metadata = { 'general.architecture': 'llama', ...stated }
  const { hash: sourceConfig } = await context.payloads.put([Buffer.from(JSON.stringify(metadata))])
  const dimensions = { ...model.dimensions, ...(ropeScaling && { ropeScaling }) }
  return (await writeManifest(context.payloads, { ...model, dimensions, sourceConfig })).hash
}

describe('a GGUF model', () => {
  const yarn = {
    'llama.rope.scaling.type': 'yarn',
    'llama.rope.scaling.factor': 4,
    'llama.rope.scaling.original_context_length': 32,
  }
  const asRead = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 }

  test('keeps every number that it states for YaRN, in the type that llama.cpp reads', async () => {
    const stated = {
      ...yarn,
      'llama.rope.scaling.finetuned': true,
      'llama.rope.scaling.yarn_beta_fast': 16,
      'llama.rope.scaling.yarn_log_multiplier': 0.5,
    }
    const file = await exportGguf(await ggufStating(stated, asRead), 'F16')
    expect((await scalingOf(file)).stated).toEqual(stated)
    const again = await ingestModel({ source: file }, context)
    expect((await readManifest(context.payloads, again.manifest)).dimensions.ropeScaling).toEqual(asRead)
    // 16 as float32: type 6, 00 00 80 41.
    const bytes = (await readFile(file)).toString('latin1')
    expect(bytes).toContain('llama.rope.scaling.yarn_beta_fast\x06\0\0\0\0\0\x80\x41')
  })

  test('keeps a factor that is stated without a type, which llama.cpp takes for a linear one', async () => {
    const stated = { 'llama.rope.scaling.factor': 2.5 }
    expect((await scalingOf(await exportGguf(await ggufStating(stated, undefined)))).stated).toEqual(stated)
  })

  test('whose scaling has a key that is no single value is refused, naming it', async () => {
    const stated = { ...yarn, 'llama.rope.scaling.ext': [1, 2] }
    await expect(exportGguf(await ggufStating(stated, asRead))).rejects.toMatchObject({
      code: 'UNSUPPORTED_FORMAT',
      message: 'GGUF metadata llama.rope.scaling.ext: is [1,2], expected one value',
    })
  })
})

test('a file that names a model whose scaling GGUF cannot say is ingested as a model of its own', async () => {
  const manifest = await ingestScaled(undefined)
  const file = await readFile(await exportGguf(manifest))
  const yarn = await ingestScaled({ rope_type: 'yarn', factor: 4 })
  const claiming = join(context.dataFolder, 'claiming.gguf')
  await writeFile(claiming, Buffer.from(file.toString('latin1').replaceAll(manifest, yarn), 'latin1'))
  const again = await ingestModel({ source: claiming }, context)
  expect(again.manifest).not.toBe(yarn)
})
