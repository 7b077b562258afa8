// Every architecture against transformers: small models from both file formats give the golden logits, losses and tokens.
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import {
  type Golden,
  goldenWeights,
  readGolden,
  writeGoldenFolder,
  writeGoldenGguf,
} from '../../../testkit/golden-models.js'
import { greedyInBinding } from '../../../testkit/greedy-in-binding.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { encodeSafetensors } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let folder: string
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  folder = join(context.dataFolder, 'sources')
})
afterAll(() => context.dispose())

const open: LoadedModel[] = []
async function openManifest(hash: string): Promise<LoadedModel> {
  const model = await openModel(await readManifest(context.payloads, hash), context)
  open.push(model)
  return model
}
afterEach(async () => {
  for (const model of open.splice(0)) await model.dispose()
})

/** Greatest difference, relative to the greatest logit. */
const worst = (a: ArrayLike<number>, b: readonly number[]) =>
  Math.max(...b.map((value, i) => Math.abs(a[i]! - value))) / Math.max(...b.map(Math.abs))
const best = (logits: Float32Array) => logits.indexOf(Math.max(...logits))
const last = ({ ids }: Golden) => String(ids.length - 1)

/** Tokens chosen one by one after a prompt. */
async function greedy(model: LoadedModel, prompt: readonly number[], count: number): Promise<number[]> {
  const sequence = model.startSequence()
  const tokens = [best(await sequence.append(prompt))]
  while (tokens.length < count) tokens.push(best(await sequence.append(tokens.slice(-1))))
  return tokens
}

async function logitsOf(hash: string, { ids }: Golden): Promise<Float32Array> {
  return (await (await openManifest(hash)).forward({ ids: [ids], wantLogits: 'last' })).logits[0]!
}

const families = ['qwen2', 'qwen2-untied', 'qwen3', 'mistral', 'gemma', 'gpt2']
const cases = families.flatMap(name => (['safetensors', 'gguf'] as const).map(format => [name, format] as const))

describe.each(cases)('%s from %s', (name, format) => {
  let golden: Golden
  let manifest: string
  beforeAll(async () => {
    golden = await readGolden(name)
    const to = join(folder, `${name}-${format}`)
    const source = format === 'gguf' ? await writeGoldenGguf(golden, to) : await writeGoldenFolder(golden, to)
    manifest = (await ingestModel({ source }, context)).manifest
  })

  test('gives the logits that transformers gives, padded rows too', async () => {
    const model = await openManifest(manifest)
    const { logits } = await model.forward({ ids: [[1, 9, 5], golden.ids], wantLogits: 'all' })
    for (const [position, expected] of Object.entries(golden.logits)) {
      const at = Number(position) * 128
      expect(worst(logits[1]!.subarray(at, at + 128), expected), `position ${position}`).toBeLessThan(2e-6)
    }
  })

  test('exports as an ONNX graph that says the tokens of transformers', async () => {
    const { files } = await exportModel({ manifest, name, format: 'ONNX' }, context)
    const to = join(context.dataFolder, 'exports', dirname(files.find(f => f.path.endsWith('config.json'))!.path))
    const prompt = golden.ids.slice(0, golden.completionStart)
    expect(await greedyInBinding(to, 'onnx/model.onnx', prompt, 16)).toEqual(golden.greedy)
  })

  test('scores a completion as transformers does, whole and without a layer', async () => {
    const model = await openManifest(manifest)
    const { ids, completionStart, nll, skipped } = golden
    const gates = Float32Array.from({ length: 3 }, (_, layer) => (layer === skipped.layer ? 0 : 1))
    const samples = [0, 1].map(() => ({ ids, completionStart }))
    const [whole, without] = await model.score(samples, { gates: [new Float32Array(3).fill(1), gates] })
    expect(Math.abs(whole!.nll / nll - 1)).toBeLessThan(1e-6)
    expect(Math.abs(without!.nll / skipped.nll - 1)).toBeLessThan(1e-6)
  })

  test('its graph for gradients has the same loss, and a gradient for every head', async () => {
    const { ids, completionStart, nll } = golden
    const model = await openManifest(manifest)
    const [found] = await model.headGradients([{ ids, completionStart }])
    expect(Math.abs((found!.loss * (ids.length - completionStart)) / nll - 1)).toBeLessThan(1e-6)
    expect(found!.gradients.length).toBe(3 * 4)
    expect(found!.gradients.every(g => Number.isFinite(g) && g !== 0)).toBe(true)
  })

  test('decodes the same tokens with its cache', async () => {
    const { ids, completionStart, greedy: expected } = golden
    const model = await openManifest(manifest)
    expect(await greedy(model, ids.slice(0, completionStart), expected.length)).toEqual(expected)
  })

  test('a student without a layer gives the logits of transformers without it, also when exported and read again', async () => {
    const layers = [
      { from: 0, to: golden.skipped.layer },
      { from: golden.skipped.layer + 1, to: 3 },
    ]
    const student = await buildStudent({ parent: manifest, layers }, context)
    expect(worst(await logitsOf(student.manifest, golden), golden.skipped.logits)).toBeLessThan(2e-6)
    const exporting = { ...context, jobId: `${name}-${format}-student` }
    await exportModel({ manifest: student.manifest, name, format: 'SAFETENSORS' }, exporting)
    const again = await ingestModel({ source: join(context.dataFolder, 'exports', exporting.jobId) }, context)
    expect(worst(await logitsOf(again.manifest, golden), golden.skipped.logits)).toBeLessThan(2e-6)
  })

  test('is exported whole as SafeTensors that give the same logits', async () => {
    const exporting = { ...context, jobId: `${name}-${format}` }
    await exportModel({ manifest, name, format: 'SAFETENSORS' }, exporting)
    const again = await ingestModel({ source: join(context.dataFolder, 'exports', exporting.jobId) }, context)
    expect(worst(await logitsOf(again.manifest, golden), golden.logits[last(golden)]!)).toBeLessThan(2e-6)
  })

  test('is exported as GGUF that gives the same logits, with the tensors that llama.cpp’s converter writes', async () => {
    const exporting = { ...context, jobId: `${name}-${format}-gguf` }
    const [input] = [{ manifest, name, format: 'GGUF', quantization: 'F32' } as const]
    const { files } = await exportModel(input, exporting)
    const again = await ingestModel({ source: join(context.dataFolder, 'exports', files[0]!.path) }, context)
    expect(worst(await logitsOf(again.manifest, golden), golden.logits[last(golden)]!)).toBeLessThan(2e-6)
    const theirs = await ingestModel({ source: await writeGoldenGguf(golden, join(folder, `${name}-theirs`)) }, context)
    const stored = async (hash: string) =>
      new Map((await readManifest(context.payloads, hash)).tensors.map(t => [t.name, [t.dtype, t.shape, t.payload]]))
    expect(await stored(again.manifest)).toEqual(await stored(theirs.manifest))
  })
})

/** At the last position, step by step and as one prompt: in float32, and with quantised kernels. */
async function logitsInBlocks(golden: Golden, name: string, type: 'Q8_0' | 'Q4_0') {
  const source = await writeGoldenGguf(golden, join(folder, `${name}-${type}`), type)
  const manifest = await readManifest(context.payloads, (await ingestModel({ source }, context)).manifest)
  const run = async (kernels: 'float32' | 'quantised') => {
    const model = await openModel(manifest, { ...context, env: { ...context.env, HARTONOMOUS_KERNELS: kernels } })
    open.push(model)
    const sequence = model.startSequence()
    let stepped: Float32Array = new Float32Array()
    for (const id of golden.ids) stepped = await sequence.append([id])
    return { stepped, prompt: await model.startSequence().append(golden.ids) }
  }
  return { exact: await run('float32'), quantised: await run('quantised') }
}

test.each(families)('%s in blocks of Q8_0 decodes on quantised kernels as in float32', async name => {
  const golden = await readGolden(name)
  const { exact, quantised } = await logitsInBlocks(golden, name, 'Q8_0')
  // Blocks of this scale are coarse. The kernels round activations to 8 bits too, which costs less than the rounding of the weights.
  const roundedWeights = worst(exact.stepped, golden.logits[last(golden)]!)
  expect(roundedWeights).toBeLessThan(0.2)
  expect(worst(quantised.stepped, [...exact.stepped])).toBeLessThan(roundedWeights)
  expect(quantised.stepped).not.toEqual(exact.stepped)
  // Prompts of 8-bit files run on their codes as well (decision 0067), unless kernels are float32: then they are steps in another order of sums.
  expect(worst(quantised.prompt, [...exact.prompt])).toBeLessThan(roundedWeights)
  expect(quantised.prompt).not.toEqual(exact.prompt)
  expect(worst(exact.prompt, [...exact.stepped])).toBeLessThan(1e-5)
})

test.each(families)('%s in blocks of Q4_0 reads prompts in float32 whatever the kernels', async name => {
  const { exact, quantised } = await logitsInBlocks(await readGolden(name), name, 'Q4_0')
  expect(quantised.stepped).not.toEqual(exact.stepped)
  // A model that decodes on codes runs its prompts from weights that were not prepacked, which sums in another order.
  expect(worst(quantised.prompt, [...exact.prompt])).toBeLessThan(1e-5)
})

describe('a configuration that means another computation', () => {
  test.each([
    ['qwen2', { hidden_act: 'relu' }, 'hidden_act "relu"'],
    ['qwen2', { use_sliding_window: true }, 'use_sliding_window true'],
    ['gpt2', { scale_attn_by_inverse_layer_idx: true }, 'scale_attn_by_inverse_layer_idx true'],
    [
      'qwen3',
      { layer_types: ['full_attention', 'sliding_attention', 'full_attention'] },
      'layer_types ["full_attention","sliding_attention"]',
    ],
  ])('%s with %o is taken in and exported, and refused by name when it is to run', async (name, change, named) => {
    const golden = await readGolden(name)
    const changed = { ...golden, config: { ...golden.config, ...change } }
    const source = await writeGoldenFolder(changed, join(folder, `other-${named.replaceAll(/\W+/g, '-')}`))
    const { manifest } = await ingestModel({ source }, context)
    await expect(openManifest(manifest)).rejects.toMatchObject({
      code: 'UNSUPPORTED_ARCHITECTURE',
      message: `The model's configuration asks for what is not done here: ${named}`,
    })
    const exporting = { ...context, jobId: `other-${named.length}` }
    const { files } = await exportModel({ manifest, name, format: 'SAFETENSORS' }, exporting)
    expect(files.map(file => file.path)).toContain(`${exporting.jobId}/model.safetensors`)
  })
})

test('a GPT-2 with the masks that early checkpoints carry runs, and keeps them when exported', async () => {
  const golden = await readGolden('gpt2')
  const masks = Object.fromEntries(
    [0, 1, 2].map(layer => [`transformer.h.${layer}.attn.bias`, { shape: [1, 1, 64, 64], gguf: '' }]),
  )
  const source = await writeGoldenFolder({ ...golden, tensors: { ...golden.tensors, ...masks } }, join(folder, 'masks'))
  const { manifest } = await ingestModel({ source }, context)
  expect(worst(await logitsOf(manifest, golden), golden.logits[last(golden)]!)).toBeLessThan(2e-6)
  const { tensors } = await readManifest(context.payloads, manifest)
  expect(tensors.find(t => t.name === 'transformer.h.1.attn.bias')).toMatchObject({
    role: 'layers.1.causal_mask',
    layerIndex: 1,
    component: 'OTHER',
  })
})

test('a GPT-2 saved without the prefix of its head gives the same logits', async () => {
  const golden = await readGolden('gpt2')
  const to = join(folder, 'bare')
  const tensors = new Map(
    Object.entries(golden.tensors).map(([name, { shape }]) => [
      name.replace('transformer.', ''),
      { shape, data: goldenWeights(name, shape) },
    ]),
  )
  await writeGoldenFolder(golden, to)
  await writeFile(join(to, 'model.safetensors'), encodeSafetensors(tensors))
  const { manifest } = await ingestModel({ source: to }, context)
  expect(worst(await logitsOf(manifest, golden), golden.logits[last(golden)]!)).toBeLessThan(2e-6)
})
