// What a search makes students for: one capability, or several with weights; and the nested selections of samples it is measured on.
import { DomainError } from '../../lib/errors.js'
import type { EncodedSample } from './scoring.js'

/** Capabilities with their shares, which sum to 1. */
export interface Objective {
  /** Slug of the one capability, or what the mixture is called. */
  name: string
  weights: readonly { capability: string; weight: number }[]
}

export const single = (capability: string): Objective => ({ name: capability, weights: [{ capability, weight: 1 }] })

/** Weights as given, scaled to sum 1. */
export function mixture(name: string, weights: Objective['weights']): Objective {
  const total = weights.reduce((sum, { weight }) => sum + weight, 0)
  return { name, weights: weights.map(({ capability, weight }) => ({ capability, weight: weight / total })) }
}

/**
 * The loss of an objective: the weighted mean over its capabilities of (summed NLL / completion tokens), which is the logarithm of
 * the weighted geometric mean of their perplexities.
 * @param nll per sample; only samples of `among` count
 * @throws INVALID_PROBE_DATASET where a capability has no sample among them
 */
export function objectiveLoss(
  { weights }: Objective,
  samples: readonly EncodedSample[],
  nll: (sample: number) => number,
  among: readonly number[] = samples.map((_, i) => i),
): number {
  let loss = 0
  for (const { capability, weight } of weights) {
    let sum = 0
    let tokens = 0
    for (const i of among) {
      const sample = samples[i]!
      if (sample.capability !== capability) continue
      sum += nll(i)
      tokens += sample.completionTokens
    }
    if (tokens === 0)
      throw new DomainError(
        'INVALID_PROBE_DATASET',
        `${capability}: no sample has completion tokens left after cutting; raise maxTokens`,
      )
    loss += (weight * sum) / tokens
  }
  return loss
}

/** What one per-capability figure is for an objective. */
export const weightedMean = ({ weights }: Objective, figureOf: (capability: string) => number): number =>
  weights.reduce((sum, { capability, weight }) => sum + weight * figureOf(capability), 0)

/** Samples per capability of the first selection; each further one has twice as many. */
const fewestSamples = 3

/**
 * Nested selections of an objective's samples, each twice as large per capability as the one before, the last with all of them.
 * @param samples within a capability in the order in which they are to be taken
 */
export function sampleRungs({ weights }: Objective, samples: readonly EncodedSample[]): number[][] {
  const own = weights.map(({ capability }) => samples.flatMap((s, i) => (s.capability === capability ? [i] : [])))
  const most = Math.max(...own.map(indices => indices.length))
  const rungs: number[][] = []
  for (let count = fewestSamples; ; count *= 2) {
    rungs.push(own.flatMap(indices => indices.slice(0, count)))
    if (count >= most) return rungs
  }
}
