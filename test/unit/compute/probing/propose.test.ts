import { describe, expect, it, vi } from 'vitest'
import { mixture, single } from '../../../../compute/probing/objective.js'
import {
  groupReason,
  objectiveOf,
  proposalSizes,
  proposedSets,
  rangeReason,
  removeGreedily,
  withoutGroupsInWords,
} from '../../../../compute/probing/propose.js'

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
    expect(proposalSizes(layerCount, perLayer, maximum).sizes).toEqual(sizes)
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
    const { base, steps } = await removeGreedily(skipLosses, 3, async kept => loss(kept))
    expect(base).toBe(2)
    expect(steps.map(s => s.removed)).toEqual([1, 3, 4])
    expect(steps.at(-1)).toMatchObject({ kept: [0, 2, 5] })
    expect(steps.at(-1)?.loss).toBeCloseTo(3.2)
  })

  it('measures a candidate again only while its old cost is the least', async () => {
    const measure = vi.fn(async (kept: number[]) => loss(kept))
    await removeGreedily(skipLosses, 3, measure)
    // All layers; then 1; then 2 (now dear) and 3; then 4.
    expect(measure.mock.calls.map(([kept]) => [0, 1, 2, 3, 4, 5].filter(l => !kept.includes(l)).join(''))).toEqual([
      '',
      '1',
      '12',
      '13',
      '134',
    ])
  })

  it('measures a bounded number of sets per step where every estimate was too low', async () => {
    const measure = vi.fn(async (kept: number[]) => 10 * (12 - kept.length) ** 2)
    await removeGreedily(new Array(12).fill(0), 10, measure)
    expect(measure).toHaveBeenCalledTimes(1 + 4 + 4)
  })

  it('goes on below the target while nothing is lost', async () => {
    const { steps } = await removeGreedily([5, 0, 0, 0, 0, 0], 4, async kept => (kept.includes(0) ? 1 : 6))
    expect(steps.at(-1)?.kept).toEqual([0])
    expect(steps).toHaveLength(5)
  })
})

describe('proposedSets', () => {
  const search = {
    base: 1,
    steps: [
      { removed: 3, kept: [0, 1, 2, 4], loss: 1.01 },
      { removed: 2, kept: [0, 1, 4], loss: 1.02 },
      { removed: 4, kept: [0, 1], loss: 1.2 },
      { removed: 1, kept: [0], loss: 3 },
    ],
  }
  it.each([
    [
      [4, 2],
      4,
      [
        [0, 1, 2, 4],
        [0, 1, 4],
        [0, 1],
      ],
    ],
    [
      [4, 3],
      4,
      [
        [0, 1, 2, 4],
        [0, 1, 4],
      ],
    ],
    [[2, 1], 2, [[0, 1], [0]]],
  ])('of sizes %j, at most %i layers, are %j', (sizes, most, sets) => {
    expect(proposedSets(search, sizes, most).map(set => set.kept)).toEqual(sets)
  })
})

describe('objectiveOf', () => {
  const set = { kept: [0, 1, 4], smallestWhole: false }
  it('says where a set is the smallest that keeps the quality', () => {
    expect(objectiveOf(single('code_generation'), { ...set, smallestWhole: true }, 8)).toBe(
      'code generation with 3 of 8 layers, the fewest found that keep 95 % of the quality on the probe split',
    )
    expect(objectiveOf(single('code_generation'), set, 8)).toBe('code generation with 3 of 8 layers')
  })

  it('says what a mixture consists of', () => {
    const weights = [
      { capability: 'code_generation', weight: 3 },
      { capability: 'translation', weight: 1 },
    ]
    expect(objectiveOf(mixture('office', weights), set, 8)).toBe(
      'office (code generation 75 %, translation 25 %) with 3 of 8 layers',
    )
    const equal = weights.map(({ capability }) => ({ capability, weight: 2 }))
    expect(objectiveOf(mixture('general', equal), set, 8)).toBe(
      'general (code generation, translation) with 3 of 8 layers',
    )
  })
})

describe('rangeReason', () => {
  const losses = [8.05, 0.42, 0.731, 1.3, -0.013, 0.42, 0.0000071, -0.0002]
  it.each([
    [{ from: 1, to: 4 }, 'layers 1-3: skipping any of them costs 0.42 to 1.3 nats per token of code generation'],
    [{ from: 0, to: 1 }, 'layer 0: skipping it costs 8.1 nats per token of code generation'],
    [
      { from: 4, to: 6 },
      'layers 4-5: skipping any of them costs -0.013 (a gain) to 0.42 nats per token of code generation',
    ],
    [
      { from: 6, to: 8 },
      'layers 6-7: skipping any of them alone costs little (0.000 nats per token of code generation), but removing others together was measured as cheaper',
    ],
  ])('of %j is in words with numbers', (range, reason) => {
    expect(rangeReason(range, losses, 'code_generation')).toBe(reason)
  })

  // Single layers whose skipping loses less than nothing stay for what was measured jointly.
  const little = (what: string) =>
    `layers 0-1: skipping any of them alone costs little (${what} nats per token of a), but removing others together was measured as cheaper`
  it.each([
    [[-0.3, -0.051], little('a gain of 0.051 to 0.3')],
    [[-0.008, 0.005], little('a gain of 0.008 to a cost of 0.005')],
    [[-0.0002, 0.005], little('0.000 to 0.005')],
    [[-0.2, -0.2], little('a gain of 0.2')],
    [[-0.02, 0.5], 'layers 0-1: skipping any of them costs -0.02 (a gain) to 0.5 nats per token of a'],
  ])('of %j says that a cost below nothing is a gain', (costs, reason) => {
    expect(rangeReason({ from: 0, to: 2 }, costs, 'a')).toBe(reason)
  })

  it('says the same of heads and of what goes with them', () => {
    const removed = [
      { layer: 5, group: 2, alone: -0.013 },
      { layer: 7, group: 0, alone: 0.1 },
    ]
    expect(groupReason({ from: 4, to: 8 }, removed)).toMatch(
      /^; without key\/value heads 2 of layer 5 \(a gain of 0\.013\), 0 of layer 7 \(0\.1\): /,
    )
    const without = (loss: number) => withoutGroupsInWords({ removed, loss, layersLoss: 2 } as never)
    expect(without(1.5)).toContain('which gains 0.5 nats per token beside the layers')
    expect(without(2.5)).toContain('which costs 0.5 nats per token beside the layers')
  })

  it('also says what was measured jointly', () => {
    const removals = new Map([
      [1, 0.9],
      [3, 2.3],
      [6, 0.2],
    ])
    expect(rangeReason({ from: 1, to: 4 }, losses, 'code_generation', removals)).toBe(
      'layers 1-3: skipping any of them costs 0.42 to 1.3 nats per token of code generation; with the other layers gone already, the 2 cheapest would cost 0.9 to 2.3 more',
    )
    expect(rangeReason({ from: 6, to: 7 }, losses, 'code_generation', removals)).toBe(
      'layer 6: skipping it alone costs little (0.000 nats per token of code generation), but removing others together was measured as cheaper; with the other layers gone already, it would cost 0.2 more',
    )
    expect(rangeReason({ from: 6, to: 7 }, losses, 'a', new Map([[6, -1.5]]))).toMatch(/would gain 1\.5 more$/)
  })
})
