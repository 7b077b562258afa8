// Students whose cuts are made up for before they are proposed: each is built with its projections fitted to texts of what it is for, and
// measured as built. The build of its recipe takes over what was made here.
import { type Calibration, proposedStages } from '../../lib/build-stages.js'
import type { Manifest } from '../../lib/manifest.js'
import { readManifest } from '../formats/manifest.js'
import type { Objective } from '../probing/objective.js'
import type { EncodedSample } from '../probing/scoring.js'
import { toRanges } from '../surgery/extract-layers.js'
import { runStages } from './build-student.js'
import type { HandlerContext } from './handler.js'
import { withScoringModel } from './scoring-model.js'

/** Texts that the projections of a student are fitted to and judged on, the capabilities of the objective together. */
const fitSamples = 112

export interface FittedStudent {
  manifest: Manifest
  calibration: Calibration
  /** Nats of the completion, by sample. */
  nll: ReadonlyMap<number, number>
}

/** Of the probe split, and only of what the objective is about. */
export const fitCalibration = (probeSet: string, maxTokens: number, { weights }: Objective): Calibration => ({
  probeSet,
  capabilities: weights.map(w => w.capability),
  samplesPerCapability: Math.ceil(fitSamples / weights.length),
  maxTokens,
})

/**
 * Builds the student of these layers and heads with its cuts fitted, and measures it on these of the held-out samples. Undefined where no fit
 * lowered the loss on the samples that judge them.
 */
export async function fitStudent(
  wanted: { parent: string; kept: readonly number[]; groups?: number[][] | undefined; calibration: Calibration },
  held: readonly EncodedSample[],
  samples: readonly number[],
  context: HandlerContext,
): Promise<FittedStudent | undefined> {
  const { parent, kept, calibration } = wanted
  const stages = proposedStages(wanted) ?? undefined
  const results = await runStages({ parent, layers: toRanges(kept), stages }, context)
  const fits = results.find(({ stage }) => stage === 'correctCuts')?.measurements?.corrected
  if (!Array.isArray(fits) || fits.length === 0) return undefined
  const hash = results.at(-1)!.manifest
  const scores = await withScoringModel(hash, context, ({ scorer }) => scorer.scoreRows(samples.map(i => held[i]!)))
  return {
    manifest: await readManifest(context.payloads, hash),
    calibration,
    nll: new Map(samples.map((sample, i) => [sample, scores[i]!.nll])),
  }
}
