import { describe, expect, it } from 'vitest'
import { type MeasuredCut, paretoCuts, searchCuts } from '../../../../compute/probing/search-cuts.js'

const layerCount = 8
/** Layers 2 and 3 stand in for each other, 6 matters only without 5: single skips mislead. */
const lossOf = (kept: readonly number[]) => {
  const has = (layer: number) => kept.includes(layer)
  return (
    2 +
    (has(0) ? 0 : 9) +
    (has(7) ? 0 : 4) +
    (has(2) || has(3) ? 0 : 5) +
    (has(1) ? 0 : 0.8) +
    (has(4) ? 0 : 0.3) +
    (has(5) || has(6) ? 0 : 2) +
    (has(5) ? 0 : 0.1)
  )
}
const all = Array.from({ length: layerCount }, (_, layer) => layer)
const hints = {
  layerCount,
  skipLosses: all.map(layer => lossOf(all.filter(l => l !== layer)) - 2),
  blockInfluence: [0.9, 0.3, 0.05, 0.06, 0.2, 0.15, 0.1, 0.8],
  angularDistances: all.map(layer => all.slice(layer).map((_, n) => 0.1 * (n + 1) + (layer === 2 ? 0 : 0.05))),
}
const plenty = () => 1000
/** A clock of which every set measured takes one tick. */
const ticking = (seconds: number) => {
  let left = seconds
  const measured: string[] = []
  return {
    measured,
    secondsLeft: () => left,
    measure: async (sets: readonly (readonly number[])[]) => {
      left -= sets.length
      measured.push(...sets.map(String))
      return sets.map(lossOf)
    },
  }
}

describe('searchCuts', () => {
  it('finds the best cut of every size where rules and single skips mislead', async () => {
    const { base, cuts } = await searchCuts(hints, 4, async sets => sets.map(lossOf), plenty)
    expect(base).toBe(2)
    const best = (size: number) => cuts.filter(c => c.kept.length === size).reduce((a, b) => (b.loss < a.loss ? b : a))
    expect(best(4).loss).toBeCloseTo(2 + 0.8 + 0.3, 12)
    expect(best(6).loss).toBeCloseTo(2, 12)
    expect(best(4).origin).toBe('beam search')
  })

  it('measures no set twice', async () => {
    const { measured, measure } = ticking(1000)
    await searchCuts(hints, 4, measure, plenty)
    expect(new Set(measured).size).toBe(measured.length)
  })

  it('has the answer of the rules for the smallest size, whatever the budget', async () => {
    const { measured, measure, secondsLeft } = ticking(1)
    const { cuts } = await searchCuts(hints, 4, measure, secondsLeft)
    expect(measured).toHaveLength(3)
    expect(cuts.map(c => [String(c.kept), c.origin])).toEqual([
      ['0,1,4,7', 'block influence'],
      ['0,1,6,7', 'angular distance'],
    ])
  })

  it('measures more with more budget, and finds nothing worse', async () => {
    const run = async (budget: number) => {
      const { measured, measure, secondsLeft } = ticking(budget)
      const { cuts } = await searchCuts(hints, 4, measure, secondsLeft)
      return { sets: measured.length, loss: Math.min(...cuts.filter(c => c.kept.length === 4).map(c => c.loss)) }
    }
    const [small, large] = [await run(5), await run(200)]
    expect(large.sets).toBeGreaterThan(small.sets)
    expect(large.loss).toBeLessThanOrEqual(small.loss)
  })
})

describe('paretoCuts', () => {
  const cut = (layers: number, loss: number): MeasuredCut => ({
    kept: all.slice(0, layers),
    loss,
    origin: 'beam search',
  })
  it('keeps what no smaller or equal cut beats, largest first', () => {
    const cuts = [cut(6, 2.1), cut(6, 2.3), cut(5, 2.4), cut(4, 2.2), cut(3, 5)]
    expect(paretoCuts(cuts, 8).map(c => [c.kept.length, c.loss])).toEqual([
      [6, 2.1],
      [4, 2.2],
      [3, 5],
    ])
  })

  it('respects the greatest size', () => {
    expect(paretoCuts([cut(6, 2), cut(4, 3)], 5).map(c => c.kept.length)).toEqual([4])
  })
})
