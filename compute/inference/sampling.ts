// Picks the next token from logits: greedy, or drawn after temperature, top-k and top-p; the same seed gives the same draws.

export interface SamplingOptions {
  /** 0 is greedy. */
  temperature: number
  /** Only the k most likely tokens. */
  topK?: number | undefined
  /** Only the smallest set of tokens whose probabilities sum to at least this (Holtzman et al. 2019, arXiv 1904.09751). */
  topP?: number | undefined
}

/** Numbers in [0, 1). */
export type Random = () => number

/** mulberry32: 32 bits of state, good enough to draw tokens, the same on every machine. */
export function seededRandom(seed: number): Random {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Index of the greatest logit; the first of equals. */
export function greatest(logits: Float32Array): number {
  let best = 0
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id
  return best
}

/** The next token of logits [vocabulary]. Draws once from `random` unless greedy. */
export function sampleToken(
  logits: Float32Array,
  { temperature, topK, topP }: SamplingOptions,
  random: Random,
): number {
  if (temperature === 0) return greatest(logits)
  const top = logits[greatest(logits)]!
  const weights = logits.map(logit => Math.exp((logit - top) / temperature))
  const candidates = nucleus(weights, topK ?? weights.length, topP ?? 1)
  let total = 0
  for (const id of candidates) total += weights[id]!
  let rest = random() * total
  for (const id of candidates) {
    rest -= weights[id]!
    if (rest < 0) return id
  }
  return candidates.at(-1)!
}

/** Ids left after top-k and then top-p, most likely first where either cuts; `weights` are unnormalised probabilities. */
function nucleus(weights: Float32Array, topK: number, topP: number): number[] {
  const all = Array.from(weights.keys())
  if (topK >= weights.length && topP >= 1) return all
  const sum = weights.reduce((a, b) => a + b, 0)
  // The k-th greatest weight (typed arrays sort natively); or: all tokens below this together weigh less than 1 - topP, so none of them is
  // in the nucleus. Either way the sort by comparison stays short.
  const floor =
    topK < weights.length ? weights.slice().sort()[weights.length - topK]! : (sum * (1 - topP)) / weights.length
  const sorted = all.filter(id => weights[id]! >= floor).sort((a, b) => weights[b]! - weights[a]! || a - b)
  const kept = sorted.slice(0, topK)
  const mass = kept.reduce((a, id) => a + weights[id]!, 0)
  const target = topP * (topK < weights.length ? mass : sum)
  let reached = 0
  const end = kept.findIndex(id => {
    reached += weights[id]!
    return reached >= target
  })
  return end < 0 ? kept : kept.slice(0, end + 1)
}
