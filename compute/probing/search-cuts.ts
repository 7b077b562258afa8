// Which layers to cut, searched within a budget: cheap rules give first candidates, a beam search with measured losses the better ones.
import { layerRuns, type Stack } from './stacks.js'

export interface CutHints {
  layerCount: number
  /** Loss increase of skipping each layer alone, nats per token. */
  skipLosses: readonly number[]
  /** 1 - cosine of each layer's input and output (ShortGPT, arXiv 2403.03853). */
  blockInfluence: readonly number[]
  /** [layer][n - 1]: angular distance of the block of n layers from `layer` on (arXiv 2403.17887); empty where not measured. */
  angularDistances: readonly (readonly number[])[]
}

export const cutOrigins = ['beam search', 'block influence', 'angular distance'] as const
export type CutOrigin = (typeof cutOrigins)[number]

export interface MeasuredCut {
  kept: Stack
  /** On the samples of the search, nats per completion token. */
  loss: number
  origin: CutOrigin
}

export interface CutSearch {
  base: number
  /** All sets measured, the whole model not among them. */
  cuts: MeasuredCut[]
}

/** Beams wider than this found nothing better in trials; more removals per member rarely matter. */
const widestBeam = 4
const mostRemovals = 8

/**
 * Measures cuts down to `smallest` layers.
 * @param measure losses of sets of layers on the samples of the search; sets that share their first layers should be cheap together
 * @param secondsLeft of the budget; the search ends when it is not above 0, and is as wide as what is left allows
 */
export async function searchCuts(
  hints: CutHints,
  smallest: number,
  measure: (sets: readonly Stack[]) => Promise<number[]>,
  secondsLeft: () => number,
): Promise<CutSearch> {
  const all = Array.from({ length: hints.layerCount }, (_, layer) => layer)
  const known = new Map<string, number>()
  const cuts: MeasuredCut[] = []
  let secondsPerRun = 0
  const measureNew = async (sets: readonly { kept: Stack; origin: CutOrigin }[]) => {
    const fresh = sets.filter(({ kept }, i) => {
      const same = (other: { kept: Stack }) => String(other.kept) === String(kept)
      return !known.has(String(kept)) && sets.findIndex(same) === i
    })
    if (fresh.length === 0) return
    const before = secondsLeft()
    const losses = await measure(fresh.map(({ kept }) => kept))
    secondsPerRun = Math.max(1e-6, (before - secondsLeft()) / layerRuns(fresh.map(({ kept }) => kept)).shared)
    fresh.forEach(({ kept, origin }, i) => {
      known.set(String(kept), losses[i]!)
      if (kept.length < all.length) cuts.push({ kept, loss: losses[i]!, origin })
    })
  }
  const lossOf = (kept: Stack) => known.get(String(kept))!

  // Even the smallest budget has the rules' answer for the smallest size.
  await measureNew([{ kept: all, origin: 'beam search' }, ...byRules(hints, smallest)])

  let beam: { kept: Stack; estimates: number[] }[] = [{ kept: all, estimates: [...hints.skipLosses] }]
  for (let size = all.length - 1; size >= smallest && secondsLeft() > 0; size--) {
    // What is left of the budget over what is left of the levels; a set costs about half its layers, the rest is shared.
    const levels = size - smallest + 1
    const affordable = Math.floor(secondsLeft() / (levels * secondsPerRun * (size / 2)))
    const width = Math.max(1, Math.min(widestBeam, Math.floor(affordable / 4)))
    const removals = Math.max(2, Math.min(mostRemovals, Math.floor(affordable / width)))
    const grown = beam.slice(0, width).flatMap(({ kept, estimates }) =>
      [...kept]
        .sort((a, b) => estimates[a]! - estimates[b]! || a - b)
        .slice(0, removals)
        .map(removed => ({ kept: kept.filter(layer => layer !== removed), from: kept, removed, estimates })),
    )
    await measureNew(grown.map(({ kept }) => ({ kept, origin: 'beam search' as const })))
    for (const { kept, from, removed, estimates } of grown) estimates[removed] = lossOf(kept) - lossOf(from)
    const byKey = new Map(grown.map(member => [String(member.kept), member]))
    beam = [...byKey.values()]
      .sort((a, b) => lossOf(a.kept) - lossOf(b.kept))
      .slice(0, widestBeam)
      .map(({ kept, estimates }) => ({ kept, estimates: [...estimates] }))
  }
  // The beam comes first: it passes through every size, and finds what the rules miss.
  for (let size = smallest + 1; size < all.length && secondsLeft() > 0; size++) await measureNew(byRules(hints, size))
  return { base: lossOf(all), cuts }
}

/** The cuts to a size that the rules of the literature propose, without measuring them. */
function byRules(
  { layerCount, blockInfluence, angularDistances }: CutHints,
  size: number,
): { kept: Stack; origin: CutOrigin }[] {
  const all = Array.from({ length: layerCount }, (_, layer) => layer)
  const dropped = layerCount - size
  const idle = new Set([...all].sort((a, b) => blockInfluence[a]! - blockInfluence[b]!).slice(0, dropped))
  const least = { kept: all.filter(layer => !idle.has(layer)), origin: 'block influence' as const }
  const starts = all.filter(layer => angularDistances[layer]?.[dropped - 1] !== undefined)
  if (starts.length === 0) return [least]
  const start = starts.reduce((best, layer) =>
    angularDistances[layer]![dropped - 1]! < angularDistances[best]![dropped - 1]! ? layer : best,
  )
  const block = all.filter(layer => layer < start || layer >= start + dropped)
  return [least, { kept: block, origin: 'angular distance' }]
}

/**
 * The cuts that no other of at most their size equals or beats, largest first.
 * @param most greatest number of layers allowed
 */
export function paretoCuts(cuts: readonly MeasuredCut[], most: number): MeasuredCut[] {
  const bySize = cuts
    .filter(({ kept }) => kept.length <= most)
    .sort((a, b) => a.kept.length - b.kept.length || a.loss - b.loss)
  const best: MeasuredCut[] = []
  for (const cut of bySize) if (best.every(other => cut.loss < other.loss)) best.push(cut)
  return best.reverse()
}
