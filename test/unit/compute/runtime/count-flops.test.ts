// What runs of graphs are counted as, against the formulas of docs/cost.md written out for a pico Llama.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { unitsOf } from '../../../../compute/pool/cost.js'
import { type FlopCounter, withFlopCounter } from '../../../../compute/runtime/count-flops.js'
import { estimateFlops, solvingFlops, stagePasses } from '../../../../lib/build-cost.js'
import { buildStagesSchema } from '../../../../lib/build-stages.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let model: LoadedModel
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  await writePicoLlama(join(context.dataFolder, 'pico'))
  const { manifest } = await ingestModel({ source: join(context.dataFolder, 'pico') }, context)
  model = await openModel(await readManifest(context.payloads, manifest), context)
})
afterAll(async () => {
  await model.dispose()
  await context.dispose()
})

const count = async (work: () => Promise<unknown>): Promise<number> => {
  const counter: FlopCounter = { flops: 0 }
  await withFlopCounter(counter, work)
  return counter.flops
}
// Two layers: q and o 32 x 32, k and v 16 x 32, three of 48 x 32; the head 64 x 32.
const layerWeights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)
const head = 64 * 32
const ids = [1, 5, 9, 4, 22, 17]

describe('operations', () => {
  it('of whole sequences: 2 per weight and token, the head for wanted rows, 4 x positions x width for attention', async () => {
    const padded = 2 * 6
    const flops = await count(() => model.forward({ ids: [ids, ids.slice(0, 4)], wantLogits: 'last' }))
    expect(flops).toBe(2 * layerWeights * padded + 2 * head * 2 + 2 * 4 * 6 * 32 * padded)
  })

  it('of decoding: each token against all positions so far', async () => {
    const sequence = model.startSequence()
    // Behind the last layer's attention only the last of the six rows runs: output projection and feed-forward block.
    const unread = 5 * (32 * 32 + 3 * 32 * 48)
    expect(await count(() => sequence.append(ids))).toBe(
      2 * (layerWeights * 6 - unread) + 2 * head + 2 * 4 * 6 * 32 * 6,
    )
    expect(await count(() => sequence.append([3]))).toBe(2 * layerWeights + 2 * head + 2 * 4 * 7 * 32)
  })

  it('are counted for the job that ran them, also where jobs run at once', async () => {
    const one = { ids, completionStart: 2 }
    const [a, b] = await Promise.all([
      count(() => model.score([one])),
      count(async () => {
        await model.score([one])
        await model.score([one])
      }),
    ])
    expect(a).toBeGreaterThan(0)
    expect(b).toBe(2 * a)
  })

  it('of a backward pass are about twice those of the forward pass more', async () => {
    const forward = await count(() => model.score([{ ids, completionStart: 2 }]))
    const both = await count(() => model.headGradients([{ ids, completionStart: 2 }]))
    expect(both / forward).toBeGreaterThan(1.5)
    expect(both / forward).toBeLessThan(3.5)
  })
})

describe('DCUs', () => {
  it('are device seconds times the price of the kind of device', () => {
    expect([
      unitsOf('cpu-0', 3),
      unitsOf('cuda-1', 3),
      unitsOf('webgpu-0', 3),
      unitsOf('io', 3),
      unitsOf(null, 3),
    ]).toEqual([3, 60, 12, 0, 0])
  })

  it('of a build are estimated from what its stages run', () => {
    const size = {
      parentParameters: 1000,
      studentParameters: 800,
      teacherParameters: 1000,
      layers: 4,
      cuts: 1,
      hiddenSize: 6,
      attentionWidth: 9,
      intermediateSize: 12,
      queryHeads: 9,
      keyValueHeads: 3,
      validationSamples: 10,
      capabilities: 7,
    }
    const judged = 10 * 130 * 2 * 1800
    expect(estimateFlops(null, size)).toBe(judged)
    const stages = (given: Record<string, unknown>) =>
      buildStagesSchema.parse({ ...given, calibration: { probeSet: 'a'.repeat(64), samplesPerCapability: 2 } })
    const loss = stages({ headPruning: { metric: 'TASK_LOSS', remove: [1, 2, 0, 1] } })
    expect(stagePasses(loss, size)).toBe((4 * 3) / 2)
    expect(estimateFlops(loss, size)).toBe(judged + 6 * 14 * 130 * 2 * 1000)
    const queries = stages({ headPruning: { metric: 'TASK_LOSS', remove: 1, unit: 'QUERY_HEAD' } })
    expect(stagePasses(queries, size)).toBe((4 * 3 * 3) / 2)
    const fitted = stages({ feedForwardPruning: { keep: 3, correct: true } })
    expect(stagePasses(fitted, size)).toBe(1 + 1.5 + 1)
    // Each layer's 12 inputs and 6 outputs, 25 times slower than graphs.
    const down = 25 * (12 ** 3 / 3 + 2 * 6 * 12 ** 2)
    const o = 25 * (9 ** 3 / 3 + 2 * 6 * 9 ** 2)
    expect(solvingFlops(fitted, size)).toBe(4 * down)
    expect(estimateFlops(fitted, size)).toBe(judged + 4 * down + 3.5 * 14 * 130 * 2 * 1000)
    expect(solvingFlops(stages({ correctCuts: true }), size)).toBe(3 * down + 3 * (down + o))
    expect(solvingFlops(stages({ correctCuts: true }), { ...size, intermediateSize: 8193 })).toBe(3 * o)
    const more = (given: Record<string, unknown>) => estimateFlops(buildStagesSchema.parse(given), size) - judged
    const int4 = { type: 'INT4', calibrationTokens: 1000, samplesPerCapability: 1 }
    const compared = 2 * 7 * 130
    expect(more({ quantization: int4 })).toBe((2 * 1000 + compared) * 2 * 800)
    // Sixteen groups, half of the model each; a quality is aimed at up to four times.
    expect(more({ quantization: { ...int4, maximumBytes: 1 } })).toBe((11 * 512 + 2 * 1000 + compared) * 2 * 800)
    expect(more({ quantization: { ...int4, minimumQuality: 0.9 } })).toBe((14 * 512 + 8 * 1000 + compared) * 2 * 800)
    // Five fusions and all of them at once.
    expect(more({ fusion: {} })).toBe((2 * 6 * 10 * 144 + 2 * compared) * 2 * 800)
    expect(more({ fusion: { only: ['QKV'], rounds: 3 } })).toBe((2 * 4 * 144 + 2 * compared) * 2 * 800)
  })

  it('of healing are those of the student’s training and of the teacher it asks, which need not be its parent', () => {
    const size = {
      ...{ parentParameters: 30, studentParameters: 30, teacherParameters: 135, layers: 1, cuts: 0 },
      ...{ hiddenSize: 1, attentionWidth: 1, intermediateSize: 1, queryHeads: 1, keyValueHeads: 1 },
      ...{ validationSamples: 2, capabilities: 1 },
    }
    const flops = (given: Record<string, unknown>) => {
      const healing = { data: 'a'.repeat(64), tokens: 100, ...given }
      return estimateFlops(buildStagesSchema.parse({ healing }), size)
    }
    const judged = 2 * 130 * 2 * (135 + 30)
    expect(flops({})).toBe(judged + 100 * (6 * 30 + 2 * 135))
    expect(flops({ onPolicy: 0.5 })).toBe(judged + 100 * (7 * 30 + 2 * 135))
    // It is judged beside a teacher that its training never asks.
    expect(flops({ crossEntropy: 1 })).toBe(judged + 100 * 6 * 30)
    expect(flops({ crossEntropy: 1, hidden: 0.5 })).toBe(judged + 100 * (6 * 30 + 2 * 135))
    expect(flops({ crossEntropy: 1, attention: 0.5 })).toBe(judged + 100 * (6 * 30 + 2 * 135))
  })
})
