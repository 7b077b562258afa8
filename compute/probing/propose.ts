// Which layers a student for one capability keeps: a greedy search whose every step is measured, never guessed from single layers alone.
import { DomainError } from '../../lib/errors.js'

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
  kept: number[]
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
export function objectiveOf(capability: string, { kept, smallestWhole }: ProposedSet, layerCount: number): string {
  const objective = `${inWords(capability)} with ${kept.length} of ${layerCount} layers`
  if (!smallestWhole) return objective
  return `${objective}, the fewest found that keep ${nearlyWhole * 100} % of the quality on the probe split`
}

const inWords = (capability: string) => capability.replaceAll(/[_-]/g, ' ')

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
  const unit = `nats per token of ${inWords(capability)}`
  const what =
    costs.length === 1
      ? `layer ${range.from}: skipping it`
      : `layers ${range.from}-${range.to - 1}: skipping any of them`
  const cost = nats(least) === nats(most) ? nats(least) : `${nats(least)} to ${nats(most)}`
  if (most >= negligible) return `${what} costs ${cost} ${unit}`
  return `${what} alone costs little (${cost} ${unit}), but removing others together was measured as cheaper`
}
