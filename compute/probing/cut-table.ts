// The measured losses of cuts, sample by sample: whatever search asks, nothing is measured twice, and what was measured is kept.
import type { EncodedSample, Scorer } from './scoring.js'
import { layerRuns, type Stack } from './stacks.js'

/** What earlier searches over the same model measured. */
export interface CutRecords {
  /** Summed loss of the sample's completion with only these layers, nats. */
  get(cut: string, sample: EncodedSample): number | undefined
  add(entries: readonly { cut: string; sample: EncodedSample; nll: number }[]): Promise<void>
  /** Cuts of which anything is known. */
  cuts(): string[]
}

/** A set of layers as a text. */
export const cutKey = (kept: Stack): string => kept.join(',')
export const cutOfKey = (key: string): Stack => (key === '' ? [] : key.split(',').map(Number))

export interface CutTable {
  samples: readonly EncodedSample[]
  /** Measures what is not known yet of these cuts on these samples. */
  measure(cuts: readonly Stack[], among: readonly number[]): Promise<void>
  /** Summed loss of a sample with only these layers; undefined where not measured. */
  nll(cut: Stack, sample: number): number | undefined
  knows(cut: Stack, among: readonly number[]): boolean
  /** Cuts of which anything is known. */
  cuts(): Stack[]
  /** Tokens that `measure` would run through the whole model; what cuts share at their beginning counts once. */
  cost(cuts: readonly Stack[], among: readonly number[]): number
  /** Tokens run through the whole model so far, and the seconds they took. */
  readonly spentTokens: number
  readonly spentSeconds: number
}

/** @param options.done called after each run */
export function openCutTable(
  scorer: Pick<Scorer, 'scoreStacks'>,
  layerCount: number,
  samples: readonly EncodedSample[],
  options: { records?: CutRecords | undefined; done?: (() => void) | undefined } = {},
): CutTable {
  const rows = new Map<string, { kept: Stack; nll: Float64Array }>()
  let spentTokens = 0
  let spentSeconds = 0

  const rowOf = (kept: Stack) => {
    const key = cutKey(kept)
    let row = rows.get(key)
    if (!row) {
      row = {
        kept,
        nll: Float64Array.from(samples, sample => options.records?.get(key, sample) ?? Number.NaN),
      }
      rows.set(key, row)
    }
    return row
  }
  /** Cuts that lack the same samples, with those samples. */
  const missing = (cuts: readonly Stack[], among: readonly number[]) => {
    const groups = new Map<string, { cuts: Stack[]; lacking: number[] }>()
    for (const kept of new Map(cuts.map(cut => [cutKey(cut), cut])).values()) {
      const { nll } = rowOf(kept)
      const lacking = among.filter(i => Number.isNaN(nll[i]))
      if (lacking.length === 0) continue
      const key = lacking.join()
      const group = groups.get(key) ?? { cuts: [], lacking }
      group.cuts.push(kept)
      groups.set(key, group)
    }
    return [...groups.values()]
  }
  for (const key of options.records?.cuts() ?? []) rowOf(cutOfKey(key))

  const tokensOf = (indices: readonly number[]) => indices.reduce((sum, i) => sum + samples[i]!.ids.length, 0)
  const costOf = ({ cuts, lacking }: { cuts: Stack[]; lacking: number[] }) =>
    (tokensOf(lacking) * layerRuns(cuts).shared) / layerCount

  return {
    samples,
    nll(cut, sample) {
      const value = rowOf(cut).nll[sample]!
      return Number.isNaN(value) ? undefined : value
    },
    knows: (cut, among) => among.every(i => !Number.isNaN(rowOf(cut).nll[i])),
    cuts: () => [...rows.values()].map(row => row.kept),
    cost: (cuts, among) => missing(cuts, among).reduce((sum, group) => sum + costOf(group), 0),
    async measure(cuts, among) {
      for (const group of missing(cuts, among)) {
        const begin = performance.now()
        const total = costOf(group)
        const before = spentTokens
        const batchTokens = group.lacking.map(i => samples[i]!)
        const wholeTokens = tokensOf(group.lacking) * group.cuts.length
        await scorer.scoreStacks(batchTokens, group.cuts, {
          done(tokens) {
            spentTokens = Math.min(before + total, spentTokens + (tokens / wholeTokens) * total)
            options.done?.()
          },
          async batchDone(batch, scores) {
            const entries = group.cuts.flatMap((kept, c) =>
              batch.map((row, k) => {
                const index = group.lacking[row]!
                const { nll } = scores[c]![k]!
                rowOf(kept).nll[index] = nll
                return { cut: cutKey(kept), sample: samples[index]!, nll }
              }),
            )
            await options.records?.add(entries)
          },
        })
        spentTokens = before + total
        spentSeconds += (performance.now() - begin) / 1000
      }
    },
    get spentTokens() {
      return spentTokens
    },
    get spentSeconds() {
      return spentSeconds
    },
  }
}
