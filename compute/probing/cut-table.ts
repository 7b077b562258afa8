// The measured losses of cuts, sample by sample: whatever search asks, nothing is measured twice, and what was measured is kept.
import type { EncodedSample, Scorer } from './scoring.js'
import { layerRuns, type Step, stepKey, type Variant } from './stacks.js'

/** What earlier searches over the same model measured. */
export interface CutRecords {
  /** Summed loss of the sample's completion with only these layers, nats. */
  get(cut: string, sample: EncodedSample): number | undefined
  /** The same, measured by this search before it was stopped: it is taken over, and counts as spent. */
  kept?(cut: string, sample: EncodedSample): number | undefined
  add(entries: readonly { cut: string; sample: EncodedSample; nll: number }[]): Promise<void>
  /** Cuts of which anything is known. */
  cuts(): string[]
}

/** A set of layers, and the heads they lack, as a text: `0,1,5/0+2`. */
export const cutKey = (kept: Variant): string => kept.map(stepKey).join(',')
export const cutOfKey = (key: string): Variant =>
  key === ''
    ? []
    : key.split(',').map((step): Step => {
        const [layer, groups] = step.split('/')
        return groups === undefined
          ? Number(layer)
          : { layer: Number(layer), withoutGroups: groups.split('+').map(Number) }
      })

export interface CutTable {
  samples: readonly EncodedSample[]
  /** Measures what is not known yet of these cuts on these samples. */
  measure(cuts: readonly Variant[], among: readonly number[]): Promise<void>
  /** Summed loss of a sample with only these layers; undefined where not measured. */
  nll(cut: Variant, sample: number): number | undefined
  knows(cut: Variant, among: readonly number[]): boolean
  /** Cuts of which anything is known. */
  cuts(): Variant[]
  /** Tokens that `measure` would run through the whole model; what cuts share at their beginning counts once. */
  cost(cuts: readonly Variant[], among: readonly number[]): number
  /** Tokens run through the whole model so far, those taken over from a killed run of this search among them. */
  readonly spentTokens: number
  /** Of these, the ones that this process ran, and the seconds they took. */
  readonly ranTokens: number
  readonly spentSeconds: number
}

/** Tokens per second; undefined where nothing was run yet. */
export const measuredRate = (tables: readonly Pick<CutTable, 'ranTokens' | 'spentSeconds'>[]): number | undefined => {
  const tokens = tables.reduce((sum, table) => sum + table.ranTokens, 0)
  const seconds = tables.reduce((sum, table) => sum + table.spentSeconds, 0)
  return tokens > 0 ? tokens / Math.max(1e-3, seconds) : undefined
}

/** @param options.done called after each run */
export function openCutTable(
  scorer: Pick<Scorer, 'scoreStacks'>,
  layerCount: number,
  samples: readonly EncodedSample[],
  options: { records?: CutRecords | undefined; done?: (() => void) | undefined } = {},
): CutTable {
  const rows = new Map<string, { kept: Variant; nll: Float64Array }>()
  let ranTokens = 0
  let takenOverTokens = 0
  let spentSeconds = 0

  const rowOf = (kept: Variant) => {
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
  const missing = (cuts: readonly Variant[], among: readonly number[]) => {
    const groups = new Map<string, { cuts: Variant[]; lacking: number[] }>()
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
  const costOf = ({ cuts, lacking }: { cuts: Variant[]; lacking: number[] }) =>
    (tokensOf(lacking) * layerRuns(cuts).shared) / layerCount

  /** Whether what was kept of a sample says its loss under all of these cuts. */
  const takeOver = (cuts: readonly Variant[], i: number) => {
    const losses = cuts.map(cut => options.records?.kept?.(cutKey(cut), samples[i]!))
    if (!losses.every(loss => loss !== undefined)) return false
    cuts.forEach((cut, c) => {
      rowOf(cut).nll[i] = losses[c]!
    })
    return true
  }

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
        const before = ranTokens
        const rest = group.lacking.filter(i => !takeOver(group.cuts, i))
        const total = costOf({ ...group, lacking: rest })
        takenOverTokens += costOf(group) - total
        if (rest.length === 0) continue
        const wholeTokens = tokensOf(rest) * group.cuts.length
        const begin = performance.now()
        await scorer.scoreStacks(
          rest.map(i => samples[i]!),
          group.cuts,
          {
            done(tokens) {
              ranTokens = Math.min(before + total, ranTokens + (tokens / wholeTokens) * total)
              options.done?.()
            },
            async batchDone(batch, scores) {
              const entries = group.cuts.flatMap((kept, c) =>
                batch.map((row, k) => {
                  const index = rest[row]!
                  const { nll } = scores[c]![k]!
                  rowOf(kept).nll[index] = nll
                  return { cut: cutKey(kept), sample: samples[index]!, nll }
                }),
              )
              await options.records?.add(entries)
            },
          },
        )
        ranTokens = before + total
        spentSeconds += (performance.now() - begin) / 1000
      }
    },
    get spentTokens() {
      return ranTokens + takenOverTokens
    },
    get ranTokens() {
      return ranTokens
    },
    get spentSeconds() {
      return spentSeconds
    },
  }
}
