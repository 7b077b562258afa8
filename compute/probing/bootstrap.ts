// Confidence intervals by the percentile bootstrap over samples (Efron 1979), widened for few samples (Hesterberg 2015): how much a figure would move
// with other samples.
import { createHash } from 'node:crypto'
import { errorFunction } from 'simple-statistics'

/** [lower, upper] bound. */
export type Interval = [number, number]

const resamples = 2000
/** Of the standard normal distribution; 95 % lie between its negative and it. */
const normalQuantile = 1.959964
/** Equal figures have equal intervals, on every machine. */
const seed = 'hartonomous bootstrap'

/** Indices from 0 to count - 1, drawn with replacement; the same ones for the same count, so that paired figures stay paired. */
function* drawIndices(count: number, salt = ''): Generator<number[]> {
  for (let i = 0; i < resamples; i++) {
    // A hash of variable length gives as many numbers of 32 bits as there are samples, the same on every machine.
    const bytes = createHash('shake256', { outputLength: 4 * count })
      .update(`${seed} ${count} ${i}${salt}`)
      .digest()
    yield Array.from({ length: count }, (_, k) => Math.floor((bytes.readUInt32LE(4 * k) / 2 ** 32) * count))
  }
}

/**
 * 95 % interval of a statistic over samples; null for fewer than two, which say nothing about their spread.
 * @param statistic of the samples with these indices (repeats included)
 */
export function bootstrapInterval(count: number, statistic: (indices: readonly number[]) => number): Interval | null {
  if (count < 2) return null
  return percentiles(Float64Array.from(drawIndices(count), statistic), tailsOf(count))
}

function percentiles(values: Float64Array, tail: number): Interval {
  values.sort()
  const at = (share: number) => values[Math.min(values.length - 1, Math.floor(share * values.length))]!
  return [at(tail), at(1 - tail)]
}

/**
 * Share of the resamples beyond either bound. With few samples resamples vary less than samples do, by (count - 1) / count, and the spread itself is uncertain: the bounds
 * are where those of Student's t would be (T. Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.3); 2.5 % with very many. Resamples never leave what was seen: with fewer than
 * five samples the bounds stay short of that (a mean of normal samples is held in 81 % with three, 94 % with five).
 */
function tailsOf(count: number): number {
  const bound = Math.sqrt(count / (count - 1)) * studentQuantile(count - 1)
  return (1 - errorFunction(bound / Math.SQRT2)) / 2
}

/** 97.5 % quantile of Student's t, by its expansion (Abramowitz and Stegun 26.7.5): 3 % too small with 2 degrees of freedom, 0.1 % with 5. */
function studentQuantile(n: number): number {
  const z = normalQuantile
  const terms = [
    z,
    (z ** 3 + z) / 4,
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384,
  ]
  return terms.reduce((sum, term, i) => sum + term / n ** i, 0)
}

interface Scored {
  /** Summed over the sample's completion tokens, nats. */
  nll: number
  completionTokens: number
}

const lossOver = (samples: readonly Scored[], indices: readonly number[]) => {
  let nll = 0
  let tokens = 0
  for (const i of indices) {
    nll += samples[i]!.nll
    tokens += samples[i]!.completionTokens
  }
  return nll / tokens
}

/** Interval of the loss in nats per completion token. */
export const lossInterval = (samples: readonly Scored[]): Interval | null =>
  bootstrapInterval(samples.length, indices => lossOver(samples, indices))

/** Interval of exp(-(student loss - parent loss)); both measured on the same samples, which are drawn together. */
export const qualityInterval = (student: readonly Scored[], parent: readonly Scored[]): Interval | null =>
  bootstrapInterval(student.length, indices => Math.exp(lossOver(parent, indices) - lossOver(student, indices)))

/**
 * The same of a weighted mean over groups (capabilities): student and parent on the same draws, each group drawn by itself. With one
 * group it is `qualityInterval`.
 */
export function weightedQualityInterval(
  groups: readonly { weight: number; student: readonly Scored[]; parent: readonly Scored[] }[],
): Interval | null {
  const [only] = groups
  if (only && groups.length === 1) return qualityInterval(only.student, only.parent)
  if (groups.some(({ student }) => student.length < 2)) return null
  const values = new Float64Array(resamples)
  for (const [g, { weight, student, parent }] of groups.entries()) {
    let draw = 0
    for (const indices of drawIndices(student.length, ` ${g}`))
      values[draw++]! += weight * (lossOver(parent, indices) - lossOver(student, indices))
  }
  // As if all rested on the smallest group, which may weigh most.
  return percentiles(values.map(Math.exp), tailsOf(Math.min(...groups.map(({ student }) => student.length))))
}
