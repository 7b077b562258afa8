import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type BuildableModel, checkBuildable, tensorName } from '../../../../compute/architectures/registry.js'
import { causalMask, differentiable } from '../../../../compute/autodiff/differentiable.js'
import { ensureFloat32 } from '../../../../compute/formats/float-weights.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import type { Graph } from '../../../../compute/graph/ir.js'
import { printGraph } from '../../../../compute/graph/print.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { headGradientGraph, weightGradientGraph } from '../../../../compute/inference/gradient-graphs.js'
import type { LocateWeight } from '../../../../compute/inference/graph-inputs.js'
import { gradientFeeds, positionWeights } from '../../../../compute/inference/head-gradients.js'
import type { ScoredSample } from '../../../../compute/inference/model.js'
import { buildModelGraph } from '../../../../compute/inference/model-graph.js'
import { ropeTables } from '../../../../compute/inference/rope.js'
import { evaluate, type Tensor, tensor } from '../../../../compute/ops/reference.js'
import { createSession, floats, int32s, int64s, type RuntimeTensor } from '../../../../compute/runtime/session.js'
import { readGolden, writeGoldenFolder } from '../../../testkit/golden-models.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { encodeSafetensors, type PicoLlama, type PicoOptions, writePicoLlama } from '../../../testkit/pico-llama.js'
import { referenceNumbers } from '../../../testkit/reference-probes.js'
import { sharedFile } from '../../../testkit/shared-files.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

interface Opened {
  model: BuildableModel
  locate: LocateWeight
}

async function openWeights(folder: string, ropeLayout?: 'interleaved'): Promise<Opened> {
  const manifest = await readManifest(context.payloads, (await ingestModel({ source: folder }, context)).manifest)
  if (ropeLayout) manifest.dimensions.ropeLayout = ropeLayout
  const model = checkBuildable(manifest)
  const files = new Map<string, string>()
  for (const [role, weight] of model.tensors) {
    files.set(role, relative(context.dataFolder, await ensureFloat32(context, weight)))
  }
  const length = (role: string) => model.tensors.get(role)!.shape.reduce((a, b) => a * b, 4)
  return { model, locate: role => ({ location: files.get(role)!, offset: 0, length: length(role) }) }
}

/** All inputs of the measuring and the gradient graphs; a graph takes those that it has. */
function feedsOf({ dimensions: d }: BuildableModel, samples: readonly ScoredSample[]): Record<string, RuntimeTensor> {
  const rope = ropeTables(d, 64)
  const seq = Math.max(...samples.map(s => s.ids.length))
  return {
    ...gradientFeeds(d, samples),
    position_weights: positionWeights(samples),
    rope_cos: floats(rope.cos, [64, d.headSize / 2]),
    rope_sin: floats(rope.sin, [64, d.headSize / 2]),
    position_ids: int64s(
      samples.flatMap(() => Array.from({ length: seq }, (_, i) => i)),
      [samples.length, seq],
    ),
    last_positions: int32s(samples.map(() => seq - 1)),
    total_length: int32s([seq], []),
  }
}

async function runGraph(graph: Graph, feeds: Record<string, RuntimeTensor>, threads = 1) {
  const session = await createSession(graph, { weightsFolder: context.dataFolder, threads })
  const own = Object.fromEntries(Object.entries(feeds).filter(([name]) => session.inputs.includes(name)))
  const results = await session.run(own, session.outputs)
  await session.dispose()
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]))
}

const worst = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)))
const ids = [1, 5, 17, 40, 40, 3, 22, 63, 9]
const samples: ScoredSample[] = [
  { ids, completionStart: 4 },
  { ids: [1, 30, 8, 12], completionStart: 2 },
]

/** Sum over samples of the mean loss of their completions: what the graphs differentiate. */
function referenceLoss(pico: PicoLlama): number {
  return samples.reduce((total, { ids: own, completionStart }) => {
    const { logits } = runLlamaFloat64(pico, own)
    const losses = own
      .slice(completionStart)
      .map((target, i) => negativeLogLikelihood(logits[completionStart + i - 1]!, target))
    return total + losses.reduce((a, b) => a + b, 0) / losses.length
  }, 0)
}

/** Rows of each head from pairs (i, i + d/2) to pairs (2i, 2i + 1), as in GGUF files; index of the row each one goes to. */
function interleaved(row: number, headSize: number): number {
  const inHead = row % headSize
  return row - inHead + (inHead < headSize / 2 ? 2 * inHead : 2 * (inHead - headSize / 2) + 1)
}

const shapes: [string, PicoOptions, 'interleaved' | undefined][] = [
  ['groups of 2, tied, half-split RoPE before the kernel', { heads: 4, keyValueHeads: 2 }, undefined],
  ['groups of 2, tied, interleaved RoPE in the kernel', { heads: 2, keyValueHeads: 1 }, 'interleaved'],
  ['untied, biases', { heads: 2, keyValueHeads: 2, tied: false, bias: true }, undefined],
  ['heads of 4, filled up for the kernel', { heads: 8, keyValueHeads: 4 }, undefined],
  ['a window of 3', { heads: 2, keyValueHeads: 1, window: 3 }, undefined],
]

describe.each(shapes)('a pico Llama, %s', (name, options, layout) => {
  let pico: PicoLlama
  let opened: Opened
  const headSize = 32 / options.heads!
  beforeAll(async () => {
    const folder = join(context.dataFolder, name.replaceAll(/\W+/g, '-'))
    pico = await writePicoLlama(folder, options)
    if (layout) {
      const stored = new Map(pico.tensors)
      for (const [tensorName, { shape, data }] of pico.tensors) {
        if (!/[qk]_proj/.test(tensorName)) continue
        const turned = data.slice()
        for (let row = 0; row < shape[0]!; row++) {
          turned.set(data.subarray(row * shape[1]!, (row + 1) * shape[1]!), interleaved(row, headSize) * shape[1]!)
        }
        stored.set(tensorName, { shape, data: turned })
      }
      await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(stored))
    }
    opened = await openWeights(folder, layout)
  })

  test('attention written out gives the log-probabilities of the fused kernel', async () => {
    const { model, locate } = opened
    const feeds = feedsOf(model, samples)
    const fused = await runGraph(buildModelGraph(model, 'measure', locate), feeds)
    const written = await runGraph(headGradientGraph(model, locate), feeds)
    expect(worst(written.log_probabilities!, fused.log_probabilities!)).toBeLessThan(1e-5)
  })

  test('gradients of its weights are the finite differences of a float64 forward', async () => {
    const { model, locate } = opened
    const roles = [...model.tensors.keys()]
    const found = await runGraph(weightGradientGraph(model, locate, roles), feedsOf(model, samples))
    expect(Math.abs(found.loss![0]! - referenceLoss(pico))).toBeLessThan(1e-5)
    const squares = roles.reduce((sum, role) => found[`gradient.${role}`]!.reduce((s, x) => s + x * x, sum), 0)
    expect(Math.abs(found.squared_gradient_norm![0]! / squares - 1)).toBeLessThan(1e-5)
    // A copy whose weights hold float64 numbers, so that a small step is not rounded away.
    const exact = new Map(
      [...pico.tensors].map(([key, t]) => [key, { shape: t.shape, data: Float64Array.from(t.data) }]),
    )
    const wide = { config: pico.config, tensors: exact as unknown as PicoLlama['tensors'] }
    const h = 1e-5
    for (const role of roles) {
      const { data, shape } = exact.get(tensorName('llama', 'safetensors', role))!
      const gradient = found[`gradient.${role}`]!
      expect(gradient).toHaveLength(data.length)
      const scale = Math.max(...gradient.map(Math.abs))
      for (const share of [0.1, 0.37, 0.83]) {
        const index = Math.floor(share * data.length)
        const original = data[index]!
        data[index] = original + h
        const above = referenceLoss(wide)
        data[index] = original - h
        const expected = (above - referenceLoss(wide)) / (2 * h)
        data[index] = original
        const row = Math.floor(index / (shape[1] ?? 1))
        const turned = layout && /\.[qk]$/.test(role)
        const place = turned ? interleaved(row, headSize) * shape[1]! + (index % shape[1]!) : index
        expect(Math.abs(gradient[place]! - expected), `${role} [${index}]`).toBeLessThan(2e-5 * scale + 1e-7)
      }
    }
  }, 60_000)
})

describe('the graphs of a pico Llama', () => {
  let opened: Opened
  beforeAll(async () => {
    const folder = join(context.dataFolder, 'defined')
    await writePicoLlama(folder, { heads: 2, keyValueHeads: 1, layers: 1, intermediate: 8, vocabulary: 16 })
    opened = await openWeights(folder)
  })
  const small: ScoredSample[] = [{ ids: [1, 5, 9, 3], completionStart: 1 }]

  test('evaluated by the float64 definitions of their ops, they give what the kernels give', async () => {
    const { model, locate } = opened
    const feeds = feedsOf(model, small)
    for (const graph of [buildModelGraph(model, 'measure', locate), headGradientGraph(model, locate)]) {
      const given = new Map<string, Tensor>(
        graph.inputs.map(({ name }) => [
          name,
          tensor(feeds[name]!.shape, Array.from(feeds[name]!.data as Float32Array, Number)),
        ]),
      )
      for (const [role, { shape }] of model.tensors) {
        const bytes = await readFile(join(context.dataFolder, locate(role).location))
        given.set(role, tensor(shape, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)))
      }
      const exact = evaluate(graph.nodes, given, graph.constants)
      const ran = await runGraph(graph, feeds)
      for (const { name } of graph.outputs) {
        expect(worst(Array.from(ran[name]!, Number), exact.get(name)!.data), name).toBeLessThan(2e-5)
      }
    }
  })

  test('the graph of head gradients reads as it did', () => {
    const { model } = opened
    const locate: LocateWeight = role => ({ ...opened.locate(role), location: role })
    expect(printGraph(headGradientGraph(model, locate))).toMatchSnapshot()
  })

  test('attention with a cache, and a weight that the loss does not depend on, are refused by name', () => {
    const { model, locate } = opened
    expect(() => weightGradientGraph(model, locate, ['lm_head'])).toThrow('does not depend on a weight lm_head')
    expect(() => differentiable(buildModelGraph(model, 'generate', locate), ['logits'])).toThrow(
      'layers.0.attention: attention with a cache cannot be differentiated',
    )
  })
})

test.each(['qwen2', 'qwen3', 'mistral', 'gemma', 'gpt2'])(
  '%s: gradients of head gates are differences of its loss',
  async name => {
    const golden = await readGolden(name)
    const { model, locate } = await openWeights(await writeGoldenFolder(golden, join(context.dataFolder, name)))
    const batch = [{ ids: golden.ids, completionStart: golden.completionStart }]
    const graph = headGradientGraph(model, locate)
    const feeds = feedsOf(model, batch)
    const { head_gradients: found, loss } = await runGraph(graph, feeds)
    const rows = golden.ids.length - golden.completionStart
    expect(Math.abs(loss![0]! / (golden.nll / rows) - 1)).toBeLessThan(1e-4)
    const step = 0.02
    const lossAt = async (index: number, gate: number) => {
      const gates = Float32Array.from(found!, (_, i) => (i === index ? gate : 1))
      return (await runGraph(graph, { ...feeds, head_gates: { ...feeds.head_gates!, data: gates } })).loss![0]!
    }
    for (const index of [0, found!.length - 1]) {
      const expected = ((await lossAt(index, 1 + step)) - (await lossAt(index, 1 - step))) / (2 * step)
      expect(Math.abs(found![index]! - expected)).toBeLessThan(2e-3 * Math.max(0.05, ...found!.map(Math.abs)))
    }
  },
)

test('a causal mask hides later positions, and those before the window', () => {
  const hidden = (mask: Float32Array) => Array.from(mask, value => (value === 0 ? 0 : 1))
  expect(hidden(causalMask(3))).toEqual([0, 1, 1, 0, 0, 1, 0, 0, 0])
  expect(hidden(causalMask(3, 2))).toEqual([0, 1, 1, 0, 0, 1, 1, 0, 0])
})

interface TrainingReference {
  ids: number[][]
  crossEntropy: { loss: number; gradNorm: number }
  crossEntropyGradients: Record<string, { shape: number[]; norm: number; entries: [number, number][] }>
}

const present = existsSync(sharedFile('reference', 'training_stories260K.json'))
if (!present) console.warn(`Gradient references skipped: ${sharedFile('reference')} is not there`)

test.runIf(present)('stories260K: loss within 1e-5, gradients within 1e-4 of each norm of the reference', async () => {
  const reference = await referenceNumbers<TrainingReference>('training_stories260K.json')
  const { model, locate } = await openWeights(sharedFile('models', 'stories260K'))
  const roles = [...model.tensors.keys()].filter(role => role !== 'lm_head' || !model.dimensions.tiedEmbeddings)
  const batch = reference.ids.map(own => ({ ids: own, completionStart: 1 }))
  const feeds = feedsOf(model, batch)
  const rows = feeds.rows!.shape[0]!
  feeds.row_weights = floats(new Float32Array(rows).fill(1 / rows), [rows])
  const found = await runGraph(weightGradientGraph(model, locate, roles), feeds, 2)
  const { loss, gradNorm } = reference.crossEntropy
  expect(Math.abs(found.loss![0]! / loss - 1)).toBeLessThan(1e-5)
  expect(Math.abs(Math.sqrt(found.squared_gradient_norm![0]!) / gradNorm - 1)).toBeLessThan(1e-4)
  const byName = new Map(roles.map(role => [tensorName('llama', 'safetensors', role), found[`gradient.${role}`]!]))
  const errors = Object.entries(reference.crossEntropyGradients).flatMap(([name, { norm, entries }]) => {
    const gradient = byName.get(name)!
    const own = Math.sqrt(gradient.reduce((sum, x) => sum + x * x, 0))
    return [Math.abs(own / norm - 1), ...entries.map(([index, value]) => Math.abs(gradient[index]! - value) / norm)]
  })
  expect(errors.length).toBe(47 * 6)
  expect(Math.max(...errors)).toBeLessThan(1e-4)
})
