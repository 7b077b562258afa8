// Queues the analysis of a model: asked for by a mutation, or by the policy when an ingest has finished.
import type { EntityManager } from 'typeorm'
import { z } from 'zod'
import type { Job, ModelAtom } from '../../db/entities/index.js'
import { enqueue } from './enqueue.js'
import { runnableManifest } from './live-model.js'
import type { Platform } from './platform.js'
import { chooseProbeDataset } from './probe-dataset.js'

/** What the analysis' owner needs when it ends. */
export const analysisContext = z.object({ probeDatasetId: z.string(), samplesPerCapability: z.number().nullable() })

export interface WantedAnalysis {
  /** Global id; absent: the product's own. */
  probeDatasetId?: string | null | undefined
  samplesPerCapability: number | null
  maskedGroups?: number | null | undefined
  seed?: number | null | undefined
}

/**
 * Within a transaction; nothing is written where it throws.
 * @throws NOT_FOUND (probe set), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function queueAnalysis(
  em: EntityManager,
  platform: Platform,
  model: ModelAtom,
  { probeDatasetId, samplesPerCapability, maskedGroups, seed }: WantedAnalysis,
): Promise<Job> {
  await runnableManifest(platform.payloads, model)
  const probeDataset = await chooseProbeDataset(em, model.tenantId, probeDatasetId)
  return enqueue(em, platform, {
    tenantId: model.tenantId,
    type: 'capability.analyze',
    modelId: model.id,
    input: {
      manifest: model.manifestHash,
      probeSet: probeDataset.probeSetHash,
      maxTokens: 256,
      ...(samplesPerCapability === null ? {} : { samplesPerCapability }),
      ...(maskedGroups == null ? {} : { maskedGroups }),
      ...(seed == null ? {} : { seed }),
    },
    context: { probeDatasetId: probeDataset.id, samplesPerCapability } satisfies z.infer<typeof analysisContext>,
  })
}
