// How close a student is to its parent, from losses measured on the same samples.

export interface MeasuredLoss {
  capability: string
  /** Nats per completion token. */
  loss: number
  completionTokens: number
}

/** exp(-(student loss - parent loss)): 1 is the parent, less is worse, more is better. */
export const quality = (studentLoss: number, parentLoss: number): number => Math.exp(-(studentLoss - parentLoss))

/** Loss over all samples of several capabilities: summed negative log-likelihood over the number of completion tokens. */
export function pooledLoss(scores: readonly MeasuredLoss[]): number {
  const tokens = scores.reduce((sum, s) => sum + s.completionTokens, 0)
  return scores.reduce((sum, s) => sum + s.loss * s.completionTokens, 0) / tokens
}

/** Quality per capability that both were measured on, and over all of them; null where there is none. */
export function compareScores(student: readonly MeasuredLoss[], parent: readonly MeasuredLoss[]) {
  const pairs = student.flatMap(s => {
    const p = parent.find(other => other.capability === s.capability)
    return p ? [{ s, p }] : []
  })
  if (pairs.length === 0) return null
  return {
    overall: quality(pooledLoss(pairs.map(x => x.s)), pooledLoss(pairs.map(x => x.p))),
    capabilities: pairs.map(({ s, p }) => ({ capability: s.capability, quality: quality(s.loss, p.loss) })),
  }
}
