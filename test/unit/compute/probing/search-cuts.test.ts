import { describe, expect, it } from 'vitest'
import { type MeasuredCut, searchCuts } from '../../../../compute/probing/search-cuts.js'

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
/** A selection of 3 · 2^rung samples; small ones are off by up to `noise`, each set always in the same way. */
function measuring({ budget = 1e9, rungs = 1, noise = 0 } = {}) {
  let left = budget
  const known = new Set<string>()
  const perRung: string[][] = Array.from({ length: rungs }, () => [])
  return {
    perRung,
    measures: {
      rungs,
      passCost: (rung: number) => 2 ** rung,
      left: () => left,
      losses: async (sets: readonly (readonly number[])[], rung: number) =>
        sets.map(kept => {
          const key = `${kept}/${rung}`
          if (!known.has(key)) {
            known.add(key)
            left -= 2 ** rung / 2
            perRung[rung]!.push(String(kept))
          }
          const wave = Math.sin(kept.reduce((sum, layer) => 7 * sum + layer + 1, 1))
          return lossOf(kept) + (rung === rungs - 1 ? 0 : noise * wave)
        }),
    },
  }
}
const wanted = { smallest: 4, focus: [4] }
const bestOf = (cuts: readonly MeasuredCut[], size: number) =>
  cuts.filter(c => c.kept.length === size).reduce((a, b) => (b.loss < a.loss ? b : a))
/** By trying all of them. */
const optimum = (size: number) => {
  const subsets = Array.from({ length: 2 ** layerCount }, (_, bits) => all.filter(layer => (bits >> layer) & 1))
  return Math.min(...subsets.filter(set => set.length === size).map(lossOf))
}

describe('searchCuts', () => {
  it('finds the best cut of every size where rules and single skips mislead', async () => {
    const { base, cuts } = await searchCuts(hints, wanted, measuring().measures)
    expect(base).toBe(2)
    for (const size of [4, 5, 6, 7]) expect(bestOf(cuts, size).loss).toBeCloseTo(optimum(size), 12)
    expect(bestOf(cuts, 4).origin).toBe('beam search')
  })

  it('decides on the largest selection of samples, whatever small ones say, and measures fewest sets there', async () => {
    const { measures, perRung } = measuring({ rungs: 3, noise: 0.3 })
    const { cuts, rung } = await searchCuts(hints, wanted, measures)
    expect(rung).toBe(2)
    for (const { kept, loss } of cuts) expect(loss).toBeCloseTo(lossOf(kept), 12)
    expect(bestOf(cuts, 4).loss).toBeCloseTo(optimum(4), 12)
    expect(perRung[2]!.length).toBeLessThan(perRung[1]!.length)
    expect(perRung[1]!.length).toBeLessThan(perRung[0]!.length)
  })

  it('uses only as many samples as the budget affords', async () => {
    const { measures } = measuring({ rungs: 8, budget: 20 })
    expect((await searchCuts(hints, wanted, measures)).rung).toBe(0)
  })

  it('leaves a local optimum of single removals by exchanging a dropped layer for a kept one', async () => {
    // Removing 0 first is cheapest, and wrong: only without both 1 and 2 is the loss least.
    const trap = (kept: readonly number[]) => {
      const has = (layer: number) => kept.includes(layer)
      return (
        1 + (has(0) ? 0 : 0.5) + (has(1) ? 0 : 1) + (has(2) ? 0 : 1) - (!has(1) && !has(2) ? 1.9 : 0) + (has(3) ? 0 : 9)
      )
    }
    const four = [0, 1, 2, 3]
    const losses = async (sets: readonly (readonly number[])[]) => sets.map(trap)
    const { cuts } = await searchCuts(
      {
        layerCount: 4,
        skipLosses: four.map(layer => trap(four.filter(l => l !== layer)) - 1),
        blockInfluence: [0.1, 0.2, 0.3, 0.4],
        angularDistances: [[], [], [], []],
      },
      { smallest: 2, focus: [2] },
      { rungs: 1, passCost: () => 1, left: () => 100, losses },
    )
    expect(bestOf(cuts, 2)).toMatchObject({ kept: [0, 3] })
    expect(bestOf(cuts, 2).loss).toBeCloseTo(1.1, 12)
  })

  describe('on few samples', () => {
    const costs = [0.9, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.8]
    const lossWithout = (kept: readonly number[]) =>
      costs.reduce((sum, cost, layer) => sum + (kept.includes(layer) ? 0 : cost), 2)
    const bestKept = [0, 5, 6, 7]
    /** Each layer costs by itself; all selections but the largest of four are off by up to 0.3. */
    async function searched(budget: number, rivals: number[][] = [], unlucky: number[] = []) {
      let left = budget
      const seen = new Map<string, number>()
      const few = new Map<string, { kept: readonly number[]; loss: number }>()
      const luck = (kept: readonly number[]) =>
        String(kept) === String(unlucky) ? 1 : 0.3 * Math.sin(kept.reduce((sum, layer) => 7 * sum + layer + 1, 1))
      const found = await searchCuts(
        { ...hints, skipLosses: costs, blockInfluence: costs },
        { ...wanted, rivals },
        {
          rungs: 4,
          passCost: rung => 2 ** rung,
          left: () => left,
          async losses(sets, rung) {
            return sets.map(kept => {
              const before = seen.get(String(kept)) ?? 0
              left -= Math.max(0, 2 ** rung - before) / 2
              seen.set(String(kept), Math.max(before, 2 ** rung))
              const loss = lossWithout(kept) + (rung === 3 ? 0 : luck(kept))
              if (kept.length === 4 && rung < 3) few.set(String(kept), { kept, loss })
              return loss
            })
          },
        },
      )
      return { ...found, left, lucky: [...few.values()].reduce((a, b) => (b.loss < a.loss ? b : a)).kept }
    }

    it('decides between the last few on all of them: the best on few was only lucky', async () => {
      const { cuts, rung, base, lucky, left } = await searched(80)
      expect(rung).toBe(3)
      expect(base).toBe(2)
      for (const { kept, loss } of cuts) expect(loss).toBeCloseTo(lossWithout(kept), 12)
      expect(cuts.filter(({ kept }) => kept.length === 4).length).toBeGreaterThanOrEqual(4)
      expect(bestOf(cuts, 4).loss).toBeLessThan(lossWithout(lucky) - 0.01)
      expect(left).toBeGreaterThanOrEqual(0)
    })

    it('decides between them and what other searches decided on', async () => {
      const [without, withRival] = [await searched(80, [], bestKept), await searched(80, [bestKept], bestKept)]
      expect(bestOf(without.cuts, 4).kept).not.toEqual(bestKept)
      expect(bestOf(withRival.cuts, 4)).toMatchObject({ kept: bestKept, origin: 'another search' })
      expect(bestOf(withRival.cuts, 4).loss).toBeCloseTo(2.7, 12)
    })

    it('decides on fewer where the budget does not afford all', async () => {
      expect((await searched(12)).rung).toBeLessThan(3)
    })
  })

  it('begins with what other searches know', async () => {
    const { measures } = measuring({ budget: 30 })
    const kept = all.filter(layer => ![1, 2, 4, 6].includes(layer))
    const known = () => [{ kept, loss: lossOf(kept) }]
    const { cuts } = await searchCuts(hints, wanted, { ...measures, known })
    expect(cuts.some(cut => cut.origin === 'another search' && String(cut.kept) === String(kept))).toBe(true)
  })

  it('has the answer of the rules for the smallest size, whatever the budget', async () => {
    const { measures, perRung } = measuring({ budget: 0.5 })
    const { cuts } = await searchCuts(hints, wanted, measures)
    expect(perRung[0]).toHaveLength(3)
    expect(cuts.map(c => [String(c.kept), c.origin])).toEqual([
      ['0,1,6,7', 'angular distance'],
      ['0,1,4,7', 'block influence'],
    ])
  })

  it('measures more with more budget, and finds nothing worse', async () => {
    const run = async (budget: number) => {
      const { measures, perRung } = measuring({ budget })
      const { cuts } = await searchCuts(hints, wanted, measures)
      return { sets: perRung[0]!.length, loss: bestOf(cuts, 4).loss }
    }
    const [small, large] = [await run(5), await run(200)]
    expect(large.sets).toBeGreaterThan(small.sets)
    expect(large.loss).toBeLessThanOrEqual(small.loss)
  })
})
