// Which layers a student for one capability keeps: a greedy search whose every step is measured, never guessed from single layers alone.
import { DomainError } from '../../lib/errors.js'
import type { Objective } from './objective.js'
import type { CutGroup, GroupCut } from './search-groups.js'

/** Shares of the layers a student keeps where no size limit says otherwise. */
const keptShares = [0.75, 0.6]
/** Candidates measured per step at most: the removals that look cheapest so far. */
const candidatesPerStep = 4

/** Numbers of layers to propose, greatest first, and the greatest that respects the limit. */
export interface ProposalSizes {
  sizes: number[]
  most: number
}

/**
 * Two sizes that respect the limit (one where only one is possible).
 * @param parameterCountOf exact parameters of a student with that many layers
 * @throws INVALID_RECIPE where the model has a single layer, BAD_USER_INPUT where even one layer exceeds the limit
 */
export function proposalSizes(
  layerCount: number,
  parameterCountOf: (keptLayers: number) => number,
  maximumParameters?: number,
): ProposalSizes {
  if (layerCount < 2)
    throw new DomainError('INVALID_RECIPE', `The model has ${layerCount} layer: there is nothing to cut`)
  let most = layerCount - 1
  while (most >= 1 && maximumParameters !== undefined && parameterCountOf(most) > maximumParameters) most--
  if (most < 1) {
    throw new DomainError(
      'BAD_USER_INPUT',
      `No student has at most ${maximumParameters} parameters: the smallest possible, with one layer, has ${parameterCountOf(1)}`,
      { field: ['input', 'maximumParameters'] },
    )
  }
  const [large = 1, small = 1] = keptShares.map(share => Math.max(1, Math.round(share * layerCount)))
  const first = Math.min(most, large)
  const second = Math.min(small, Math.max(1, Math.round((first * small) / large)), first - 1)
  return { sizes: second >= 1 ? [first, second] : [first], most }
}

/** The smallest student that keeps this much of the quality on the probe split is proposed too, whatever its size. */
const nearlyWhole = 0.95

/** Passes over the probe samples that removeGreedily makes at most on its way to `target` layers. */
export const searchPasses = (layerCount: number, target: number) => 1 + candidatesPerStep * (layerCount - target)

export interface GreedySearch {
  /** Loss with all layers. */
  base: number
  steps: {
    removed: number
    /** Layers still kept, ascending. */
    kept: number[]
    /** Loss on the probe split with these layers only, nats per completion token. */
    loss: number
  }[]
}

/**
 * Removes layers one by one until at most `target` are left and the quality is below `nearlyWhole`. Lazy greedy (Minoux 1978): a layer's
 * cost, once measured, is taken as a lower bound of what it costs after further removals, so each step measures, cheapest estimate
 * first and jointly with all earlier removals, only until a measured cost is no greater than the next estimate.
 * @param skipLosses loss increase of skipping each layer alone: the first estimates
 * @param measure probe loss with only these layers kept
 */
export async function removeGreedily(
  skipLosses: readonly number[],
  target: number,
  measure: (kept: number[]) => Promise<number>,
): Promise<GreedySearch> {
  const estimate = [...skipLosses]
  let kept = skipLosses.map((_, layer) => layer)
  const base = await measure(kept)
  let loss = base
  const steps: GreedySearch['steps'] = []
  while (kept.length > target || (kept.length > 1 && Math.exp(base - loss) >= nearlyWhole)) {
    const candidates = [...kept].sort((a, b) => estimate[a]! - estimate[b]! || a - b).slice(0, candidatesPerStep)
    let best: GreedySearch['steps'][number] | undefined
    for (const removed of candidates) {
      if (best && best.loss - loss <= estimate[removed]!) break
      const without = kept.filter(layer => layer !== removed)
      const measured = await measure(without)
      estimate[removed] = measured - loss
      if (!best || measured < best.loss) best = { removed, kept: without, loss: measured }
    }
    if (!best) break
    kept = best.kept
    loss = best.loss
    steps.push(best)
  }
  return { base, steps }
}

export interface ProposedSet {
  kept: readonly number[]
  /** Whether it is the smallest found that keeps `nearlyWhole` of the quality on the probe split. */
  smallestWhole: boolean
}

/**
 * The sets of layers to propose, largest first: the given sizes, and the smallest set that keeps `nearlyWhole` of the quality.
 * @param most greatest number of layers allowed
 */
export function proposedSets({ base, steps }: GreedySearch, sizes: readonly number[], most: number): ProposedSet[] {
  const whole = steps.filter(step => step.kept.length <= most && Math.exp(base - step.loss) >= nearlyWhole).at(-1)
  return steps
    .filter(step => step === whole || sizes.includes(step.kept.length))
    .map(step => ({ kept: step.kept, smallestWhole: step === whole }))
}

/** What a student is for, in words. */
export function objectiveOf(objective: Objective, { kept, smallestWhole }: ProposedSet, layerCount: number): string {
  const text = `${inWords(objective.name)}${partsOf(objective)} with ${kept.length} of ${layerCount} layers`
  if (!smallestWhole) return text
  return `${text}, the fewest found that keep ${nearlyWhole * 100} % of the quality on the probe split`
}

const inWords = (capability: string) => capability.replaceAll(/[_-]/g, ' ')

/** Of a mixture, what it consists of. */
function partsOf({ weights }: Objective): string {
  if (weights.length === 1) return ''
  const equal = weights.every(({ weight }) => Math.abs(weight - weights[0]!.weight) < 1e-9)
  const parts = weights.map(({ capability, weight }) =>
    equal ? inWords(capability) : `${inWords(capability)} ${Math.round(100 * weight)} %`,
  )
  return ` (${parts.join(', ')})`
}

/** Below this, nats per token are noise of a few samples rather than a reason. */
const negligible = 0.01

const nats = (value: number) =>
  Math.abs(value) < negligible ? value.toFixed(3).replace('-0.000', '0.000') : String(Number(value.toPrecision(2)))

const between = (least: string, most: string) => (least === most ? least : `${least} to ${most}`)
const isGain = (cost: number) => nats(cost).startsWith('-')

/** `costs 0.2 to 0.5`; what costs less than nothing `gains 0.1`. */
function costing(costs: readonly number[], ending: 's' | '' = 's'): string {
  const [least, most] = [Math.min(...costs), Math.max(...costs)]
  if (isGain(most)) return `gain${ending} ${between(nats(-most), nats(-least))}`
  return `cost${ending} ${between(isGain(least) ? `${nats(least)} (a gain)` : nats(least), nats(most))}`
}

/** The same where a cost is named already: `0.2 to 0.5`, `a gain of 0.1`. */
function amount(costs: readonly number[]): string {
  const [least, most] = [Math.min(...costs), Math.max(...costs)]
  if (isGain(most)) return `a gain of ${between(nats(-most), nats(-least))}`
  return isGain(least) ? `a gain of ${nats(-least)} to a cost of ${nats(most)}` : between(nats(least), nats(most))
}

/**
 * Why a range stays, in words with its numbers. Layers that cost nothing alone stay because the search measured other removals,
 * jointly, as cheaper.
 * @param removals measured loss increase, by layer, of removing that layer from the proposed student too; only some are known
 */
export function rangeReason(
  range: { from: number; to: number },
  skipLosses: readonly number[],
  name: string,
  removals: ReadonlyMap<number, number> = new Map(),
): string {
  const costs = skipLosses.slice(range.from, range.to)
  const unit = `nats per token of ${inWords(name)}`
  const single = costs.length === 1
  const what = single
    ? `layer ${range.from}: skipping it`
    : `layers ${range.from}-${range.to - 1}: skipping any of them`
  const joint = [...removals].flatMap(([layer, cost]) => (layer >= range.from && layer < range.to ? [cost] : []))
  const also =
    joint.length === 0
      ? ''
      : `; with the other layers gone already, ${single ? 'it' : joint.length === costs.length ? 'each' : joint.length === 1 ? 'the cheapest' : `the ${joint.length} cheapest`} would ${costing(joint, '')} more`
  if (Math.max(...costs) >= negligible) return `${what} ${costing(costs)} ${unit}${also}`
  return `${what} alone costs little (${amount(costs)} ${unit}), but removing others together was measured as cheaper${also}`
}

/** Which heads of a range go, and what each costs alone. */
export function groupReason(range: { from: number; to: number }, removed: readonly CutGroup[]): string {
  const own = removed.filter(({ layer }) => layer >= range.from && layer < range.to)
  if (own.length === 0) return ''
  const each = own.map(({ layer, group, alone }) => `${group} of layer ${layer} (${amount([alone])})`)
  return `; without key/value head${own.length === 1 ? '' : 's'} ${each.join(', ')}: in brackets what silencing it alone costs`
}

/** What goes besides layers, and what that costs. */
export function withoutGroupsInWords({ removed, loss, layersLoss }: GroupCut): string {
  const count = removed.length
  return `and without ${count} key/value head${count === 1 ? '' : 's'}, which ${costing([loss - layersLoss])} nats per token beside the layers`
}
