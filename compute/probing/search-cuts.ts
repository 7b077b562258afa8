// Which layers to cut, searched within a budget: rules give first candidates, a beam that removes layer after layer better ones, exchanges
// of a dropped layer for a kept one the best. Many candidates are measured on few samples, the best of them on more (successive
// halving, Jamieson & Talwalkar 2016), and the last few, with what other searches decided on, on all.
import { cutKey, cutOfKey } from './cut-table.js'
import { isStack, type Stack } from './stacks.js'

export interface CutHints {
  layerCount: number
  /** Loss increase of skipping each layer alone, nats per token. */
  skipLosses: readonly number[]
  /** 1 - cosine of each layer's input and output (ShortGPT, arXiv 2403.03853). */
  blockInfluence: readonly number[]
  /** [layer][n - 1]: angular distance of the block of n layers from `layer` on (arXiv 2403.17887); empty where not measured. */
  angularDistances: readonly (readonly number[])[]
}

export const cutOrigins = ['beam search', 'exchange', 'block influence', 'angular distance', 'another search'] as const
export type CutOrigin = (typeof cutOrigins)[number]

export interface MeasuredCut {
  kept: Stack
  /** On all samples of the search, nats per completion token. */
  loss: number
  origin: CutOrigin
}

export interface CutSearch {
  base: number
  /** All sets measured on the largest selection of samples that the search used, the whole model not among them. */
  cuts: MeasuredCut[]
  /** Sets measured at all. */
  tried: number
  /** Index of that selection. */
  rung: number
}

/** How a search measures, and what that costs. */
export interface CutMeasures {
  /** Nested selections of samples; the last is the largest. */
  rungs: number
  /** Losses on a selection; known ones cost nothing. Sets that share their first layers are cheap together. */
  losses(cuts: readonly Stack[], rung: number): Promise<number[]>
  /** What one pass of the whole model over a selection costs. */
  passCost(rung: number): number
  /** What is left of the budget, in the same unit. */
  left(): number
  /** Sets whose loss on a selection is known already. */
  known?(rung: number): { kept: Stack; loss: number }[]
}

export interface WantedCuts {
  smallest: number
  /** Numbers of layers whose best set is improved by exchanges, in this order. */
  focus: readonly number[]
  /** Numbers of layers whose best sets are decided on the largest selection of samples; absent: all. */
  report?: readonly number[]
  /** Sets that other searches decided on: the choice is between them too. */
  rivals?: readonly Stack[]
}

/** Beams wider than this found nothing better in trials. */
const widestBeam = 4
/** Sets per number of layers that the largest selection must afford. */
const worthwhile = 5
/** The rest decides among what the descent found, on more samples, and is for exchanges. */
const descentShare = 0.4
/** Sets per size in focus that the selection which decides in the end must afford: a round of exchanges and what it is ranked by. */
const exchangeSets = 20
/** Sets per size that the descent found best and that are decided on. */
const finalists = 3
/** Of the budget, for measuring the last few on more samples: the best of many on few samples is often only lucky. */
const lastShare = 0.25
/** Sets per size in focus, and per other size, that the last choice is between. */
const lastOfFocus = 4
const lastOfOthers = 1
/** A set costs about this share of a pass of the whole model: what it shares with others is computed once. */
const sharedShare = 0.5
/** Selections between the one that all candidates see and the one that decides. */
const halvings = 2
/** Exchanges measured per round at first, and those of them that may be tried after no improvement. */
const exchangesPerRound = 16
/** Removals whose cost is measured anew before exchanges are ranked. */
const removalsPerRound = 10

interface Candidate {
  kept: Stack
  origin: CutOrigin
}

/**
 * Measures cuts down to `wanted.smallest` layers; ends when the budget is spent (what runs is finished) or no exchange helps.
 */
export async function searchCuts(hints: CutHints, wanted: WantedCuts, measures: CutMeasures): Promise<CutSearch> {
  const all = Array.from({ length: hints.layerCount }, (_, layer) => layer)
  const levels = Math.max(1, all.length - wanted.smallest)
  const perLevel = (rung: number) =>
    (descentShare * measures.left()) / (levels * Math.max(1e-9, sharedShare * measures.passCost(rung)))
  let top = 0
  while (top + 1 < measures.rungs && perLevel(top + 1) >= worthwhile) top++
  let bottom = Math.max(0, top - halvings)
  /** Of candidates on the smallest selection, a level affords these. */
  const breadth = Math.max(2, Math.floor((perLevel(top) * 2 ** (top - bottom)) / (1 + top - bottom)))
  const width = Math.max(1, Math.min(widestBeam, Math.floor(breadth / 4)))

  const sizes = all
    .map(l => l + 1)
    .filter(size => size >= wanted.smallest && size < all.length && (wanted.report?.includes(size) ?? true))
  const lastOf = (size: number) => (wanted.focus.includes(size) ? lastOfFocus : lastOfOthers)
  const rivals = (wanted.rivals ?? []).filter(kept => sizes.includes(kept.length))
  /** What the last choice costs on a selection, after one on `top`. */
  const lastCost = (rung: number) => {
    const known = new Set((measures.known?.(rung) ?? []).map(({ kept }) => cutKey(kept)))
    const layers = (cuts: readonly Stack[]) =>
      cuts.reduce((sum, kept) => sum + (known.has(cutKey(kept)) ? 0 : kept.length), 0)
    const own = layers([all]) + sizes.reduce((sum, size) => sum + lastOf(size) * size, 0)
    const more = measures.passCost(rung) - measures.passCost(top)
    return (own * more + layers(rivals) * measures.passCost(rung)) / all.length
  }
  let last = measures.rungs - 1
  while (last > top && lastCost(last) > lastShare * measures.left()) last--
  const reserve = Math.min(lastCost(last), lastShare * measures.left())
  const left = () => measures.left() - reserve

  const tried = new Set<string>()
  const first = new Map<string, number>()
  const final = new Map<string, MeasuredCut>()
  /** The best `keep` of the candidates, measured on ever more samples. */
  const narrow = async (candidates: readonly Candidate[], keep: number): Promise<MeasuredCut[]> => {
    let ranked = [...new Map(candidates.map(c => [cutKey(c.kept), c])).values()].map(c => ({ ...c, loss: 0 }))
    for (let rung = bottom; rung <= top && ranked.length > 0; rung++) {
      const losses = await measures.losses(
        ranked.map(c => c.kept),
        rung,
      )
      ranked = ranked
        .map((c, i) => ({ ...c, loss: losses[i]! }))
        .sort((a, b) => a.loss - b.loss || a.kept.length - b.kept.length)
      if (rung === bottom) {
        for (const { kept, loss } of ranked) {
          first.set(cutKey(kept), loss)
          tried.add(cutKey(kept))
        }
      }
      if (rung === top) break
      // With the budget spent, only the best is confirmed.
      const survivors = left() > 0 ? Math.max(keep, Math.ceil(ranked.length / 2)) : 1
      ranked = ranked.slice(0, survivors)
    }
    for (const cut of ranked) if (!final.has(cutKey(cut.kept))) final.set(cutKey(cut.kept), cut)
    return ranked.slice(0, keep)
  }
  const firstLoss = (kept: Stack) => first.get(cutKey(kept))!
  const seeds = (size: number): Candidate[] =>
    (measures.known?.(bottom) ?? [])
      .filter(({ kept }) => kept.length === size)
      .sort((a, b) => a.loss - b.loss)
      .slice(0, Math.max(2, Math.ceil(breadth / 2)))
      .map(({ kept }) => ({ kept, origin: 'another search' as const }))

  const measureBase = async () => (await narrow([{ kept: all, origin: 'beam search' }], 1))[0]!.loss
  let base = await measureBase()
  // Even the smallest budget has the rules' answer for the smallest size.
  await narrow(byRules(hints, wanted.smallest), 2)

  let beam: { kept: Stack; estimates: number[] }[] = [{ kept: all, estimates: [...hints.skipLosses] }]
  for (let size = all.length - 1; size >= wanted.smallest && left() > 0; size--) {
    const removals = Math.max(2, Math.ceil(breadth / Math.max(1, beam.length)))
    const grown = beam.flatMap(({ kept, estimates }) =>
      [...kept]
        .sort((a, b) => estimates[a]! - estimates[b]! || a - b)
        .slice(0, removals)
        .map(removed => ({ kept: without(kept, removed), from: kept, removed, estimates })),
    )
    const best = await narrow(
      [...grown.map(({ kept }) => ({ kept, origin: 'beam search' as const })), ...seeds(size), ...byRules(hints, size)],
      width,
    )
    for (const { kept, from, removed, estimates } of grown) estimates[removed] = firstLoss(kept) - firstLoss(from)
    beam = best.map(({ kept }) => {
      const parent = grown.find(member => cutKey(member.kept) === cutKey(kept))
      return { kept, estimates: [...(parent?.estimates ?? hints.skipLosses)] }
    })
  }

  const bestOf = (size: number) =>
    [...final.values()].filter(c => c.kept.length === size).sort((a, b) => a.loss - b.loss)[0]
  /** Decides anew on `top`, between the best of each size and others. */
  const decide = async (most: (size: number) => number, others: (size: number) => Candidate[]) => {
    const found = [...final.values()].sort((a, b) => a.loss - b.loss)
    final.clear()
    first.clear()
    base = await measureBase()
    for (const size of sizes) {
      const own = found.filter(c => c.kept.length === size)
      await narrow([...own.slice(0, most(size)), ...others(size)], 1)
    }
  }
  // Now that the field is small, more samples decide.
  const descended = top
  const decisive = finalists * sizes.length + exchangeSets * wanted.focus.length
  while (top + 1 < measures.rungs && left() >= sharedShare * measures.passCost(top + 1) * decisive) top++
  if (top > descended) {
    bottom = Math.max(bottom, Math.min(descended, top - halvings))
    await decide(() => finalists, seeds)
  }

  /** One round of exchanges around the best set of a size; whether it found a better one. */
  const exchange = async (size: number): Promise<boolean> => {
    const best = bestOf(size)
    if (!best) return false
    const { kept } = best
    const dropped = all.filter(layer => !kept.includes(layer))
    const costOf = (layer: number) => first.get(cutKey(without(kept, layer)))
    const cheapest = [...kept].sort((a, b) => hints.skipLosses[a]! - hints.skipLosses[b]!).slice(0, removalsPerRound)
    const neighbours = [...cheapest.map(layer => without(kept, layer)), ...dropped.map(layer => withLayer(kept, layer))]
    const losses = await measures.losses([kept, ...neighbours], bottom)
    ;[kept, ...neighbours].forEach((cut, i) => {
      first.set(cutKey(cut), losses[i]!)
      tried.add(cutKey(cut))
    })
    // The two changes are taken to be independent; which pairs really are is measured.
    const pairs = cheapest
      .flatMap(out =>
        dropped.map(back => ({
          kept: withLayer(without(kept, out), back),
          origin: 'exchange' as const,
          estimate: costOf(out)! + first.get(cutKey(withLayer(kept, back)))!,
        })),
      )
      .filter(pair => !exchanged.has(cutKey(pair.kept)))
      .sort((a, b) => a.estimate - b.estimate)
      .slice(0, exchangesPerRound)
    if (pairs.length === 0 || left() <= 0) return false
    for (const pair of pairs) exchanged.add(cutKey(pair.kept))
    await narrow(pairs, 2)
    return bestOf(size)!.loss < best.loss
  }
  const exchanged = new Set<string>()
  let open = wanted.focus.filter(size => size >= wanted.smallest && size < all.length)
  // A size is given up after two rounds without a better set.
  const failures = new Map<number, number>()
  while (open.length > 0 && left() > 0) {
    for (const size of open) {
      if (left() <= 0) break
      if (await exchange(size)) failures.set(size, 0)
      else failures.set(size, (failures.get(size) ?? 0) + 1)
    }
    open = open.filter(size => (failures.get(size) ?? 0) < 2)
  }
  // What exchanges found on the way for the sizes beside theirs.
  for (const size of sizes) {
    if (left() <= 0) break
    const promising = [...first]
      .flatMap(([key, loss]) => {
        const kept = cutOfKey(key)
        return kept.length === size && isStack(kept) ? [{ kept, loss }] : []
      })
      .sort((a, b) => a.loss - b.loss)[0]
    if (promising && !final.has(cutKey(promising.kept))) await narrow([{ ...promising, origin: 'exchange' }], 1)
  }
  // The reserve, and what the search did not need.
  while (last + 1 < measures.rungs && lastCost(last + 1) <= measures.left()) last++
  const others = rivals.map(kept => ({ kept, origin: 'another search' as const }))
  bottom = Math.max(top, last)
  if (last > top) {
    top = last
    await decide(lastOf, size => others.filter(({ kept }) => kept.length === size))
  } else if (measures.left() > 0) await narrow(others, others.length)
  return {
    base,
    cuts: [...final.values()].filter(({ kept }) => kept.length < all.length),
    tried: tried.size,
    rung: top,
  }
}

const without = (kept: Stack, layer: number): Stack => kept.filter(l => l !== layer)
const withLayer = (kept: Stack, layer: number): Stack => [...kept, layer].sort((a, b) => a - b)

/** The cuts to a size that the rules of the literature propose, without measuring them. */
export function byRules({ layerCount, blockInfluence, angularDistances }: CutHints, size: number): Candidate[] {
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
