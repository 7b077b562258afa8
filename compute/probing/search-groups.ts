// Which key/value groups can go from sets of layers that a search found: each is silenced alone, the cheapest then together, all measured.
import { layerOf, type Stack, type Variant } from './stacks.js'

/** A key/value head of a layer, with the query heads that share it. */
interface Group {
  layer: number
  group: number
}

export interface CutGroup extends Group {
  /** Nats per completion token that silencing it alone costs, next to the same layers whole. */
  alone: number
}

export interface GroupCut {
  /** The layers it is cut from. */
  kept: Stack
  variant: Variant
  /** On the samples that decide between cuts, nats per completion token. */
  loss: number
  /** Of the layers whole, on the same samples. */
  layersLoss: number
  /** Ascending by layer and head. */
  removed: CutGroup[]
}

/** How it measures, as a search over layers does (`search-cuts.ts`). */
export interface GroupMeasures {
  losses(cuts: readonly Variant[], rung: number): Promise<number[]>
  passCost(rung: number): number
  left(): number
}

export interface GroupWishes {
  /** Sets of layers to cut from, in their order; each has an equal share of the budget. */
  starts: readonly Stack[]
  layerCount: number
  /** [layer] key/value heads. */
  groupCounts: readonly number[]
  /** [layer][key/value head] what the analysis says of it; the least are measured first. Absent: by layer. */
  importance?: readonly (readonly number[])[] | undefined
  /** Selection of samples on which cuts are decided. */
  rung: number
  /** Whether a known cut that is no larger has no greater loss. */
  beaten(variant: Variant, loss: number): boolean
}

/** Fewer are no choice: with less budget no group is cut. */
const leastCandidates = 4
/** As many are ranked on as large a selection of samples as they afford. */
const goodCandidates = 12
/** Of a start's budget, for ranking groups one by one; the rest measures them together. */
const rankingShare = 0.5
/** A variant that silences one group runs the layers after it only. */
const sharedShare = 0.5
/** The first set of groups measured together; each further one is twice as large. */
const fewestTogether = 2

export interface GroupSearch {
  /** Those that `beaten` leaves. */
  cuts: GroupCut[]
  /** Sets of groups measured at all, single ones among them. */
  tried: number
}

/** Measures cuts of groups; ends when the budget is spent (what runs is finished). */
export async function searchGroups(wishes: GroupWishes, measures: GroupMeasures): Promise<GroupSearch> {
  const cuts: GroupCut[] = []
  let tried = 0
  for (const [i, kept] of wishes.starts.entries()) {
    const own = measures.left() / (wishes.starts.length - i)
    const end = measures.left() - own
    const found = await cutFrom(kept, wishes, { ...measures, left: () => measures.left() - end })
    cuts.push(...found.cuts)
    tried += found.tried
  }
  return { cuts, tried }
}

async function cutFrom(kept: Stack, wishes: GroupWishes, measures: GroupMeasures): Promise<GroupSearch> {
  const { layerCount, groupCounts, importance, rung, beaten } = wishes
  const candidates = kept
    .flatMap(layer =>
      (groupCounts[layer] ?? 1) > 1
        ? Array.from({ length: groupCounts[layer]! }, (_, group) => ({ layer, group }))
        : [],
    )
    .sort((a, b) => (importance ? importance[a.layer]![a.group]! - importance[b.layer]![b.group]! : 0))
  const pass = (at: number) => (measures.passCost(at) * kept.length) / layerCount
  const affordable = (at: number) => Math.floor((rankingShare * measures.left()) / (sharedShare * pass(at)))
  let ranking = rung
  while (ranking > 0 && affordable(ranking) < Math.min(goodCandidates, candidates.length)) ranking--
  const count = Math.min(candidates.length, affordable(ranking))
  if (count < leastCandidates || measures.left() < pass(rung)) return { cuts: [], tried: 0 }
  const singles = candidates.slice(0, count)
  const [whole, ...losses] = await measures.losses([kept, ...singles.map(one => without(kept, [one]))], ranking)
  const ranked = singles
    .map((one, i): CutGroup => ({ ...one, alone: losses[i]! - whole! }))
    .sort((a, b) => a.alone - b.alone || a.layer - b.layer || a.group - b.group)

  const cuts: GroupCut[] = []
  let tried = singles.length
  const [layersLoss] = await measures.losses([kept], rung)
  for (let together = fewestTogether; together <= ranked.length && measures.left() > 0; together *= 2) {
    const removed = cheapest(ranked, together, groupCounts)
    if (removed.length < together) break
    const variant = without(kept, removed)
    const [loss] = await measures.losses([variant], rung)
    tried++
    // What more groups cost is not less.
    if (beaten(variant, loss!)) break
    cuts.push({ kept, variant, loss: loss!, layersLoss: layersLoss!, removed })
  }
  return { cuts, tried }
}

/** The first of the ranking, one group of each layer staying. */
function cheapest(ranked: readonly CutGroup[], count: number, groupCounts: readonly number[]): CutGroup[] {
  const taken = new Map<number, number>()
  const chosen: CutGroup[] = []
  for (const one of ranked) {
    if (chosen.length === count) break
    const before = taken.get(one.layer) ?? 0
    if (before + 1 >= groupCounts[one.layer]!) continue
    taken.set(one.layer, before + 1)
    chosen.push(one)
  }
  return chosen.sort((a, b) => a.layer - b.layer || a.group - b.group)
}

/** The stack with these groups silenced. */
export function without(kept: Stack, removed: readonly Group[]): Variant {
  return kept.map(layer => {
    const own = removed.filter(one => one.layer === layer).map(one => one.group)
    return own.length > 0 ? { layer, withoutGroups: own.sort((a, b) => a - b) } : layer
  })
}

/** What a variant is built from: its layers, and by place among them the key/value heads that go. */
export const partsOf = (variant: Variant) => ({
  layers: variant.map(layerOf),
  groups: variant.map(step => (typeof step === 'number' ? [] : [...step.withoutGroups])),
})
