import { describe, expect, it } from 'vitest'
import { mixture, objectiveLoss, sampleRungs, single, weightedMean } from '../../../../compute/probing/objective.js'

const sample = (capability: string, completionTokens: number) => ({
  capability,
  ids: [1, 2, 3],
  completionStart: 1,
  completionTokens,
})
const samples = [sample('a', 10), sample('a', 30), sample('b', 5)]
const nll = [40, 20, 15]

describe('objectiveLoss', () => {
  it('of one capability is the summed loss over the completion tokens', () => {
    expect(objectiveLoss(single('a'), samples, i => nll[i]!)).toBeCloseTo(60 / 40, 12)
  })

  it('of a mixture is the logarithm of the weighted geometric mean of perplexities', () => {
    const objective = mixture('both', [
      { capability: 'a', weight: 3 },
      { capability: 'b', weight: 1 },
    ])
    const geometric = Math.exp(60 / 40) ** 0.75 * Math.exp(15 / 5) ** 0.25
    expect(objectiveLoss(objective, samples, i => nll[i]!)).toBeCloseTo(Math.log(geometric), 12)
    expect(weightedMean(objective, c => (c === 'a' ? 1 : 5))).toBeCloseTo(2, 12)
  })

  it('counts only the samples it is told to, and refuses a capability without any', () => {
    expect(objectiveLoss(single('a'), samples, i => nll[i]!, [1, 2])).toBeCloseTo(20 / 30, 12)
    expect(() => objectiveLoss(single('b'), samples, i => nll[i]!, [0, 1])).toThrow(
      'b: no sample has completion tokens',
    )
  })
})

describe('sampleRungs', () => {
  it('are nested, each twice as large, the last with everything', () => {
    const many = [
      ...Array.from({ length: 7 }, () => sample('a', 1)),
      ...Array.from({ length: 4 }, () => sample('b', 1)),
    ]
    const objective = mixture('both', [
      { capability: 'b', weight: 1 },
      { capability: 'a', weight: 1 },
    ])
    expect(sampleRungs(objective, many)).toEqual([
      [7, 8, 9, 0, 1, 2],
      [7, 8, 9, 10, 0, 1, 2, 3, 4, 5],
      [7, 8, 9, 10, 0, 1, 2, 3, 4, 5, 6],
    ])
    expect(sampleRungs(single('b'), many)).toEqual([
      [7, 8, 9],
      [7, 8, 9, 10],
    ])
  })
})
