// Loss, perplexity and accuracy per capability: one definition for evaluations, analyses and searches.
import { DomainError } from '../../lib/errors.js'
import { type Interval, lossInterval } from './bootstrap.js'
import type { EncodedSample, RowScore, Scorer } from './scoring.js'

export interface CapabilityLoss {
  capability: string
  /** Summed negative log-likelihood of all completion tokens over their number, nats. */
  loss: number
  perplexity: number
  /** Share of samples whose every completion token is the arg-max under teacher forcing. */
  accuracy: number
  sampleCount: number
  completionTokens: number
  /** 95 % interval of the loss, by bootstrap over the samples; null for a single sample, absent where it was not asked for. */
  interval?: Interval | null
}

/** Capabilities in order of first appearance. */
export const capabilitiesOf = (samples: readonly { capability: string }[]) => [
  ...new Set(samples.map(s => s.capability)),
]

/**
 * Sums per-sample scores to one line per capability.
 * @param wanted capabilities that must have a result
 * @throws INVALID_PROBE_DATASET where every completion of a wanted capability was cut away
 */
export function summarise(
  samples: readonly EncodedSample[],
  scores: readonly Pick<RowScore, 'nll' | 'exact'>[],
  wanted: readonly string[],
): CapabilityLoss[] {
  return wanted.map(capability => {
    let nll = 0
    let exact = 0
    let sampleCount = 0
    let completionTokens = 0
    samples.forEach((sample, i) => {
      if (sample.capability !== capability) return
      nll += scores[i]!.nll
      exact += scores[i]!.exact ? 1 : 0
      sampleCount++
      completionTokens += sample.completionTokens
    })
    if (sampleCount === 0) {
      throw new DomainError(
        'INVALID_PROBE_DATASET',
        `${capability}: no sample has completion tokens left after cutting; raise maxTokens`,
      )
    }
    const loss = nll / completionTokens
    // A broken student's perplexity may exceed the range of a double; JSON has no infinity.
    const perplexity = Math.min(Math.exp(loss), Number.MAX_VALUE)
    return { capability, loss, perplexity, accuracy: exact / sampleCount, sampleCount, completionTokens }
  })
}

/** The same with the interval of each loss. */
export const summariseWithIntervals = (
  samples: readonly EncodedSample[],
  scores: readonly Pick<RowScore, 'nll' | 'exact'>[],
  wanted: readonly string[],
): CapabilityLoss[] =>
  summarise(samples, scores, wanted).map(summary => ({
    ...summary,
    interval: lossInterval(
      samples.flatMap(({ capability, completionTokens }, i) =>
        capability === summary.capability ? [{ nll: scores[i]!.nll, completionTokens }] : [],
      ),
    ),
  }))

/** Scores the samples with all layers running. `done` counts tokens. */
export async function evaluate(
  scorer: Scorer,
  samples: readonly EncodedSample[],
  wanted: readonly string[],
  done?: (tokens: number) => void,
): Promise<CapabilityLoss[]> {
  const scores = await scorer.scoreRows(samples, done ? { done } : {})
  return summariseWithIntervals(samples, scores, wanted)
}
