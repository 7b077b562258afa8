// Pruning as a stage of a build, against the whole model with the same heads silenced, computed in float64.
import { appendFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { readTensorFloat32 } from '../../../../compute/formats/float-weights.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { type BuildInput, buildStages } from '../../../../compute/handlers/build-stages.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { stageFolder, stageKey } from '../../../../compute/handlers/stage-records.js'
import { cutsOf, fitsOf } from '../../../../compute/handlers/stages/correct-cuts.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { ridgeFrom } from '../../../../compute/surgery/least-squares.js'
import { DomainError } from '../../../../lib/errors.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { readGolden, writeGoldenFolder, writeGoldenGguf } from '../../../testkit/golden-models.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { encodeSafetensors, type PicoLlama, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let pico: PicoLlama
let parent: string
let probeSet: string
const layerCount = 3
const headSize = 8
const probes = ['abc def', 'some words', 'hello there', 'one two three', 'a b c d e', 'zebra']

beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  pico = await writePicoLlama(join(context.dataFolder, 'pico'), { layers: layerCount })
  parent = (await ingestModel({ source: join(context.dataFolder, 'pico') }, context)).manifest
  const lines = ['probe', 'validation'].flatMap(split =>
    probes.map(prompt => ({ task: 'talk', subtask: 'small', split, prompt, completion: ' and so on.' })),
  )
  const file = join(context.dataFolder, 'probes.jsonl')
  await writeFile(file, lines.map(line => JSON.stringify(line)).join('\n'))
  probeSet = (await importProbes({ source: file }, context)).probeSet
})
afterAll(() => context.dispose())

const open: LoadedModel[] = []
afterEach(async () => {
  for (const model of open.splice(0)) await model.dispose()
})
const openManifest = async (manifest: Manifest) => {
  const model = await openModel(manifest, context)
  open.push(model)
  return model
}

const inputOf = (stages: Record<string, unknown>, given: Partial<BuildInput> = {}): BuildInput =>
  jobTypes['student.build'].input.parse({
    parent,
    layers: [{ from: 0, to: layerCount }],
    stages: { calibration: { probeSet, samplesPerCapability: 6 }, ...stages },
    ...given,
  })
async function build(stages: Record<string, unknown>, given: Partial<BuildInput> = {}) {
  const results = await runStages(inputOf(stages, given), context)
  const last = results.at(-1)!
  return { manifest: await readManifest(context.payloads, last.manifest), results, last }
}
const given = (heads: number[][], unit = 'KEY_VALUE_GROUP') => ({ headPruning: { metric: 'GIVEN', unit, heads } })

/** The whole model with the columns of o zeroed that belong to these query heads. */
function silenced(heads: readonly (readonly number[])[]): PicoLlama {
  const tensors = new Map(pico.tensors)
  heads.forEach((own, layer) => {
    const name = `model.layers.${layer}.self_attn.o_proj.weight`
    const { shape, data } = tensors.get(name)!
    const columns = shape[1]!
    const changed = data.map((value, i) => (own.includes(Math.floor((i % columns) / headSize)) ? 0 : value))
    tensors.set(name, { shape, data: changed })
  })
  return { ...pico, tensors }
}
const ids = [1, 5, 9, 4, 22, 17, 30, 8]
const worst = (a: ArrayLike<number>, b: readonly number[]) => Math.max(...b.map((v, i) => Math.abs(a[i]! - v)))

/** Logits of every position by the measuring graph, and of the last by decoding token by token, against float64. */
async function expectEqual(manifest: Manifest, heads: readonly (readonly number[])[]) {
  const { logits } = runLlamaFloat64(silenced(heads), ids)
  const model = await openManifest(manifest)
  const found = (await model.forward({ ids: [ids], wantLogits: 'all' })).logits[0]!
  expect(worst(found, logits.flat())).toBeLessThan(1e-4)
  const sequence = model.startSequence()
  let decoded = new Float32Array()
  for (const id of ids) decoded = Float32Array.from(await sequence.append([id]))
  expect(worst(decoded, logits.at(-1)!)).toBeLessThan(1e-4)
}

describe('removed heads', () => {
  it('leave a model that computes what the whole one does with them silenced: one group per layer', async () => {
    const { manifest, last } = await build(given([[0], [1], [0]]))
    expect(manifest.dimensions).toMatchObject({ attentionHeadCount: 2, keyValueHeadCount: 1, headSize: 8 })
    expect(manifest.dimensions.perLayer).toBeUndefined()
    // Per layer 16 rows of q and columns of o, 8 rows of k and of v, 32 numbers each.
    expect(last.measurements).toMatchObject({ parameters: { before: manifest.parameterCount + 3 * 48 * 32 } })
    await expectEqual(manifest, [
      [0, 1],
      [2, 3],
      [0, 1],
    ])
  })

  it('may differ in number from layer to layer', async () => {
    const { manifest } = await build(given([[1], [], [0]]))
    expect(manifest.dimensions).toMatchObject({ attentionHeadCount: 4, keyValueHeadCount: 2 })
    expect(manifest.dimensions.perLayer?.map(l => l.keyValueHeadCount)).toEqual([1, 2, 1])
    await expectEqual(manifest, [[2, 3], [], [0, 1]])
    // Gradients for the gates of heads, of layers with fewer too.
    const model = await openManifest(manifest)
    const [gradients] = await model.headGradients([{ ids, completionStart: 2 }])
    expect([...gradients!.gradients.subarray(2, 4)]).toEqual([0, 0])
    const { logits } = runLlamaFloat64(silenced([[2, 3], [], [0, 1]]), ids)
    const nll = ids.slice(2).reduce((sum, id, i) => sum + negativeLogLikelihood(logits[i + 1]!, id), 0)
    expect(gradients!.loss).toBeCloseTo(nll / 6, 4)
  })

  it('may be query heads, as many from every group', async () => {
    const { manifest } = await build(
      given(
        [
          [0, 3],
          [1, 2],
          [1, 3],
        ],
        'QUERY_HEAD',
      ),
    )
    expect(manifest.dimensions).toMatchObject({ attentionHeadCount: 2, keyValueHeadCount: 2 })
    await expectEqual(manifest, [
      [0, 3],
      [1, 2],
      [1, 3],
    ])
  })

  it('are recorded: every cut tensor says which part of which tensor of the parent it is', async () => {
    const { manifest } = await build(given([[1], [0]]), { layers: [{ from: 1, to: 3 }] })
    const whole = await readManifest(context.payloads, parent)
    const by = (m: Manifest, role: string) => m.tensors.find(t => t.role === role)!
    expect(by(manifest, 'layers.0.q').slice).toEqual({
      tensor: 'model.layers.1.self_attn.q_proj.weight',
      payload: by(whole, 'layers.1.q').payload,
      shape: [32, 32],
      kept: [[[0, 16]], null],
    })
    expect(by(manifest, 'layers.1.o').slice?.kept).toEqual([null, [[16, 32]]])
    expect(by(manifest, 'layers.1.gate').slice).toBeUndefined()
    expect(by(manifest, 'layers.1.gate').payload).toBe(by(whole, 'layers.2.gate').payload)
    const values = await readTensorFloat32(context.payloads, by(manifest, 'layers.0.k'))
    expect([...values]).toEqual([...pico.tensors.get('model.layers.1.self_attn.k_proj.weight')!.data.subarray(0, 256)])
  })

  it.each([
    [given([[0, 1], [0], [0]]), 'layer 0: all 2 key/value heads would be removed; at least one must stay'],
    [given([[0], [2], [0]]), 'layer 1: key/value head 2 does not exist; there are 2, 0 to 1'],
    [given([[0], [0]]), 'names heads of 2 layers, the student has 3'],
    [
      given(
        [
          [0, 1],
          [0, 2],
          [0, 2],
        ],
        'QUERY_HEAD',
      ),
      '2, 0 query heads would be removed from its 2 key/value groups',
    ],
    [given([[0, 1, 2, 3], [], []], 'QUERY_HEAD'), 'all 4 query heads would be removed'],
    [{ headPruning: { metric: 'RANDOM', remove: 2 } }, 'layer 0: 2 of 2 key/value heads would be removed'],
    [{ headPruning: { metric: 'RANDOM', remove: [1, 1] } }, 'names 2 layers, the student has 3'],
    [{ headPruning: { metric: 'TASK_LOSS', remove: 1 }, calibration: undefined }, 'names no probe set to measure on'],
  ])('%#: are refused where they cannot go', async (stages, message) => {
    const error = await build(stages).catch(e => e)
    expect(error).toMatchObject({ code: 'INVALID_RECIPE', message: expect.stringContaining(message) })
  })

  it('by chance are the same for the same seed, and fit the unit', async () => {
    const random = (seed: number) => build({ headPruning: { metric: 'RANDOM', remove: 1, unit: 'QUERY_HEAD', seed } })
    const [a, b, c] = [await random(1), await random(1), await random(7)]
    expect(b.last.reused).toBe(true)
    expect(a.last.measurements).toEqual(b.last.measurements)
    expect(c.last.measurements!.removed).not.toEqual(a.last.measurements!.removed)
  })
})

describe('measured heads', () => {
  /** Mean completion loss in float64 of the samples that are measured. */
  const lossWithout = (heads: readonly (readonly number[])[]) => {
    const model = silenced(heads)
    let nll = 0
    let tokens = 0
    for (const prompt of probes) {
      const encode = (text: string) =>
        [...text].map(c => [...'▁abcdefghijklmnopqrstuvwxyz.,?!'].indexOf(c === ' ' ? '▁' : c) + 3)
      const start = [1, ...encode(prompt)]
      const all = [...start, ...encode(' and so on.')]
      const { logits } = runLlamaFloat64(model, all)
      all.slice(start.length).forEach((id, i) => {
        nll += negativeLogLikelihood(logits[start.length + i - 1]!, id)
        tokens++
      })
    }
    return nll / tokens
  }
  const headsOf = (group: number) => [2 * group, 2 * group + 1]

  it('are those without which the loss rises least, layer after layer', async () => {
    const { last } = await build({ headPruning: { metric: 'TASK_LOSS', remove: 1 } })
    const chosen: number[][] = []
    const losses: number[] = []
    for (let layer = 0; layer < layerCount; layer++) {
      const options = [0, 1].map(group => lossWithout([...chosen.map(([g]) => headsOf(g!)), headsOf(group)]))
      chosen.push([options.indexOf(Math.min(...options))])
      losses.push(Math.min(...options))
    }
    expect(last.measurements!.removed).toEqual(chosen)
    ;(last.measurements!.losses as number[]).forEach((loss, i) => {
      expect(loss).toBeCloseTo(losses[i]!, 4)
    })
    expect(last.flops).toBeGreaterThan(0)
  })

  it('go on where a kill left them, to the same result', async () => {
    const whole = await build({ headPruning: { metric: 'TASK_LOSS', remove: 1 } })
    const input = inputOf({ headPruning: { metric: 'TASK_LOSS', remove: 1, seed: 5 } })
    const stage = buildStages.find(({ name }) => name === 'pruneHeads')!
    const extracted = whole.results[0]!.manifest
    const folder = stageFolder(
      context.dataFolder,
      stageKey(stage.name, stage.version, stage.parameters(input), extracted),
    )
    await mkdir(folder, { recursive: true })
    // The first layer's choice is there (the one that measuring would not make), the second's was cut short.
    const [first] = whole.last.measurements!.removed as number[][]
    const other = [1 - first![0]!]
    await appendFile(
      join(folder, 'choices.jsonl'),
      `\n${JSON.stringify({ layer: 0, removed: other, loss: 3 })}\n{"layer":1,"rem`,
    )
    const results = await runStages(input, context)
    expect((results.at(-1)!.measurements!.removed as number[][])[0]).toEqual(other)
    expect(await readFile(join(folder, 'choices.jsonl'), 'utf8').catch(() => 'gone')).toBe('gone')
  })

  it('by gradient are those with the least mean size of the derivative for their gate', async () => {
    const { last } = await build({ headPruning: { metric: 'GRADIENT', remove: 1 } })
    const removed = last.measurements!.removed as number[][]
    expect(removed.map(own => own.length)).toEqual([1, 1, 1])
  })

  it('have their output projections fitted anew only where the held-out loss falls', async () => {
    const plain = await build({ headPruning: { metric: 'RANDOM', remove: 1, seed: 3 } })
    const fitted = await build({ headPruning: { metric: 'RANDOM', remove: 1, seed: 3, correct: true } })
    const { tried, kept } = fitted.last.measurements!.corrected as {
      tried: number
      kept: { layer: number; before: number; after: number }[]
    }
    expect(tried).toBe(3)
    for (const { before, after } of kept) expect(after).toBeLessThan(before)
    const changed = fitted.manifest.tensors.filter((t, i) => t.payload !== plain.manifest.tensors[i]!.payload)
    expect(changed.map(t => t.role)).toEqual(kept.map(({ layer }) => `layers.${layer}.o`))
    for (const tensor of changed) expect(tensor.slice?.changed).toBe(true)
  })
})

describe('feed-forward blocks', () => {
  it('keep the units that give most, and compute what the whole model does with the others silenced', async () => {
    const { manifest, last } = await build({ feedForwardPruning: { keep: 40 } })
    expect(manifest.dimensions).toMatchObject({ intermediateSize: 40, attentionHeadCount: 4 })
    expect(last.measurements).toMatchObject({ metric: 'ACTIVATION', kept: [40, 40, 40] })
    const tensors = new Map(pico.tensors)
    for (let layer = 0; layer < layerCount; layer++) {
      const down = manifest.tensors.find(t => t.role === `layers.${layer}.down`)!
      const kept = down.slice!.kept[1]!
      expect(manifest.tensors.find(t => t.role === `layers.${layer}.up`)!.slice!.kept).toEqual([kept, null])
      const name = `model.layers.${layer}.mlp.down_proj.weight`
      const { shape, data } = tensors.get(name)!
      const stays = (column: number) => kept.some(([from, to]) => column >= from && column < to)
      tensors.set(name, { shape, data: data.map((value, i) => (stays(i % shape[1]!) ? value : 0)) })
    }
    const { logits } = runLlamaFloat64({ ...pico, tensors }, ids)
    const found = (await (await openManifest(manifest)).forward({ ids: [ids], wantLogits: 'all' })).logits[0]!
    expect(worst(found, logits.flat())).toBeLessThan(1e-4)
  })

  it('may have other widths in each layer, beside removed heads', async () => {
    const { manifest, results } = await build({
      ...given([[0], [], []]),
      feedForwardPruning: { keep: [48, 30, 8], correct: true },
    })
    expect(results.map(r => r.stage)).toEqual(['extract', 'pruneHeads', 'pruneFeedForward'])
    expect(manifest.dimensions.perLayer).toEqual([
      { attentionHeadCount: 2, keyValueHeadCount: 1, intermediateSize: 48 },
      { attentionHeadCount: 4, keyValueHeadCount: 2, intermediateSize: 30 },
      { attentionHeadCount: 4, keyValueHeadCount: 2, intermediateSize: 8 },
    ])
    const model = await openManifest(manifest)
    expect((await model.forward({ ids: [ids], wantLogits: 'last' })).logits[0]).toHaveLength(64)
  })

  it.each([
    [0, 'layer 0: 0 hidden units of its feed-forward block are to stay, expected 1 to 48'],
    [49, 'layer 0: 49 hidden units'],
    [[48, 48], 'feedForwardPruning names 2 layers, the student has 3'],
  ])('keep %j: is refused', async (keep, message) => {
    const error = await build({ feedForwardPruning: { keep, metric: 'RANDOM' } }).catch(e => e)
    expect(error).toMatchObject({ code: 'INVALID_RECIPE', message: expect.stringContaining(message) })
  })
})

describe('cuts', () => {
  it('lie where layers of the parent were left out, between two that follow each other in it and at the end', () => {
    const manifest = 'a'.repeat(64)
    const other = 'b'.repeat(64)
    expect(cutsOf({ manifest, layers: [0, 1, 4, 6, 7] }, 8)).toEqual([
      { layer: 1, target: 4 },
      { layer: 2, target: 6 },
    ])
    expect(cutsOf({ manifest, layers: [0, 2, 1, 1, 3] }, 6)).toEqual([
      { layer: 0, target: 2 },
      { layer: 3, target: 3 },
      { layer: 4, target: 6 },
    ])
    expect(cutsOf({ manifest, layers: [0, 2, 5], sources: [manifest, other, manifest] }, 8)).toEqual([
      { layer: 2, target: 8 },
    ])
  })

  it('are fitted before, and the layers behind the first where layers ascend in one parent', () => {
    const manifest = 'a'.repeat(64)
    expect(fitsOf({ manifest, layers: [0, 1, 4, 5, 7] }, 8)).toEqual([
      { layer: 1, target: 4, cut: true },
      { layer: 2, target: 5, cut: false },
      { layer: 3, target: 7, cut: true },
      { layer: 4, target: 8, cut: false },
    ])
    expect(fitsOf({ manifest, layers: [0, 2, 1, 2] }, 3)).toEqual([{ layer: 0, target: 2, cut: true }])
    expect(fitsOf({ manifest, layers: [0, 1, 2] }, 3)).toEqual([])
  })

  it('are made up for by fits that the held-out loss falls with', async () => {
    const layers = [
      { from: 0, to: 1 },
      { from: 2, to: 3 },
    ]
    const plain = await build({}, { layers })
    const stored = async () => {
      let count = 0
      for await (const _ of context.payloads.list()) count++
      return count
    }
    const storedBefore = await stored()
    const { manifest, last } = await build({ correctCuts: true }, { layers })
    const { cuts, corrected } = last.measurements as {
      cuts: number
      corrected: { layer: number; removed: number; before: number; after: number }[]
    }
    expect(cuts).toBe(1)
    const changed = manifest.tensors.filter((t, i) => t.payload !== plain.manifest.tensors[i]!.payload)
    expect(changed.map(t => t.role).sort()).toEqual(
      corrected
        .flatMap(({ layer, removed }) => [`layers.${layer}.down`, ...(removed > 0 ? [] : [`layers.${layer}.o`])])
        .sort(),
    )
    expect(corrected[0]).toMatchObject({ layer: 0, removed: 1 })
    for (const { before, after } of corrected) expect(after).toBeLessThan(before)
    expect(changed[0]!.slice).toMatchObject({ tensor: 'model.layers.0.mlp.down_proj.weight', changed: true })
    expect(manifest.parameterCount).toBe(plain.manifest.parameterCount)
    // What was tried and not kept is in no payload: the manifest and what it changed are new.
    expect(await stored()).toBe(storedBefore + changed.length + 1)
    expect(await readdir(join(context.dataFolder, 'derived', 'stages'))).not.toContain(last.key)
  })

  it('of a model that a linear map makes whole again are made up for exactly', async () => {
    // A layer whose attention adds nothing and whose block adds next to nothing: leaving it out needs no correction, and none is kept
    // that is worse; the stream before it is what it would have made.
    const folder = join(context.dataFolder, 'idle')
    const idle = await writePicoLlama(folder, { layers: layerCount, seed: 3 })
    for (const name of ['self_attn.o_proj', 'mlp.down_proj'])
      idle.tensors.get(`model.layers.1.${name}.weight`)!.data.fill(0)
    await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(idle.tensors))
    const { manifest: source } = await ingestModel({ source: folder }, context)
    const given = {
      parent: source,
      layers: [
        { from: 0, to: 1 },
        { from: 2, to: 3 },
      ],
    }
    const { manifest } = await build({ correctCuts: true }, given)
    const { logits } = runLlamaFloat64(idle, ids)
    const found = (await (await openManifest(manifest)).forward({ ids: [ids], wantLogits: 'all' })).logits[0]!
    expect(worst(found, logits.flat())).toBeLessThan(2e-3)
  })
})

describe('least squares', () => {
  it.each([
    [6, 3],
    // More than a block of each.
    [37, 19],
  ])(
    'of %i inputs give the weights at which the derivative of the sum of squares and the pull vanishes',
    async (inputs, outputs) => {
      const random = seededRandom(4)
      const tokens = 40
      const draw = (count: number) => Float64Array.from({ length: count }, () => random() - 0.5)
      const [x, y, prior] = [draw(tokens * inputs), draw(tokens * outputs), draw(outputs * inputs)]
      const sums = (b: Float64Array, width: number) =>
        Float64Array.from({ length: inputs * width }, (_, at) => {
          const [i, j] = [Math.floor(at / width), at % width]
          let sum = 0
          for (let t = 0; t < tokens; t++) sum += x[t * inputs + i]! * b[t * width + j]!
          return sum
        })
      const [gram, cross] = [sums(x, inputs), sums(y, outputs)]
      const w = await ridgeFrom(gram, cross, prior, { inputs, outputs, ridge: 0.2 })
      let trace = 0
      for (let i = 0; i < inputs; i++) trace += gram[i * inputs + i]!
      const lambda = (0.2 * trace) / inputs
      for (let o = 0; o < outputs; o++) {
        for (let i = 0; i < inputs; i++) {
          let slope = -cross[i * outputs + o]! + lambda * (w[o * inputs + i]! - prior[o * inputs + i]!)
          for (let k = 0; k < inputs; k++) slope += gram[i * inputs + k]! * w[o * inputs + k]!
          expect(Math.abs(slope)).toBeLessThan(1e-5)
        }
      }
    },
  )

  it('refuses sums that are no number', async () => {
    const gram = Float64Array.from([1, 0, 0, Number.NaN])
    const run = () => ridgeFrom(gram, new Float64Array(2), new Float64Array(2), { inputs: 2, outputs: 1, ridge: 0.1 })
    await expect(run()).rejects.toThrow('not positive definite')
  })

  it('are solved in turns with all else, say how far they are, and stop where they are told to', async () => {
    const inputs = 100
    const gram = Float64Array.from({ length: inputs * inputs }, (_, i) => (i % (inputs + 1) === 0 ? 2 : 1))
    const shares: number[] = []
    const abort = new AbortController()
    setTimeout(() => abort.abort(new DomainError('CANCELLED', 'told to')), 0)
    const solve = (signal?: AbortSignal) => {
      const options = { inputs, outputs: 100, ridge: 1, signal, progress: (share: number) => void shares.push(share) }
      return ridgeFrom(gram, new Float64Array(inputs * 100), new Float64Array(inputs * 100), options)
    }
    await expect(solve(abort.signal)).rejects.toThrow('told to')
    expect(shares.at(-1)).toBeLessThan(1)
    await solve()
    expect(shares.at(-1)).toBe(1)
    expect(shares.slice(-14)).toEqual(shares.slice(-14).toSorted((a, b) => a - b))
  })
})

describe('a build', () => {
  const stages = {
    correctCuts: true,
    headPruning: { metric: 'TASK_LOSS', remove: 1, correct: true, seed: 11 },
    feedForwardPruning: { keep: 40, correct: true, seed: 11 },
  }
  const layers = [
    { from: 0, to: 1 },
    { from: 2, to: 3 },
  ]

  it('that is cancelled in any of its stages stops there, and goes on to the same manifest', async () => {
    const wanted = await build(
      {
        ...stages,
        headPruning: { ...stages.headPruning, seed: 12 },
        feedForwardPruning: { ...stages.feedForwardPruning, seed: 12 },
      },
      { layers },
    )
    const input = inputOf(stages, { layers })
    for (const stage of ['correctCuts', 'pruneHeads', 'pruneFeedForward']) {
      const abort = new AbortController()
      const stopped = {
        ...context.withSignal(abort.signal),
        progress: (report: { stage: string }) => {
          if (report.stage === stage) abort.abort(new DomainError('CANCELLED', 'The job was cancelled'))
        },
      }
      const error = await runStages(input, stopped).catch(e => e)
      // Taken over from the other build: nothing there to stop in.
      if (stage === 'correctCuts' && !(error instanceof Error)) continue
      expect(error).toMatchObject({ code: 'CANCELLED' })
    }
    const results = await runStages(input, context)
    expect(results.at(-1)!.manifest).toBe(wanted.last.manifest)
    expect(results.map(r => r.reused)).toEqual([true, true, true, false])
  })
})

describe('other models', () => {
  it('stored in blocks are cut byte for byte where blocks allow it, and give what the float32 model gives', async () => {
    const golden = await readGolden('qwen2')
    const kvHeads = Number(golden.config.num_key_value_heads)
    const layers = Number(golden.config.num_hidden_layers)
    const heads = Array.from({ length: layers }, (_, i) => [i % kvHeads])
    const prune = async (path: string) => {
      const { manifest } = await ingestModel({ source: path }, context)
      return build(given(heads), { parent: manifest, layers: [{ from: 0, to: layers }] })
    }
    const plain = await prune(await writeGoldenGguf(golden, join(context.dataFolder, 'qwen2-gguf')))
    const folder = await prune(await writeGoldenFolder(golden, join(context.dataFolder, 'qwen2')))
    const blocks = await prune(await writeGoldenGguf(golden, join(context.dataFolder, 'qwen2-q8'), 'Q8_0'))
    const logits = async (manifest: Manifest) =>
      (await (await openManifest(manifest)).forward({ ids: [golden.ids], wantLogits: 'last' })).logits[0]!
    const [a, b, c] = [await logits(plain.manifest), await logits(folder.manifest), await logits(blocks.manifest)]
    expect(worst(a, [...b])).toBeLessThan(1e-4)
    expect(worst(c, [...b])).toBeLessThan(0.2 * Math.max(...b.map(Math.abs)))
    const q = blocks.manifest.tensors.find(t => t.role === 'layers.0.q')!
    expect(q.dtype).toBe('Q8_0')
    expect(q.bytes).toBe((q.shape[0]! * q.shape[1]! * 34) / 32)
  })

  it('that keep q, k and v in one tensor keep their heads, and say so', async () => {
    const golden = await readGolden('gpt2')
    const source = await writeGoldenFolder(golden, join(context.dataFolder, 'gpt2'))
    const { manifest } = await ingestModel({ source }, context)
    const layers = [{ from: 0, to: Number(golden.config.n_layer) }]
    const heads = { headPruning: { metric: 'RANDOM', remove: 1 } }
    const error = await build(heads, { parent: manifest, layers }).catch(e => e)
    expect(error).toMatchObject({ code: 'UNSUPPORTED_ARCHITECTURE', message: expect.stringContaining('one tensor') })
    const narrow = await build({ feedForwardPruning: { keep: 20, metric: 'MAGNITUDE' } }, { parent: manifest, layers })
    const model = await openManifest(narrow.manifest)
    expect((await model.forward({ ids: [golden.ids], wantLogits: 'last' })).logits[0]!.every(Number.isFinite)).toBe(
      true,
    )
  })
})
