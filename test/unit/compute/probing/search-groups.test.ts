import { describe, expect, it } from 'vitest'
import { type GroupWishes, searchGroups } from '../../../../compute/probing/search-groups.js'
import { isStack, type Variant } from '../../../../compute/probing/stacks.js'

const all = [0, 1, 2, 3]
/** What each of the three groups of four layers costs; together they cost the sum. */
const costs = [
  [0.01, 0.5, 0.02],
  [0.03, 0.04, 0.05],
  [2, 2, 2],
  [0.06, 3, 3],
]
const lossOf = (variant: Variant) =>
  2 +
  0.3 * (4 - variant.length) +
  variant
    .flatMap(step => (typeof step === 'number' ? [] : step.withoutGroups.map(group => costs[step.layer]![group]!)))
    .reduce((sum, cost) => sum + cost, 0)

function search(budget: number, wishes: Partial<GroupWishes> = {}) {
  let spent = 0
  const measured: Variant[] = []
  const found = searchGroups(
    {
      starts: [all],
      layerCount: 4,
      groupCounts: [3, 3, 3, 3],
      importance: costs,
      rung: 1,
      beaten: () => false,
      ...wishes,
    },
    {
      async losses(cuts, rung) {
        spent += cuts.length * (rung + 1) * 10 * 0.5
        measured.push(...cuts)
        return cuts.map(lossOf)
      },
      passCost: rung => (rung + 1) * 10,
      left: () => budget - spent,
    },
  )
  return found.then(({ cuts, tried }) => ({ cuts, tried, measured, spent }))
}

describe('searchGroups', () => {
  it('silences the groups together that cost least alone, twice as many each time, and says what each costs', async () => {
    const { cuts } = await search(10_000)
    expect(cuts.map(cut => cut.removed.length)).toEqual([2, 4, 8])
    expect(cuts[0]!.removed.map(({ layer, group }) => [layer, group])).toEqual([
      [0, 0],
      [0, 2],
    ])
    expect(cuts[0]!.variant).toEqual([{ layer: 0, withoutGroups: [0, 2] }, 1, 2, 3])
    for (const { alone, layer, group } of cuts[1]!.removed) expect(alone).toBeCloseTo(costs[layer]![group]!)
    expect(cuts[1]!.loss - cuts[1]!.layersLoss).toBeCloseTo(0.01 + 0.02 + 0.03 + 0.04)
  })

  it('leaves every layer a group', async () => {
    const { cuts } = await search(10_000, { groupCounts: [2, 3, 3, 3] })
    // Of layer 0 one of two can go, so the third cheapest is of layer 1.
    expect(cuts[0]!.removed.map(({ layer, group }) => [layer, group])).toEqual([
      [0, 0],
      [1, 0],
    ])
  })

  it('stops where a cut of layers that is no larger is as good', async () => {
    const { cuts, tried, measured } = await search(10_000, { beaten: (_, loss) => loss > 2.05 })
    expect(cuts.map(cut => cut.removed.length)).toEqual([2])
    // Twelve groups alone, two together, and the four that were beaten.
    expect(tried).toBe(14)
    const withGroups = measured.filter(variant => !isStack(variant))
    expect(new Set(withGroups.map(variant => JSON.stringify(variant))).size).toBe(tried)
  })

  it('measures nothing where the budget affords no choice, or no layer has two groups', async () => {
    expect((await search(20)).measured).toEqual([])
    expect((await search(10_000, { groupCounts: [1, 1, 1, 1] })).measured).toEqual([])
    expect((await search(10_000, { groupCounts: [] })).measured).toEqual([])
  })

  it('tries the least important first where it cannot try all, and keeps to its budget', async () => {
    const budget = 150
    const { measured, spent } = await search(budget)
    const alone = measured.filter(variant => !isStack(variant)).slice(0, 4)
    expect(alone[0]).toEqual([{ layer: 0, withoutGroups: [0] }, 1, 2, 3])
    // What runs is finished: one more set at most.
    expect(spent).toBeLessThan(budget + 40)
  })

  it('cuts from every start', async () => {
    const { cuts } = await search(10_000, { starts: [all, [0, 1, 3]] })
    expect(new Set(cuts.map(cut => cut.kept.length))).toEqual(new Set([4, 3]))
  })
})
