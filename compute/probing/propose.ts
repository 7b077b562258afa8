// Which layers a student for one capability keeps: a greedy search whose every step is measured, never guessed from single layers alone.
import { DomainError } from '../../lib/errors.js'

/** Shares of the layers a student keeps where no size limit says otherwise. */
const keptShares = [0.75, 0.6]
/** Candidates measured jointly per step: the removals that look cheapest so far. */
const candidatesPerStep = 4

export interface ProposalSize {
  keptLayers: number
  parameterCount: number
}

/**
 * Numbers of layers to propose, greatest first: two sizes that respect the limit (one where only one is possible).
 * @param parameterCountOf exact parameters of a student with that many layers
 * @throws INVALID_RECIPE where the model has a single layer, BAD_USER_INPUT where even one layer exceeds the limit
 */
export function proposalSizes(
  layerCount: number,
  parameterCountOf: (keptLayers: number) => number,
  maximumParameters?: number,
): number[] {
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
  return second >= 1 ? [first, second] : [first]
}

/** Passes over the probe samples that removeGreedily makes. */
export function searchPasses(layerCount: number, target: number): number {
  let passes = 0
  for (let kept = layerCount; kept > target; kept--) passes += Math.min(kept, candidatesPerStep)
  return passes
}

export interface GreedyStep {
  removed: number
  /** Layers still kept, ascending. */
  kept: number[]
  /** Loss on the probe split with these layers only, nats per completion token. */
  loss: number
}

/**
 * Removes layers one by one until `target` are left. Each step measures jointly, with all earlier removals in force, the candidates
 * whose removal looked cheapest when last measured, and takes the cheapest.
 * @param skipLosses loss increase of skipping each layer alone: where the search starts
 * @param measure probe losses of the given kept-layer sets
 */
export async function removeGreedily(
  skipLosses: readonly number[],
  target: number,
  measure: (keptSets: number[][]) => Promise<number[]>,
): Promise<GreedyStep[]> {
  const estimate = [...skipLosses]
  let kept = skipLosses.map((_, layer) => layer)
  let loss: number | undefined
  const steps: GreedyStep[] = []
  while (kept.length > target) {
    const candidates = [...kept].sort((a, b) => estimate[a]! - estimate[b]! || a - b).slice(0, candidatesPerStep)
    const losses = await measure(candidates.map(layer => kept.filter(l => l !== layer)))
    const best = losses.indexOf(Math.min(...losses))
    const base = loss
    candidates.forEach((layer, i) => {
      // The first step's estimates stand: there is no joint loss yet to compare with.
      if (base !== undefined) estimate[layer] = losses[i]! - base
    })
    const removed = candidates[best]!
    loss = losses[best]!
    kept = kept.filter(layer => layer !== removed)
    steps.push({ removed, kept, loss })
  }
  return steps
}

/** Below this, nats per token are noise of a few samples rather than a reason. */
const negligible = 0.01

const nats = (value: number) =>
  Math.abs(value) < negligible ? value.toFixed(3).replace('-0.000', '0.000') : String(Number(value.toPrecision(2)))

/**
 * Why a range stays, in words with its numbers. Layers that cost nothing alone stay because the search measured other removals,
 * jointly, as cheaper.
 */
export function rangeReason(
  range: { from: number; to: number },
  skipLosses: readonly number[],
  capability: string,
): string {
  const costs = skipLosses.slice(range.from, range.to)
  const [least, most] = [Math.min(...costs), Math.max(...costs)]
  const unit = `nats per token of ${capability.replaceAll(/[_-]/g, ' ')}`
  const what =
    costs.length === 1
      ? `layer ${range.from}: skipping it`
      : `layers ${range.from}-${range.to - 1}: skipping any of them`
  const cost = nats(least) === nats(most) ? nats(least) : `${nats(least)} to ${nats(most)}`
  if (most >= negligible) return `${what} costs ${cost} ${unit}`
  return `${what} alone costs little (${cost} ${unit}), but removing others together was measured as cheaper`
}
