// What the model itself thought of a token, before temperature, cuts and penalties.

export interface TokenLogProbability {
  id: number
  /** Natural logarithm of its probability, at most 0. */
  logProbability: number
}

/**
 * The log-probability ln softmax(logits)[id] of a token, and those of the `count` likeliest, first the most likely; of equals the one
 * with the lower id.
 * @param logits [vocabulary]
 */
export function logProbabilities(
  logits: Float32Array,
  id: number,
  count: number,
): TokenLogProbability & { top: TokenLogProbability[] } {
  let greatest = Number.NEGATIVE_INFINITY
  for (let i = 0; i < logits.length; i++) if (logits[i]! > greatest) greatest = logits[i]!
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - greatest)
  const normaliser = greatest + Math.log(sum)
  const of = (i: number): TokenLogProbability => ({ id: i, logProbability: Math.min(0, logits[i]! - normaliser) })
  return { ...of(id), top: likeliest(logits, count).map(of) }
}

/** Ids of the `count` greatest logits, in order. `count` is small: a list is kept sorted by insertion. */
function likeliest(logits: Float32Array, count: number): number[] {
  const list: number[] = []
  if (count < 1) return list
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!
    if (list.length === count && logit <= logits[list[count - 1]!]!) continue
    let at = list.length
    while (at > 0 && logits[list[at - 1]!]! < logit) at--
    list.splice(at, 0, id)
    if (list.length > count) list.pop()
  }
  return list
}
