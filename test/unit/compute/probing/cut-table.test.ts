import { describe, expect, it } from 'vitest'
import { type CutRecords, cutKey, cutOfKey, measuredRate, openCutTable } from '../../../../compute/probing/cut-table.js'
import { createScorer, type ScoringModel } from '../../../../compute/probing/scoring.js'
import { tokensLeft } from '../../../../compute/probing/search-objective.js'
import { numberAfter, numberModel } from './number-model.js'

const samples = [
  { capability: 'a', ids: [1, 2, 3], completionStart: 1, completionTokens: 2 },
  { capability: 'a', ids: [4, 5], completionStart: 1, completionTokens: 1 },
  { capability: 'b', ids: [6, 7, 8], completionStart: 2, completionTokens: 1 },
]
const expected = (sample: number, cut: readonly number[]) =>
  samples[sample]!.ids.slice(samples[sample]!.completionStart).reduce((sum, id) => sum + numberAfter(id, cut), 0)

function open(records?: CutRecords) {
  const layerwise = numberModel()
  const model = { layerCount: 4, layerwise } as unknown as ScoringModel
  const scorer = createScorer(model, new AbortController().signal)
  return { table: openCutTable(scorer, 4, samples, { records }), runs: layerwise.runs }
}

/** Records in memory. */
function memory(): CutRecords & { entries: Map<string, number> } {
  const entries = new Map<string, number>()
  const key = (cut: string, ids: readonly number[]) => `${cut}|${ids}`
  return {
    entries,
    get: (cut, { ids }) => entries.get(key(cut, ids)),
    cuts: () => [...new Set([...entries.keys()].map(k => k.split('|')[0]!))],
    async add(added) {
      for (const { cut, sample, nll } of added) entries.set(key(cut, sample.ids), nll)
    },
  }
}

describe('a table of cuts', () => {
  it.each([[[]], [[0]], [[0, 2, 11]], [[0, { layer: 2, withoutGroups: [0, 3] }, 11]]])(
    'names the cut %j so that it is read back',
    cut => {
      expect(cutOfKey(cutKey(cut))).toEqual(cut)
    },
  )

  it('measures what was asked for, by formula, and nothing twice', async () => {
    const { table, runs } = open()
    await table.measure(
      [
        [0, 1, 2],
        [0, 2],
      ],
      [0, 2],
    )
    for (const cut of [
      [0, 1, 2],
      [0, 2],
    ]) {
      expect(table.nll(cut, 0)).toBe(expected(0, cut))
      expect(table.nll(cut, 2)).toBe(expected(2, cut))
      expect(table.nll(cut, 1)).toBeUndefined()
    }
    const before = runs.length
    await table.measure([[0, 2]], [0, 2])
    expect(runs).toHaveLength(before)
    expect(table.knows([0, 2], [0, 2])).toBe(true)
    expect(table.knows([0, 2], [0, 1])).toBe(false)
  })

  it('counts tokens through the whole model, shared beginnings once', async () => {
    const { table } = open()
    // Layers 0, 1, 2 and, after layer 0, 2 again: four layer runs over the tokens of samples 0 and 2, of four layers.
    expect(
      table.cost(
        [
          [0, 1, 2],
          [0, 2],
        ],
        [0, 2],
      ),
    ).toBe(6)
    await table.measure(
      [
        [0, 1, 2],
        [0, 2],
      ],
      [0, 2],
    )
    expect(table.spentTokens).toBeCloseTo(6, 9)
    expect(
      table.cost(
        [
          [0, 1, 2],
          [0, 2],
        ],
        [0, 1, 2],
      ),
    ).toBe(2)
  })

  it('takes over what earlier searches recorded', async () => {
    const records = memory()
    await open(records).table.measure([[1, 3]], [0, 1])
    expect(records.entries.size).toBe(2)
    const { table, runs } = open(records)
    expect(table.cuts()).toEqual([[1, 3]])
    expect(table.knows([1, 3], [0, 1])).toBe(true)
    await table.measure([[1, 3]], [0, 1, 2])
    expect(table.spentTokens).toBeCloseTo((3 * 2) / 4, 9)
    expect(runs.length).toBeGreaterThan(0)
    expect(table.nll([1, 3], 2)).toBe(expected(2, [1, 3]))
  })

  it('counts what a killed search measured as spent, but not for its speed', async () => {
    const records = memory()
    await open(records).table.measure([[1, 3]], [0, 1])
    const killed: CutRecords = { ...records, get: () => undefined, kept: records.get, cuts: () => [] }
    const { table, runs } = open(killed)
    await table.measure([[1, 3]], [0, 1])
    expect(runs).toHaveLength(0)
    expect(table.nll([1, 3], 0)).toBe(expected(0, [1, 3]))
    expect(table).toMatchObject({ spentTokens: (5 * 2) / 4, ranTokens: 0, spentSeconds: 0 })
    expect(measuredRate([table])).toBeUndefined()
    // 200 tokens per second are assumed until something was run.
    expect(tokensLeft([table], { seconds: 100 })()).toBeLessThanOrEqual(20_000)
    await table.measure([[1, 3]], [0, 1, 2])
    expect(table.spentTokens).toBeCloseTo((8 * 2) / 4, 9)
    expect(table.ranTokens).toBeCloseTo((3 * 2) / 4, 9)
    expect(measuredRate([table])).toBeCloseTo(table.ranTokens / Math.max(1e-3, table.spentSeconds), 6)
  })
})
