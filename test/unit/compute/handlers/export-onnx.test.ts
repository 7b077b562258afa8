// ONNX exports: opened by the plain Node binding of ONNX Runtime, they say what we say; what a graph for others cannot say is refused.
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { openModel } from '../../../../compute/inference/model.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { greedyInBinding, logitsInBinding } from '../../../testkit/greedy-in-binding.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { makePicoLlama, type PicoOptions, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeEach(async () => {
  context = await handlerContext({ HARTONOMOUS_KERNELS: 'float32' })
})
afterEach(() => context.dispose())

const folder = () => join(context.dataFolder, 'exports', 'job')
const json = async (name: string) => JSON.parse(await readFile(join(folder(), name), 'utf8'))

async function greedyHere(hash: string, prompt: readonly number[], count: number) {
  const model = await openModel(await readManifest(context.payloads, hash), context)
  const ids = [...prompt]
  while (ids.length < prompt.length + count) {
    const { logits } = await model.forward({ ids: [ids], wantLogits: 'last' })
    ids.push(logits[0]!.indexOf(Math.max(...logits[0]!)))
  }
  await model.dispose()
  return ids.slice(prompt.length)
}

const prompts = [
  [1, 40, 41, 42],
  [1, 7, 300, 12, 99, 100, 8],
]

test('the demo model says the same tokens in ONNX Runtime’s Node binding, with float32 and with float16 weights', async () => {
  const { manifest } = await ingestModel({ source: 'demo/model' }, context)
  for (const [quantization, graph] of [
    [undefined, 'onnx/model.onnx'],
    ['F16', 'onnx/model_fp16.onnx'],
  ] as const) {
    const { files } = await exportModel({ manifest, name: 'demo', format: 'ONNX', quantization }, context)
    expect(files.map(f => f.path)).toEqual(
      [
        `${graph}_data`,
        graph,
        'config.json',
        'generation_config.json',
        'tokenizer.json',
        'tokenizer_config.json',
        'genai_config.json',
      ].map(name => `job/${name}`),
    )
    for (const prompt of prompts)
      expect(await greedyInBinding(folder(), graph, prompt, 12), graph).toEqual(await greedyHere(manifest, prompt, 12))
  }
  expect((await json('config.json'))['transformers.js_config']).toEqual({
    dtype: 'fp16',
    use_external_data_format: { 'model_fp16.onnx': 1 },
  })
  expect((await json('genai_config.json')).model).toMatchObject({
    ...{ type: 'llama', context_length: 256, vocab_size: 512, eos_token_id: 2, bos_token_id: 1 },
    decoder: { filename: 'onnx/model_fp16.onnx', num_hidden_layers: 8, num_key_value_heads: 2, head_size: 32 },
  })
})

test('layers that differ in query heads and widths, not in key/value heads, say the same tokens', async () => {
  const { manifest: parent } = await ingestModel({ source: 'demo/model' }, context)
  const [some, none] = [[0, 2], []]
  const input = jobTypes['student.build'].input.parse({
    ...{ parent, layers: [{ from: 0, to: 3 }] },
    stages: {
      headPruning: { unit: 'QUERY_HEAD', metric: 'GIVEN', heads: [some, none, none] },
      feedForwardPruning: { metric: 'RANDOM', keep: [320, 256, 320] },
    },
  })
  const { manifest } = (await runStages(input, context)).at(-1)!
  const { perLayer } = (await readManifest(context.payloads, manifest)).dimensions
  expect(new Set(perLayer!.map(l => l.attentionHeadCount)).size).toBe(2)
  await exportModel({ manifest, name: 'pruned', format: 'ONNX' }, context)
  for (const prompt of prompts)
    expect(await greedyInBinding(folder(), 'onnx/model.onnx', prompt, 12)).toEqual(
      await greedyHere(manifest, prompt, 12),
    )
})

/**
 * Of the greatest logit: quantised kernels round activations to 8 bits at every layer, which moves these logits by up to 0.039; codes or scales in
 * a wrong place move them by as much as they are.
 */
const roundedActivations = 0.06

test.each([
  ['Q8_0', 'model_quantized', 'q8'],
  ['Q4_0', 'model_q4', 'q4'],
  ['Q4_1', 'model_q4', 'q4'],
] as const)(
  'blocks of %s are multiplied as they are: logits are those of the same weights',
  async (quantization, file, dtype) => {
    const { manifest } = await ingestModel({ source: 'demo/model' }, context)
    const { files } = await exportModel({ manifest, name: 'demo', format: 'GGUF', quantization }, context)
    const source = join(context.dataFolder, 'blocks.gguf')
    await rename(join(context.dataFolder, 'exports', files[0]!.path), source)
    const blocks = (await ingestModel({ source }, context)).manifest
    const model = await openModel(await readManifest(context.payloads, blocks), context)
    const logits = (await model.forward({ ids: [prompts[1]!], wantLogits: 'last' })).logits[0]!.slice()
    await model.dispose()
    // As asked for, and as stored.
    for (const input of [{ manifest, quantization }, { manifest: blocks }]) {
      await exportModel({ ...input, name: 'demo', format: 'ONNX' }, context)
      const theirs = await logitsInBinding(folder(), `onnx/${file}.onnx`, prompts[1]!)
      const worst = Math.max(...logits.map((value, i) => Math.abs(value - theirs[i]!)))
      expect(worst / Math.max(...logits.map(Math.abs))).toBeLessThan(roundedActivations)
    }
    expect((await json('config.json'))['transformers.js_config'].dtype).toBe(dtype)
  },
)

test('a table of embeddings of its own, which no kernel reads as codes, keeps the numbers it is stored with', async () => {
  const source = join(context.dataFolder, 'untied')
  await mkdir(source)
  const options: PicoOptions = { tied: false, hidden: 64, intermediate: 96 }
  await writePicoLlama(source, options)
  const { manifest } = await ingestModel({ source }, context)
  const { notes } = await exportModel({ manifest, name: 'untied', format: 'ONNX', quantization: 'Q4_0' }, context)
  const { data } = makePicoLlama(options).tensors.get('model.embed_tokens.weight')!
  const weights = await readFile(join(folder(), 'onnx', 'model_q4.onnx_data'))
  expect(weights.includes(Buffer.from(data.buffer))).toBe(true)
  // Nothing was stored in blocks, so that nothing was taken out of them.
  expect(notes?.join()).not.toMatch(/written out as plain numbers/)
})

test('types that ONNX files do not take are refused by name', async () => {
  const { manifest } = await ingestModel({ source: 'demo/model' }, context)
  await expect(
    exportModel({ manifest, name: 'demo', format: 'ONNX', quantization: 'BF16' }, context),
  ).rejects.toMatchObject({ code: 'UNSUPPORTED_FORMAT', message: expect.stringContaining('not BF16') })
  expect(existsSync(folder())).toBe(false)
})
