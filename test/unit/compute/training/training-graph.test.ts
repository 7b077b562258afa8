import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { extractLayers } from '../../../../compute/surgery/extract-layers.js'
import { adamWDefaults } from '../../../../compute/training/adamw.js'
import type { TeacherRow, TrainingBatch } from '../../../../compute/training/batch-feeds.js'
import { openTeacher, type TeacherOptions } from '../../../../compute/training/teacher.js'
import { trainingGraph } from '../../../../compute/training/training-graph.js'
import {
  type Losses,
  openTrainingModel,
  type TrainingModelOptions,
} from '../../../../compute/training/training-model.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { type PicoLlama, type PicoOptions, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let student: Manifest
let teacherManifest: Manifest
let pico: PicoLlama
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  const ingest = async (name: string, options: PicoOptions) => {
    const folder = join(context.dataFolder, name)
    const made = await writePicoLlama(folder, options)
    const { manifest } = await ingestModel({ source: folder }, context)
    return { made, manifest: await readManifest(context.payloads, manifest) }
  }
  const own = await ingest('student', { heads: 2, keyValueHeads: 1, seed: 1 })
  student = own.manifest
  pico = own.made
  teacherManifest = (await ingest('teacher', { heads: 2, keyValueHeads: 1, seed: 2, layers: 3 })).manifest
})
afterAll(() => context.dispose())

const ids = [
  [1, 5, 17, 40, 40, 3, 22, 63],
  [1, 30, 8, 12, 12],
]
const seq = 8
const base: TrainingModelOptions = {
  trained: [],
  crossEntropy: false,
  optimiser: adamWDefaults,
  decayed: () => false,
  maximumRows: 16,
  seed: 3,
}
const value = (l: Losses) => l.crossEntropy + l.divergence + l.hidden + l.attention

/** Loss of cross-entropy with weights, by the float64 forward. */
function exactCrossEntropy(weights: readonly Float32Array[]): number {
  return ids.reduce((total, own, row) => {
    const { logits } = runLlamaFloat64(pico, own)
    return own
      .slice(1)
      .reduce((sum, target, at) => sum + weights[row]![at]! * negativeLogLikelihood(logits[at]!, target), total)
  }, 0)
}

/** Largest difference between gradients and central differences of the graph's own losses, relative to each tensor's largest gradient. */
async function worstDifference(options: TrainingModelOptions, batch: TrainingBatch): Promise<number> {
  const model = await openTrainingModel(student, context, options)
  // A rate of 0 leaves the weights as they are.
  await model.step([batch], 0, 1)
  let worst = 0
  for (const { weight, gradient } of model.tensors) {
    const scale = Math.max(...gradient.map(Math.abs))
    for (const share of [0.1, 0.37, 0.83]) {
      const index = Math.floor(share * weight.length)
      const original = weight[index]!
      const h = 0.01
      const at = async (x: number) => {
        weight[index] = x
        return value(await model.losses(batch))
      }
      // Richardson: fourth order, so that a step large enough for float32 is not too large for the difference.
      const [a, b, c, d] = [
        await at(original + h),
        await at(original - h),
        await at(original + 2 * h),
        await at(original - 2 * h),
      ]
      weight[index] = original
      const expected = (8 * (a - b) - (c - d)) / (12 * h)
      worst = Math.max(worst, Math.abs(gradient[index]! - expected) / (scale + 1e-4))
    }
  }
  await model.dispose()
  return worst
}

async function teacherRows(form: TeacherOptions): Promise<TeacherRow[]> {
  const teacher = await openTeacher(teacherManifest, context, form)
  const rows = []
  for (const own of ids) rows.push(await teacher.say(own))
  await teacher.dispose()
  return rows
}
const filled = (row: number, weight: number) => new Float32Array(ids[row]!.length).fill(weight)
const lastOut = (weights: Float32Array) => weights.map((w, i) => (i < weights.length - 1 ? w : 0))
const linear = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'].map(role => `layers.1.${role}`)

describe('a training graph', () => {
  test('a layer whose gate is 0 in a row takes no part there, and gradients know it', async () => {
    const rows = ids.map((own, row) => ({ ids: own, crossEntropyWeights: lastOut(filled(row, 0.1)) }))
    const losses = async (manifest: Manifest, batch: TrainingBatch, gated: boolean) => {
      const options = { ...base, trained: ['final_norm'], crossEntropy: true, layerGates: gated }
      const model = await openTrainingModel(manifest, context, options)
      const { crossEntropy } = await model.losses(batch)
      await model.dispose()
      return crossEntropy
    }
    const cut = extractLayers(student, [1], 'parent')
    const apart =
      (await losses(cut, { rows: [rows[0]!], seq }, false)) + (await losses(student, { rows: [rows[1]!], seq }, false))
    const gates = [{ ...rows[0]!, layerGates: [0, 1] }, rows[1]!]
    expect(await losses(student, { rows: gates, seq }, true)).toBeCloseTo(apart, 5)
    const options = {
      ...base,
      trained: ['layers.0.q', 'layers.0.down', 'layers.1.o', 'embed'],
      crossEntropy: true,
      layerGates: true,
    }
    expect(await worstDifference(options, { rows: gates, seq })).toBeLessThan(2e-3)
  })

  test('masked cross-entropy is that of a float64 forward, and 0 where everything is masked', async () => {
    const weights = ids.map((own, row) => lastOut(Float32Array.from(own, (_, i) => (i % 2 === row ? 0.25 : 0))))
    const model = await openTrainingModel(student, context, { ...base, trained: ['final_norm'], crossEntropy: true })
    const losses = await model.losses({
      rows: ids.map((own, row) => ({ ids: own, crossEntropyWeights: weights[row]! })),
      seq,
    })
    expect(Math.abs(losses.crossEntropy - exactCrossEntropy(weights))).toBeLessThan(1e-5)
    const masked = await model.step(
      [{ rows: ids.map(own => ({ ids: own, crossEntropyWeights: new Float32Array(own.length) })), seq }],
      0.1,
      1,
    )
    expect(masked.crossEntropy).toBeCloseTo(0, 12)
    expect(masked.gradientNorm).toBe(0)
    await model.dispose()
  })

  test('layers computed anew in the backward pass have the same gradients, and their insides are asked for by it alone', async () => {
    const trained = student.tensors.map(tensor => tensor.role!)
    const options = { ...base, trained, crossEntropy: true }
    const [kept, again] = [
      await openTrainingModel(student, context, options),
      await openTrainingModel(student, context, { ...options, recompute: true }),
    ]
    const batch = { rows: ids.map((own, row) => ({ ids: own, crossEntropyWeights: lastOut(filled(row, 0.1)) })), seq }
    const [first, second] = [await kept.step([batch], 1e-3, 1), await again.step([batch], 1e-3, 1)]
    expect(second.crossEntropy).toBe(first.crossEntropy)
    kept.tensors.forEach(({ gradient }, i) => {
      const other = again.tensors[i]!.gradient
      const scale = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      // The order of sums is all that may differ.
      gradient.forEach((value, at) => {
        if (Math.abs(value - other[at]!) > 1e-5 * scale)
          throw new Error(`${kept.tensors[i]!.name} ${at}: ${value} ${other[at]}`)
      })
    })
    await Promise.all([kept.dispose(), again.dispose()])

    const graph = trainingGraph(checkBuildable(student), () => ({ location: '', offset: 0, length: 0 }), {
      ...options,
      headChunks: 1,
      recompute: true,
    })
    const lossAt = graph.nodes.findIndex(({ outputs }) => outputs.some(output => output?.name === 'cross_entropy'))
    const inside = new Set(
      graph.nodes
        .slice(0, lossAt)
        .flatMap(({ outputs }) => outputs.flatMap(o => (o?.name.startsWith('layers.') ? [o.name] : []))),
    )
    const late = graph.nodes
      .slice(lossAt)
      .flatMap(({ inputs }) => inputs.flatMap(i => (i && inside.has(i.name) ? [i.name] : [])))
    // What the norms at layers' ends give beside the kept states is kept, too.
    expect([...new Set(late)].filter(name => !/attn_norm/.test(name))).toEqual([])
  })

  test('several passes make the step that one pass of all rows makes', async () => {
    const rows = ids.map((own, row) => ({ ids: own, crossEntropyWeights: lastOut(filled(row, 0.1)) }))
    const options = { ...base, trained: ['embed', 'layers.0.q', 'final_norm'], crossEntropy: true }
    const [one, two] = [
      await openTrainingModel(student, context, options),
      await openTrainingModel(student, context, options),
    ]
    const whole = await one.step([{ rows, seq }], 1e-2, 1)
    const parts = await two.step(
      rows.map(row => ({ rows: [row], seq })),
      1e-2,
      1,
    )
    expect(Math.abs(parts.crossEntropy / whole.crossEntropy - 1)).toBeLessThan(1e-5)
    expect(Math.abs(parts.gradientNorm / whole.gradientNorm - 1)).toBeLessThan(1e-5)
    one.tensors.forEach(({ gradient }, i) => {
      const other = two.tensors[i]!.gradient
      expect(Math.max(...gradient.map((x, j) => Math.abs(x - other[j]!)))).toBeLessThan(1e-6)
    })
    await Promise.all([one.dispose(), two.dispose()])
  })

  test.each([
    ['cross-entropy beside divergence, the teacher’s 5 most likely tokens and the rest as one', 1, 0.4],
    ['divergence at temperature 2 beside cross-entropy at 1', 2, 0.4],
    ['divergence alone', 1, 0],
  ])('%s: gradients are differences of the loss', async (_name, temperature, ce) => {
    const said = await teacherRows({ tokens: 5, temperature })
    const rows = ids.map((own, row) => ({
      ids: own,
      teacher: said[row]!,
      divergenceWeights: filled(row, 0.05),
      crossEntropyWeights: lastOut(filled(row, 0.1 * ce)),
    }))
    const options = {
      ...base,
      trained: ['embed', 'layers.0.attn_norm', 'layers.0.k', 'layers.1.down'],
      crossEntropy: ce > 0,
      divergence: { tokens: 5, temperature },
    }
    expect(await worstDifference(options, { rows, seq })).toBeLessThan(2e-3)
  })

  test('hidden-state and attention losses: gradients are differences of the loss', async () => {
    const said = await teacherRows({ tokens: 1, temperature: 1, hidden: [1, 3], attention: [0] })
    const rows = ids.map((own, row) => ({ ids: own, teacher: said[row]!, hiddenWeights: filled(row, 0.05) }))
    const options: TrainingModelOptions = {
      ...base,
      trained: ['embed', 'layers.0.k', 'layers.0.v', 'layers.1.up'],
      crossEntropy: true,
      hidden: [
        { layer: 1, kind: 'cosine' },
        { layer: 2, kind: 'mse' },
      ],
      attention: [1],
    }
    // Rows of one length: padding has no attention to copy.
    const batch = { rows: rows.slice(0, 1), seq, attentionWeight: 0.1 }
    const model = await openTrainingModel(student, context, options)
    const { hidden, attention } = await model.losses(batch)
    expect(hidden).toBeGreaterThan(0.1)
    expect(attention).toBeGreaterThan(0.01)
    await model.dispose()
    expect(await worstDifference(options, batch)).toBeLessThan(2e-3)
  })

  test('low-rank factors begin without effect, and have the gradients that differences say', async () => {
    const weights = ids.map((_, row) => lastOut(filled(row, 0.1)))
    const rows = ids.map((own, row) => ({ ids: own, crossEntropyWeights: weights[row]! }))
    const options = { ...base, crossEntropy: true, lora: { rank: 3, alpha: 6, targets: linear } }
    const model = await openTrainingModel(student, context, options)
    expect(model.tensors).toHaveLength(14)
    expect(Math.abs((await model.losses({ rows, seq })).crossEntropy - exactCrossEntropy(weights))).toBeLessThan(1e-5)
    const before = (await model.step([{ rows, seq }], 1e-2, 1)).crossEntropy
    await model.step([{ rows, seq }], 1e-2, 2)
    expect((await model.losses({ rows, seq })).crossEntropy).toBeLessThan(before)
    await model.dispose()
    expect(await worstDifference(options, { rows, seq })).toBeLessThan(2e-3)
  })

  test('a weight that is not a number stops the step, and is named', async () => {
    const model = await openTrainingModel(student, context, { ...base, trained: ['layers.0.q'], crossEntropy: true })
    model.tensors[0]!.weight[7] = Number.NaN
    const rows = ids.map((own, row) => ({ ids: own, crossEntropyWeights: lastOut(filled(row, 0.1)) }))
    await expect(model.step([{ rows, seq }], 1e-3, 12)).rejects.toThrow(
      'Step 12: the cross-entropy is NaN; tensor model.layers.0.self_attn.q_proj.weight holds NaN or infinity',
    )
    await model.dispose()
  })
})
