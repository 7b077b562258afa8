// The stage that rounds a student's matrices to 4- or 8-bit codes and measures what that changed; the last to touch weights.
import { DomainError } from '../../../lib/errors.js'
import type { RecipeQuantization } from '../../../lib/quantization.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { quantiseManifest } from '../quantise-manifest.js'
import { compareManifests } from '../quantise-report.js'

/** Tokens that compared samples are cut to, as evaluations cut them. */
const maxTokens = 256

/** @throws CONFLICT where the student's weights are rounded already, and what quantising throws */
export async function quantiseStage(
  hash: string,
  { probeSet, samplesPerCapability, ...options }: RecipeQuantization,
  context: StageContext,
): Promise<StageOutcome> {
  if (!probeSet)
    throw new DomainError('INVALID_RECIPE', 'quantization names no probe set to calibrate with and to compare on')
  // What it does goes by this stage's name, in the unit of what it does.
  const own: StageContext = { ...context, progress: report => context.progress({ ...report, stage: 'quantise' }) }
  const { manifest, source, types, kept, search } = await quantiseManifest(hash, options, probeSet, own)
  const measure = { probeSet, samplesPerCapability, maxTokens, speed: true }
  const comparison = await compareManifests(source, manifest, measure, own)
  return {
    manifest,
    measurements: { ...comparison, types, ...(kept.length > 0 ? { kept } : {}), ...(search ? { search } : {}) },
  }
}
