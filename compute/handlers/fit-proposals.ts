// Students whose cuts are made up for before they are proposed: each is built with its projections fitted to texts of what it is for, and
// measured as built. The build of its recipe takes over what was made here.
import { type Calibration, proposedStages } from '../../lib/build-stages.js'
import { isDomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import { readManifest } from '../formats/manifest.js'
import type { Objective } from '../probing/objective.js'
import type { EncodedSample } from '../probing/scoring.js'
import { toRanges } from '../surgery/extract-layers.js'
import { runStages } from './build-student.js'
import type { HandlerContext } from './handler.js'
import { withScoringModel } from './scoring-model.js'

/** Texts that the projections of a student are fitted to and judged on, the capabilities of the objective together. */
const fitSamples = 112

/** Of the probe split, and only of what the objective is about. */
export const fitCalibration = (probeSet: string, maxTokens: number, { weights }: Objective): Calibration => ({
  probeSet,
  capabilities: weights.map(w => w.capability),
  samplesPerCapability: Math.ceil(fitSamples / weights.length),
  maxTokens,
})

export interface FittedStudent {
  manifest: Manifest
  calibration: Calibration
  /** Nats of the completion, by sample. */
  nll: ReadonlyMap<number, number>
  /** Device seconds of its build. */
  seconds: number
}

/** Seconds of device time, those of fits that an attempt before had made included. */
interface FitOutcome {
  seconds: number
  /** Absent: no fit lowered the loss on the samples that judge fits. */
  student?: FittedStudent
}

/** Builds the student of these layers and heads with its cuts fitted, and measures it on these of the held-out samples. */
export async function fitStudent(
  wanted: { parent: string; kept: readonly number[]; groups?: number[][] | undefined; calibration: Calibration },
  held: readonly EncodedSample[],
  samples: readonly number[],
  context: HandlerContext,
): Promise<FitOutcome> {
  const { parent, kept, calibration } = wanted
  const stages = proposedStages(wanted) ?? undefined
  const results = await runStages({ parent, layers: toRanges(kept), stages }, context)
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0)
  const fits = results.find(({ stage }) => stage === 'correctCuts')?.measurements?.corrected
  if (!Array.isArray(fits) || fits.length === 0) return { seconds }
  const hash = results.at(-1)!.manifest
  const scores = await withScoringModel(hash, context, ({ scorer }) => scorer.scoreRows(samples.map(i => held[i]!)))
  const student: FittedStudent = {
    manifest: await readManifest(context.payloads, hash),
    calibration,
    nll: new Map(samples.map((sample, i) => [sample, scores[i]!.nll])),
    seconds,
  }
  return { seconds, student }
}

/** What fits of a job have cost so far, in tokens run through the whole model at the speed that was seen. */
export interface FitCosts {
  spent: number
  longest: number
  /** Whether one could not be made: no other is tried. */
  failed: boolean
}

/**
 * Fits one after the other while more is left than the longest took. One that cannot be made (a full disk, values that are none) ends it: what was
 * found without fits is worth having.
 * @param left tokens, `costs.spent` taken off
 * @param make gives the tokens it cost
 * @throws CANCELLED where the job was cancelled, and bugs
 */
export async function fitWithin<T>(
  order: readonly T[],
  costs: FitCosts,
  left: () => number,
  make: (one: T, done: number) => Promise<number>,
  { signal, log }: Pick<HandlerContext, 'signal' | 'log'>,
): Promise<void> {
  for (const [done, one] of order.entries()) {
    if (costs.failed || left() <= costs.longest) return
    try {
      const cost = await make(one, done)
      costs.spent += cost
      costs.longest = Math.max(costs.longest, cost)
    } catch (error) {
      throwIfAborted(signal)
      if (!isDomainError(error)) throw error
      costs.failed = true
      log.warn({ err: error }, 'a cut could not be fitted; what is proposed stays as it was found')
      return
    }
  }
}
