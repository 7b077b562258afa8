// The search for one objective over a table of measured cuts, and what a budget in seconds or tokens leaves of it.
import { type CutTable, measuredRate } from './cut-table.js'
import { type Objective, objectiveLoss, sampleRungs } from './objective.js'
import { type CutHints, type CutSearch, searchCuts, type WantedCuts } from './search-cuts.js'
import { isStack, type Variant } from './stacks.js'

/** What a search may cost: seconds of device time, or tokens run through the whole model. */
export type SearchBudget = { seconds: number } | { tokens: number }

/** Tokens per second before anything was measured. */
const firstGuess = 200

/** Tokens per second of what was measured so far. */
export const searchRate = (tables: readonly Pick<CutTable, 'ranTokens' | 'spentSeconds'>[]): number =>
  measuredRate(tables) ?? firstGuess

/** Tokens that a budget still affords, from now on; what the table knew already costs nothing. */
export function tokensLeft(
  tables: readonly Pick<CutTable, 'spentTokens' | 'ranTokens' | 'spentSeconds'>[],
  budget: SearchBudget,
): () => number {
  const begin = performance.now()
  const spent = () => tables.reduce((sum, table) => sum + table.spentTokens, 0)
  const before = spent()
  if ('tokens' in budget) return () => budget.tokens - (spent() - before)
  return () => (budget.seconds - (performance.now() - begin) / 1000) * searchRate(tables)
}

/** How a search for an objective measures on a table; losses of an unknown cut are measured, known ones cost nothing. */
export function objectiveMeasures(table: CutTable, objective: Objective, left: () => number) {
  const { samples } = table
  const rungs = sampleRungs(objective, samples)
  const loss = (cut: Variant, rung: number) => objectiveLoss(objective, samples, i => table.nll(cut, i)!, rungs[rung]!)
  return {
    rungs: rungs.length,
    samplesOf: (rung: number) => rungs[rung]!.length,
    async losses(cuts: readonly Variant[], rung: number) {
      await table.measure(cuts, rungs[rung]!)
      return cuts.map(cut => loss(cut, rung))
    },
    passCost: (rung: number) => rungs[rung]!.reduce((sum, i) => sum + samples[i]!.ids.length, 0),
    left,
    known: (rung: number) =>
      table
        .cuts()
        .filter(isStack)
        .filter(cut => table.knows(cut, rungs[rung]!))
        .map(kept => ({ kept, loss: loss(kept, rung) })),
  }
}

export async function searchObjective(
  table: CutTable,
  objective: Objective,
  hints: CutHints,
  wanted: WantedCuts,
  left: () => number,
): Promise<CutSearch & { samples: number }> {
  const measures = objectiveMeasures(table, objective, left)
  const found = await searchCuts(hints, wanted, measures)
  return { ...found, samples: measures.samplesOf(found.rung) }
}
