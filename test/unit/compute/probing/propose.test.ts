import { describe, expect, it, vi } from 'vitest'
import { proposalSizes, rangeReason, removeGreedily } from '../../../../compute/probing/propose.js'

const perLayer = (kept: number) => 1000 + 10 * kept

describe('proposalSizes', () => {
  it.each([
    [8, undefined, [6, 5]],
    [30, undefined, [23, 18]],
    [2, undefined, [1]],
    [3, undefined, [2, 1]],
    [8, 1050, [5, 4]],
    [8, 1010, [1]],
    [30, 1200, [20, 16]],
  ])('of %i layers with at most %s parameters are %j', (layerCount, maximum, sizes) => {
    expect(proposalSizes(layerCount, perLayer, maximum)).toEqual(sizes)
  })

  it('says the smallest possible count where nothing fits', () => {
    expect(() => proposalSizes(8, perLayer, 1009)).toThrow(
      'at most 1009 parameters: the smallest possible, with one layer, has 1010',
    )
  })

  it('refuses a model of one layer', () => {
    expect(() => proposalSizes(1, perLayer)).toThrow('The model has 1 layer')
  })
})

describe('removeGreedily', () => {
  // Two layers that stand in for each other: either can go, both cannot. The single-layer losses cannot see that.
  const loss = (kept: readonly number[]) =>
    2 +
    (kept.includes(0) ? 0 : 9) +
    (kept.includes(1) || kept.includes(2) ? 0 : 5) +
    (kept.includes(3) ? 0 : 0.5) +
    (kept.includes(4) ? 0 : 0.7) +
    (kept.includes(5) ? 0 : 3)
  const skipLosses = [9, 0.01, 0.02, 0.5, 0.7, 3]

  it('measures jointly and so keeps one of two layers that replace each other', async () => {
    const steps = await removeGreedily(skipLosses, 3, async sets => sets.map(loss))
    expect(steps.map(s => s.removed)).toEqual([1, 3, 4])
    expect(steps.at(-1)).toMatchObject({ kept: [0, 2, 5] })
    expect(steps.at(-1)?.loss).toBeCloseTo(3.2)
  })

  it('measures a bounded number of sets per step', async () => {
    const measure = vi.fn(async (sets: number[][]) => sets.map(loss))
    await removeGreedily(skipLosses, 1, measure)
    expect(measure).toHaveBeenCalledTimes(5)
    expect(Math.max(...measure.mock.calls.map(([sets]) => sets.length))).toBe(4)
  })
})

describe('rangeReason', () => {
  const losses = [8.05, 0.42, 0.731, 1.3, -0.013, 0.42, 0.0000071, -0.0002]
  it.each([
    [{ from: 1, to: 4 }, 'layers 1-3: skipping any of them costs 0.42 to 1.3 nats per token of code generation'],
    [{ from: 0, to: 1 }, 'layer 0: skipping it costs 8.1 nats per token of code generation'],
    [{ from: 4, to: 6 }, 'layers 4-5: skipping any of them costs -0.013 to 0.42 nats per token of code generation'],
    [
      { from: 6, to: 8 },
      'layers 6-7: skipping any of them alone costs little (0.000 nats per token of code generation), but removing others together was measured as cheaper',
    ],
  ])('of %j is in words with numbers', (range, reason) => {
    expect(rangeReason(range, losses, 'code_generation')).toBe(reason)
  })
})
