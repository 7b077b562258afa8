// Where the student's own rows stand among those of the plan, and what they count.
import { expect, it } from 'vitest'
import type { PackedRow } from '../../../../compute/training/pack-rows.js'
import { batchesOf, type TrainingPlan, train } from '../../../../compute/training/train.js'
import type { TrainingModel } from '../../../../compute/training/training-model.js'

const row = (id: number): PackedRow => ({ ids: [id, id, id, id], counts: Float32Array.of(0, 1, 1, 1) })
const plan = (changes: Partial<TrainingPlan> = {}): TrainingPlan => ({
  rows: Array.from({ length: 16 }, (_, i) => row(i)),
  batchRows: 2,
  accumulation: 1,
  schedule: { kind: 'CONSTANT', peak: 0.1, steps: 8, warmup: 0 },
  crossEntropyShare: 0.5,
  divergenceShare: 0.5,
  hiddenShare: 0,
  attentionShare: 0,
  ...changes,
})
/** Runs the loop on a model that learns nothing; the rows each step was given. */
async function rowsOf(changes: Partial<TrainingPlan>, from = 0) {
  const steps: (readonly number[])[] = []
  const asked: [number, number][] = []
  const none = { crossEntropy: 0, divergence: 0, hidden: 0, attention: 0, gradientNorm: 0 }
  const model = {
    model: { dimensions: { vocabularySize: 64 } },
    step: async (batches: { rows: { ids: readonly number[] }[] }[]) => {
      steps.push(batches.flatMap(b => b.rows.map(r => r.ids[0]!)))
      return none
    },
  } as unknown as TrainingModel
  const ownRows = async (step: number, rows: number) => {
    asked.push([step, rows])
    return Array.from({ length: rows }, (_, i) => ({ ...row(100 * step + i), own: true }))
  }
  await train(model, plan(changes), { ownRows }, { step: from, losses: [] })
  return { steps, asked }
}

it('its share of the rows is spread evenly, and written anew every few steps', async () => {
  const { steps, asked } = await rowsOf({ onPolicy: { share: 0.25, every: 3 } })
  expect(steps.flat().map(id => id >= 100)).toEqual(Array.from({ length: 16 }, (_, i) => i % 4 === 3))
  expect(asked).toEqual([
    [1, 1],
    [4, 2],
    [7, 1],
  ])
  expect(steps.flat().filter(id => id >= 100)).toEqual([100, 400, 401, 700])
})

it('a run that goes on from a checkpoint is given the same rows', async () => {
  const onPolicy = { share: 0.5, every: 2 }
  const whole = await rowsOf({ onPolicy })
  expect((await rowsOf({ onPolicy }, 4)).steps).toEqual(whole.steps.slice(4))
})

it('all rows may be its own, or none', async () => {
  expect((await rowsOf({ onPolicy: { share: 1, every: 8 } })).asked).toEqual([[1, 16]])
  expect((await rowsOf({})).asked).toEqual([])
})

it('its own words count for the divergence alone, as much as a text does for both', async () => {
  const own = { ...row(100), own: true }
  const sum = (values: Float32Array | undefined) => values!.reduce((a, b) => a + b, 0)
  const weights = async (changes: Partial<TrainingPlan>, rows: [number, PackedRow][]) => {
    const [batch] = await batchesOf(plan(changes), 1, undefined, new Map(rows))
    return batch!.rows.map(r => [r.ids[0]!, sum(r.divergenceWeights), sum(r.crossEntropyWeights)])
  }
  const one = { batchRows: 1 }
  expect(await weights({}, [[1, own]])).toEqual([
    [0, expect.closeTo(0.25, 6), expect.closeTo(0.25, 6)],
    [100, expect.closeTo(0.5, 6), 0],
  ])
  expect(await weights(one, [])).toEqual([[0, expect.closeTo(0.5, 6), expect.closeTo(0.5, 6)]])
  expect(await weights(one, [[0, own]])).toEqual([[100, expect.closeTo(1, 6), 0]])
})

it('a first step that hardly counts anything is not what later losses are held against', async () => {
  const stepped = (losses: readonly number[]) => {
    const model = {
      model: { dimensions: { vocabularySize: 64 } },
      step: async (_batches: unknown, _rate: number, step: number) => ({
        ...{ divergence: 0, hidden: 0, attention: 0, gradientNorm: 0 },
        crossEntropy: losses[step - 1]!,
      }),
    } as unknown as TrainingModel
    return train(model, plan(), {})
  }
  expect((await stepped([0, 3, 2, 2, 2, 2, 2, 2])).step).toBe(8)
  await expect(stepped([2, 8, 20, 30, 40, 50, 60, 70])).rejects.toThrow(
    'Step 6: training diverges, the loss grew from 2.000 to 29.600 nats',
  )
})

it('weights that could not be kept are not the best, but those of the last step are', async () => {
  const model = {
    model: { dimensions: { vocabularySize: 64 } },
    step: async () => ({ crossEntropy: 1, divergence: 0, hidden: 0, attention: 0, gradientNorm: 0 }),
  } as unknown as TrainingModel
  const bestOf = async (kept: boolean, patience?: number) => {
    let loss = 9
    const hooks = { heldOut: async () => loss--, keepBest: async () => kept }
    const asked: number[] = []
    const { best, unkept } = await train(model, plan({ evaluateEvery: 2, patience }), {
      ...hooks,
      stepDone: ({ step }) => asked.push(step),
    })
    return [asked.length, best, unkept]
  }
  const last = { loss: 5, step: 8, since: 0 }
  expect(await bestOf(true)).toEqual([8, last, undefined])
  // A loss that falls is not what patience counts.
  for (const patience of [undefined, 1]) expect(await bestOf(false, patience)).toEqual([8, last, true])
})
