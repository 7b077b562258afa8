import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { printGraph } from '../../../../compute/graph/print.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { buildModelGraph } from '../../../../compute/inference/model-graph.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { encodeSafetensors, type PicoLlama, type PicoOptions, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

async function openPico(name: string, options: PicoOptions): Promise<{ pico: PicoLlama; model: LoadedModel }> {
  const folder = join(context.dataFolder, name)
  const pico = await writePicoLlama(folder, options)
  const { manifest } = await ingestModel({ source: folder }, context)
  return { pico, model: await openModel(await readManifest(context.payloads, manifest), context) }
}

const ids = [1, 5, 17, 40, 40, 3, 22, 63, 9]
const short = [1, 30, 8, 12]
const worst = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)))

// Head sizes 16 (rotated inside the attention kernel), 8 (rotated before it), 4 and 12 (filled up with zeros); one head per group, several; tied and untied.
const shapes: [string, PicoOptions][] = [
  ['head size 8, groups of 2, tied', { heads: 4, keyValueHeads: 2 }],
  ['head size 16, groups of 2, untied', { heads: 2, keyValueHeads: 1, tied: false }],
  ['head size 16, a window of 4', { heads: 2, keyValueHeads: 1, window: 4 }],
  ['head size 16, biases', { heads: 2, keyValueHeads: 2, bias: true }],
  ['head size 4, filled up for the kernel', { heads: 8, keyValueHeads: 4 }],
  ['head size 12, a window of 4', { hidden: 24, heads: 2, keyValueHeads: 1, window: 4 }],
  ['head size 32, one head', { heads: 1, keyValueHeads: 1, layers: 3 }],
]

describe.each(shapes)('a pico Llama, %s', (name, options) => {
  let pico: PicoLlama
  let model: LoadedModel
  beforeAll(async () => {
    const opened = await openPico(name.replaceAll(/\W+/g, '-'), options)
    pico = opened.pico
    model = opened.model
  })
  afterAll(() => model.dispose())

  test('gives the logits, norms and cosines of a float64 forward, padded rows too', async () => {
    const result = await model.forward({ ids: [short, ids], wantLogits: 'all' })
    ;[short, ids].forEach((sequence, row) => {
      const reference = runLlamaFloat64(pico, sequence)
      expect(worst(result.logits[row]!, reference.logits.flat())).toBeLessThan(2e-5)
      reference.hidden.forEach((hidden, layer) => {
        const norms = hidden.map(x => Math.hypot(...x))
        expect(worst(result.norms[row]![layer]!, norms)).toBeLessThan(2e-5)
        if (layer === 0) return
        const before = reference.hidden[layer - 1]!
        const cosines = hidden.map(
          (x, i) => x.reduce((sum, v, j) => sum + v * before[i]![j]!, 0) / (norms[i]! * Math.hypot(...before[i]!)),
        )
        expect(worst(result.cosines[row]![layer - 1]!, cosines)).toBeLessThan(1e-6)
      })
    })
  })

  test('gates act per row: 0 skips a layer for its row only', async () => {
    const layers = model.dimensions.layerCount
    const allGates = Array.from({ length: layers }, (_, skipped) =>
      Array.from({ length: layers }, (_, layer) => (layer === skipped ? 0 : 1)),
    )
    const result = await model.forward({
      ids: allGates.map(() => ids),
      gates: allGates.map(gates => Float32Array.from(gates)),
      wantLogits: 'all',
    })
    allGates.forEach((gates, row) => {
      const reference = runLlamaFloat64(pico, ids, gates)
      expect(worst(result.logits[row]!, reference.logits.flat())).toBeLessThan(2e-5)
      // A skipped layer changes nothing at all.
      expect(result.norms[row]![row + 1]).toEqual(result.norms[row]![row])
    })
  })

  test('scores completions as the float64 logits do, in the order given', async () => {
    const samples = [
      { ids, completionStart: 4 },
      { ids: short, completionStart: 1 },
      { ids: short, completionStart: 4 },
    ]
    const scores = await model.score(samples, { probes: true })
    samples.forEach(({ ids: own, completionStart }, i) => {
      const { logits } = runLlamaFloat64(pico, own)
      const targets = own.slice(completionStart)
      const before = targets.map((_, k) => logits[completionStart + k - 1]!)
      const nll = targets.reduce((sum, target, k) => sum + negativeLogLikelihood(before[k]!, target), 0)
      const hits = targets.filter((target, k) => before[k]!.indexOf(Math.max(...before[k]!)) === target).length
      expect(scores[i]).toMatchObject({ completionTokens: targets.length, hits })
      expect(Math.abs(scores[i]!.nll - nll)).toBeLessThan(1e-5 * Math.max(1, nll))
      expect(scores[i]!.probes!.tokens).toBe(own.length)
    })
  })

  test.each(['native', 'binding'] as const)(
    'decoding with a cache gives the logits of one pass, over chunks too (%s backend)',
    async backend => {
      const long = Array.from({ length: 60 }, (_, i) => (i * 7 + 3) % 64)
      const { logits } = runLlamaFloat64(pico, long)
      const opened = await openModel(model.manifest, { ...context, backend })
      const sequence = opened.startSequence()
      expect(worst(await sequence.append(long.slice(0, 20)), logits[19]!)).toBeLessThan(5e-5)
      for (let i = 20; i < 23; i++) expect(worst(await sequence.append([long[i]!]), logits[i]!)).toBeLessThan(5e-5)
      expect(worst(await sequence.append(long.slice(23)), logits[59]!)).toBeLessThan(5e-5)
      expect(sequence.length).toBe(60)
      await opened.dispose()
    },
  )
})

/** Rows of each head reordered from pairs (i, i + d/2) to pairs (2i, 2i + 1): what GGUF converters do to q and k. */
function interleaveRows(tensor: { shape: number[]; data: Float32Array }, headSize: number): void {
  const columns = tensor.shape[1]!
  const original = tensor.data.slice()
  for (let row = 0; row < tensor.shape[0]!; row++) {
    const inHead = row % headSize
    const target = row - inHead + (inHead < headSize / 2 ? 2 * inHead : 2 * (inHead - headSize / 2) + 1)
    tensor.data.set(original.subarray(row * columns, (row + 1) * columns), target * columns)
  }
}

test.each([
  [8, 4],
  [16, 2],
])('interleaved q/k rows (GGUF) of head size %i give the same logits', async (headSize, heads) => {
  const folder = join(context.dataFolder, `interleaved-${headSize}`)
  const pico = await writePicoLlama(folder, { heads, keyValueHeads: 1 })
  const reference = runLlamaFloat64(pico, ids)
  for (const [name, tensor] of pico.tensors) if (/[qk]_proj/.test(name)) interleaveRows(tensor, headSize)
  await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(pico.tensors))
  const manifest = await readManifest(context.payloads, (await ingestModel({ source: folder }, context)).manifest)
  manifest.dimensions.ropeLayout = 'interleaved'
  const model = await openModel(manifest, context)
  const { logits } = await model.forward({ ids: [ids], wantLogits: 'all' })
  expect(worst(logits[0]!, reference.logits.flat())).toBeLessThan(2e-5)
  await model.dispose()
})

describe('limits of a loaded model', () => {
  test('prompts longer than a chunk run in several, with one result', async () => {
    const { pico, model } = await openPico('long', { context: 400, heads: 2, keyValueHeads: 1 })
    const long = Array.from({ length: 300 }, (_, i) => (i * 11 + 5) % 64)
    const { logits } = runLlamaFloat64(pico, long)
    expect(worst(await model.startSequence().append(long), logits.at(-1)!)).toBeLessThan(5e-5)
    await model.dispose()
  })

  test('refuses more tokens than the context, and ids outside the vocabulary, with the numbers', async () => {
    const { model } = await openPico('limits', {})
    const tooLong = new Array<number>(65).fill(4)
    await expect(model.startSequence().append(tooLong)).rejects.toThrow(
      "65 tokens are more than the model's context of 64",
    )
    await expect(model.forward({ ids: [[64]], wantLogits: 'last' })).rejects.toThrow('Token id 64 is outside')
    await model.dispose()
    await expect(model.startSequence().append([1])).rejects.toThrow(/disposed/)
  })

  test('a weight that is not a number is reported, not scored', async () => {
    const folder = join(context.dataFolder, 'nan')
    const pico = await writePicoLlama(folder, { seed: 5 })
    pico.tensors.get('model.layers.1.mlp.down_proj.weight')!.data.fill(Number.NaN)
    await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(pico.tensors))
    const { manifest } = await ingestModel({ source: folder }, context)
    const model = await openModel(await readManifest(context.payloads, manifest), context)
    await expect(model.score([{ ids, completionStart: 3 }])).rejects.toMatchObject({ code: 'NOT_A_NUMBER' })
    await model.dispose()
  })
})

test('the graphs of a pico Llama read as they did', async () => {
  const { model } = await openPico('printed', {})
  const buildable = checkBuildable(model.manifest)
  const locate = (role: string) => ({
    location: role,
    offset: 0,
    length: buildable.tensors.get(role)!.shape.reduce((a, b) => a * b, 4),
  })
  for (const variant of ['generate', 'measure'] as const) {
    expect(printGraph(buildModelGraph(buildable, variant, locate))).toMatchSnapshot(variant)
  }
  await model.dispose()
})
