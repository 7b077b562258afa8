// How close a student is to its parent, from losses measured on the same samples.

export interface MeasuredLoss {
  capability: string
  /** Nats per completion token. */
  loss: number
  completionTokens: number
}

/** exp(-(student loss - parent loss)): 1 is the parent (or teacher), less is worse, more is better. */
export const quality = (studentLoss: number, parentLoss: number): number => Math.exp(-(studentLoss - parentLoss))

/** Loss over all samples of several capabilities: summed negative log-likelihood over the number of completion tokens. */
export function pooledLoss(scores: readonly MeasuredLoss[]): number {
  const tokens = scores.reduce((sum, s) => sum + s.completionTokens, 0)
  return scores.reduce((sum, s) => sum + s.loss * s.completionTokens, 0) / tokens
}

/** Weighted mean of the losses' increase over a mixture's capabilities, as a quality; null where one of them was not measured. */
function mixtureQuality(
  pairs: readonly { s: MeasuredLoss; p: MeasuredLoss }[],
  weights: readonly { capability: string; weight: number }[],
): number | null {
  let increase = 0
  for (const { capability, weight } of weights) {
    const pair = pairs.find(({ s }) => s.capability === capability)
    if (!pair) return null
    increase += weight * (pair.s.loss - pair.p.loss)
  }
  return Math.exp(-increase)
}

/**
 * Quality per capability that both were measured on, and over all of them; null where there is none.
 * @param weights of a mixture, which sum to 1; absent: all completion tokens count the same
 */
export function compareScores(
  student: readonly MeasuredLoss[],
  parent: readonly MeasuredLoss[],
  weights?: readonly { capability: string; weight: number }[],
) {
  const pairs = student.flatMap(s => {
    const p = parent.find(other => other.capability === s.capability)
    return p ? [{ s, p }] : []
  })
  if (pairs.length === 0) return null
  return {
    overall:
      (weights && mixtureQuality(pairs, weights)) ??
      quality(pooledLoss(pairs.map(x => x.s)), pooledLoss(pairs.map(x => x.p))),
    capabilities: pairs.map(({ s, p }) => ({ capability: s.capability, quality: quality(s.loss, p.loss) })),
  }
}
