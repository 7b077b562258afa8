// Which codes each group of matrices gets, so that the whole stays within bytes or comes close enough to what it was: greedy, by the divergence
// that a byte takes away.
import type { WeightScheme } from '../../lib/quantization.js'

export interface SchemeChoice {
  /** undefined: as it is stored. */
  scheme: WeightScheme | undefined
  bytes: number
  /** KL divergence from the model before, where only this group is so, nats per token. */
  divergence: number
}

/** Matrices that are multiplied at once, and so must have one form. */
export interface SchemeGroup {
  roles: readonly string[]
  choices: readonly SchemeChoice[]
}

export interface SchemeLimits {
  /** Of all groups together. */
  maximumBytes?: number | undefined
  /** Sum over the groups that is enough. */
  divergence?: number | undefined
}

export interface ChosenSchemes {
  choices: SchemeChoice[]
  bytes: number
  /** Sum: divergences of small changes add up (to second order, where changes of different matrices are not correlated). */
  divergence: number
}

const total = (choices: readonly SchemeChoice[], of: 'bytes' | 'divergence') =>
  choices.reduce((sum, choice) => sum + choice[of], 0)

/**
 * Begins with the fewest bytes and takes, one after the other, the change that takes away most divergence per byte, until the sum is small enough
 * or no change fits the bytes any more. The result may miss the divergence, and where the fewest bytes are too many the bytes: the caller looks.
 */
export function chooseSchemes(groups: readonly SchemeGroup[], limits: SchemeLimits): ChosenSchemes {
  const { maximumBytes = Number.POSITIVE_INFINITY, divergence: enough = Number.NEGATIVE_INFINITY } = limits
  const current = groups.map(({ choices }) =>
    choices.reduce((best, choice) =>
      choice.bytes < best.bytes || (choice.bytes === best.bytes && choice.divergence < best.divergence) ? choice : best,
    ),
  )
  let [bytes, divergence] = [total(current, 'bytes'), total(current, 'divergence')]
  while (divergence > enough) {
    let best: { index: number; choice: SchemeChoice; ratio: number } | undefined
    for (const [index, { choices }] of groups.entries()) {
      const now = current[index]!
      for (const choice of choices) {
        const [more, less] = [choice.bytes - now.bytes, now.divergence - choice.divergence]
        if (more <= 0 || less <= 0 || bytes + more > maximumBytes) continue
        if (!best || less / more > best.ratio) best = { index, choice, ratio: less / more }
      }
    }
    if (!best) break
    const { index, choice } = best
    bytes += choice.bytes - current[index]!.bytes
    divergence += choice.divergence - current[index]!.divergence
    current[index] = choice
  }
  return { choices: current, bytes, divergence }
}
