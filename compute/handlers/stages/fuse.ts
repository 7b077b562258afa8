// The last stage of a build: what of the student's graph is worth computing at once on this device.
import { DomainError } from '../../../lib/errors.js'
import type { FusionOptions } from '../../../lib/fusion.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { fuseManifest } from '../fuse-manifest.js'

/** Where nothing is worth it, the manifest stays. What is measured differs from run to run; the first result is the one that is kept. */
export async function fuseStage(
  hash: string,
  { probeSet, ...options }: FusionOptions & { probeSet?: string | undefined },
  context: StageContext,
): Promise<StageOutcome> {
  if (!probeSet) throw new DomainError('INVALID_RECIPE', 'fusion names no probe set to compare outputs on')
  const own: StageContext = { ...context, progress: report => context.progress({ ...report, stage: 'fuse' }) }
  const { manifest, applied, rows, check } = await fuseManifest(hash, options, probeSet, own)
  return { manifest, measurements: { applied, rows, ...(check ? { check } : {}) } }
}
