import { describe, expect, it } from 'vitest'
import { stackWithout } from '../../../../compute/probing/layer-influence.js'
import { createScorer, type ScoringModel } from '../../../../compute/probing/scoring.js'
import { layerRuns, prefixTree } from '../../../../compute/probing/stacks.js'
import { numberAfter, numberModel } from './number-model.js'

const layerCount = 6
const model = (layerwise = numberModel()): ScoringModel => ({
  name: 'numbers',
  layerCount,
  contextLength: 64,
  encode: () => [],
  bosTokenId: undefined,
  score: () => Promise.reject(new Error('not asked for')),
  layerwise,
})
const never = new AbortController().signal
const all = stackWithout(layerCount)
const skips = [all, ...all.map(layer => stackWithout(layerCount, layer))]
const rows = [3, 9, 4, 9].map((length, r) => ({
  ids: Array.from({ length }, (_, i) => 1 + r + i),
  completionStart: 2,
}))

describe('layer runs', () => {
  it('of a model and all its skips are half of what running each whole takes', () => {
    expect(layerRuns(skips)).toEqual({ whole: 6 + 6 * 5, shared: 6 + 5 + 4 + 3 + 2 + 1 })
  })

  it('count a stack that is given twice once', () => {
    expect(layerRuns([all, all])).toEqual({ whole: 12, shared: 6 })
  })
})

it('a stack whose layers do not ascend is refused', () => {
  expect(() => prefixTree([[0, 2, 1]])).toThrow('layer 1 follows layer 2 in a stack')
})

describe('scoreStacks', () => {
  it('gives every stack the losses that it has when run alone', async () => {
    const scores = await createScorer(model(), never).scoreStacks(rows, [...skips, [2], all])
    for (const [s, stack] of [...skips, [2], all].entries()) {
      const expected = rows.map(({ ids }) => ids.slice(2).reduce((sum, id) => sum + numberAfter(id, stack), 0))
      expect(scores[s]!.map(score => score.nll)).toEqual(expected)
    }
  })

  it('runs every distinct prefix once per row', async () => {
    const layerwise = numberModel()
    await createScorer(model(layerwise), never).scoreStacks(rows, skips)
    expect(layerwise.runs).toHaveLength(rows.length * layerRuns(skips).shared)
  })

  it('hands over each batch with its scores, and every row once', async () => {
    const seen: number[] = []
    const many = Array.from({ length: 200 }, (_, i) => rows[i % 4]!)
    const scores = await createScorer(model(), never).scoreStacks(many, skips, {
      batchDone: async (batch, own) => {
        seen.push(...batch)
        expect(own.map(stack => stack.length)).toEqual(skips.map(() => batch.length))
      },
    })
    expect(seen.sort((a, b) => a - b)).toEqual(many.map((_, i) => i))
    expect(scores[0]!.map(s => s.nll)).toEqual(many.map((_, i) => scores[0]![i % 4]!.nll))
  })

  it('counts the tokens of every stack as done, in steps', async () => {
    const steps: number[] = []
    await createScorer(model(), never).scoreStacks(rows, skips, { done: tokens => steps.push(tokens) })
    expect(steps.reduce((a, b) => a + b, 0)).toBeCloseTo(25 * skips.length, 6)
    expect(steps.length).toBeGreaterThanOrEqual(layerCount + 1)
  })

  it('observes cosines, norms and angles of one stack only', async () => {
    const scores = await createScorer(model(), never).scoreStacks(rows, skips, { observe: 0 })
    expect(scores[1]![0]!.layers).toBeUndefined()
    // One-dimensional positive states point the same way: cosine 1 per token, angle 0 for each of 6 single layers … 1 block of six.
    const { cosine, norm, angles } = scores[0]![0]!.layers!
    expect(Array.from(cosine)).toEqual(all.map(() => 3))
    expect(norm[0]).toBe(rows[0]!.ids.reduce((sum, id) => sum + numberAfter(id, [0]), 0))
    expect(angles!.map(block => block.length)).toEqual([6, 5, 4, 3, 2, 1])
    expect(Math.max(...angles!.flat())).toBe(0)
  })

  it('asks only for the rows that losses need of last layers, but of the observed stack, with the same losses', async () => {
    const layerwise = numberModel()
    const whole = layerwise.layer
    const tails: number[] = []
    const seqOf = (own: readonly { ids: readonly number[] }[]) => Math.max(...own.map(r => r.ids.length))
    layerwise.tail = async (index, hidden, own) => {
      const out = await whole(index, hidden, own)
      for (const _ of own) tails.push(index)
      return Float32Array.from(
        own.flatMap(({ ids, completionStart }, r) => [
          ...out.subarray(r * seqOf(own) + completionStart, r * seqOf(own) + ids.length),
        ]),
      )
    }
    const losses = layerwise.losses
    layerwise.losses = async (hidden, own, scoredOnly) => {
      if (!scoredOnly) return losses(hidden, own)
      let from = 0
      return own.map(({ ids, completionStart }) => {
        const values = hidden.subarray(from, from + ids.length - completionStart)
        from += values.length
        return { nll: values.reduce((a, b) => a + b, 0), exact: false }
      })
    }
    const scores = await createScorer(model(layerwise), never).scoreStacks(rows, skips, { observe: 0 })
    const expected = await createScorer(model(), never).scoreStacks(rows, skips, { observe: 0 })
    expect(scores.map(s => s.map(r => r.nll))).toEqual(expected.map(s => s.map(r => r.nll)))
    expect(scores[0]!.map(r => r.layers)).toEqual(expected[0]!.map(r => r.layers))
    // Layer 5 ends every stack but the whole one and the one without it, whose last layer others go on from.
    expect(tails).toEqual(new Array(5 * rows.length).fill(5))
  })

  it('stops between two runs when cancelled', async () => {
    const controller = new AbortController()
    const layerwise = numberModel()
    const { layer } = layerwise
    layerwise.layer = async (index, hidden, own) => {
      if (index === 1) controller.abort()
      return layer(index, hidden, own)
    }
    const error = await createScorer(model(layerwise), controller.signal)
      .scoreStacks(rows, skips)
      .catch(e => e)
    expect(error.code).toBe('CANCELLED')
    expect(Math.max(...layerwise.runs)).toBe(1)
  })

  it('names the layer whose output is not a number', async () => {
    const layerwise = numberModel()
    const { layer } = layerwise
    layerwise.layer = async (index, hidden, own) =>
      index === 3 ? hidden.map(() => Number.NaN) : layer(index, hidden, own)
    const error = await createScorer(model(layerwise), never)
      .scoreStacks(rows, skips)
      .catch(e => e)
    expect(error.code).toBe('NOT_A_NUMBER')
    expect(error.message).toBe('numbers: the output of layer 3 holds NaN or infinity')
  })
})
