// Picks the next token from logits: greedy, or drawn after temperature, top-k, top-p and min-p; the same seed gives the same draws.

export interface SamplingOptions {
  /** 0 is greedy. */
  temperature: number
  /** Only the k most likely tokens. */
  topK?: number | undefined
  /** Only the smallest set of tokens whose probabilities sum to at least this (Holtzman et al. 2019, arXiv 1904.09751). */
  topP?: number | undefined
  /** Only tokens at least this many times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082). */
  minP?: number | undefined
  /** Above 1 makes tokens that the prompt or the answer holds already less likely, below 1 more. */
  repetitionPenalty?: number | undefined
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

/**
 * Index of the greatest logit; the first of equals. Four running maxima, because each comparison would else wait for the one before: half
 * the time, of what every greedy step pays.
 */
export function greatest(logits: Float32Array): number {
  let [a, b, c, d] = [logits[0]!, logits[0]!, logits[0]!, logits[0]!]
  const whole = logits.length & ~3
  for (let id = 0; id < whole; id += 4) {
    if (logits[id]! > a) a = logits[id]!
    if (logits[id + 1]! > b) b = logits[id + 1]!
    if (logits[id + 2]! > c) c = logits[id + 2]!
    if (logits[id + 3]! > d) d = logits[id + 3]!
  }
  for (let id = whole; id < logits.length; id++) if (logits[id]! > a) a = logits[id]!
  return logits.indexOf(Math.max(a, b, c, d))
}

/** The next token of logits [vocabulary]. Draws once from `random` unless greedy. */
export function sampleToken(
  logits: Float32Array,
  { temperature, topK, topP, minP }: SamplingOptions,
  random: Random,
): number {
  const best = greatest(logits)
  if (temperature === 0) return best
  const top = logits[best]!
  const weights = new Float32Array(logits.length)
  let sum = 0
  for (let id = 0; id < weights.length; id++) {
    weights[id] = Math.exp((logits[id]! - top) / temperature)
    sum += weights[id]!
  }
  if ((topK ?? weights.length) >= weights.length && (topP ?? 1) >= 1 && !minP)
    return draw(weights, weights.keys(), sum, random)
  const kept = candidates(weights, sum, { topK: topK ?? weights.length, topP: topP ?? 1, minP: minP ?? 0 })
  return draw(
    weights,
    kept,
    kept.reduce((mass, id) => mass + weights[id]!, 0),
    random,
  )
}

function draw(weights: Float32Array, ids: Iterable<number>, total: number, random: Random): number {
  let rest = random() * total
  let last = 0
  for (const id of ids) {
    rest -= weights[id]!
    last = id
    if (rest < 0) return id
  }
  return last
}

/**
 * Ids left after top-k, then top-p, then min-p, most likely first. `weights` are probabilities but for a factor: the greatest is 1, so
 * that min-p, which is relative to the greatest, is a bound on them.
 */
function candidates(
  weights: Float32Array,
  sum: number,
  { topK, topP, minP }: { topK: number; topP: number; minP: number },
): number[] {
  // Bounds below which a token cannot be among those kept, so that the sort by comparison stays short: the k-th greatest weight; or, as
  // all tokens below it together weigh less than 1 - topP, the share of it that each may weigh.
  const floor = topK < weights.length ? kthGreatest(weights, topK) : (sum * (1 - topP)) / weights.length
  // What min-p leaves out matters to the sums of top-p.
  const least = topP >= 1 ? Math.max(floor, minP) : floor
  const ids: number[] = []
  for (let id = 0; id < weights.length; id++) if (weights[id]! >= least) ids.push(id)
  const kept = ids.sort((a, b) => weights[b]! - weights[a]! || a - b).slice(0, topK)
  const mass = topK < weights.length ? kept.reduce((a, id) => a + weights[id]!, 0) : sum
  const target = topP >= 1 ? Number.POSITIVE_INFINITY : topP * mass
  let reached = 0
  let end = 0
  while (end < kept.length && reached < target) reached += weights[kept[end++]!]!
  while (end > 1 && weights[kept[end - 1]!]! < minP) end--
  return kept.slice(0, end)
}

/** The k-th greatest of the numbers, k from 1, by selection (Hoare 1961) on a copy. */
function kthGreatest(numbers: Float32Array, k: number): number {
  const a = numbers.slice()
  const target = k - 1
  let [from, to] = [0, a.length - 1]
  while (from < to) {
    const pivot = a[(from + to) >> 1]!
    let [i, j] = [from, to]
    while (i <= j) {
      while (a[i]! > pivot) i++
      while (a[j]! < pivot) j--
      if (i > j) break
      const swapped = a[i]!
      a[i++] = a[j]!
      a[j--] = swapped
    }
    if (target <= j) to = j
    else if (target >= i) from = i
    else break
  }
  return a[target]!
}

/**
 * Logits with those of tokens that came before made less likely: positive ones divided by the penalty, negative ones multiplied with it
 * (Keskar et al. 2019, arXiv 1909.05858, as transformers does it). A penalty of 1 gives the same logits, others a copy.
 */
export function penaliseRepetition(logits: Float32Array, seen: ReadonlySet<number>, penalty: number): Float32Array {
  if (penalty === 1) return logits
  const changed = logits.slice()
  for (const id of seen) changed[id] = changed[id]! > 0 ? changed[id]! / penalty : changed[id]! * penalty
  return changed
}
