// What follows by itself from a finished job, if the tenant's policy says so: an ingest is analysed, an analysis leads to proposals.
// Called by the owner of the finished job, in its transaction; the next job's owner never hears of it but by the job's row.
import type { EntityManager } from 'typeorm'
import { ApprovalPolicy, type ModelAtom } from '../../db/entities/index.js'
import { addModelEvent } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { isDomainError } from '../../lib/errors.js'
import type { Platform } from './platform.js'
import { queueAnalysis } from './queue-analysis.js'
import { queueProposals } from './queue-proposals.js'

export const findPolicy = (em: EntityManager, tenantId: string): Promise<ApprovalPolicy | null> =>
  em.findOneBy(ApprovalPolicy, scoped(tenantId))

/** The model was ingested: its analysis, where the policy wants one. */
export async function afterIngest(em: EntityManager, platform: Platform, model: ModelAtom): Promise<void> {
  const policy = await findPolicy(em, model.tenantId)
  if (!policy?.analyzeOnIngest) return
  await step(em, model, policy, 'analysis', () =>
    queueAnalysis(em, platform, model, { samplesPerCapability: policy.samplesPerCapability }),
  )
}

/** The model was analysed: a search for students, where the policy wants one. */
export async function afterAnalysis(
  em: EntityManager,
  platform: Platform,
  model: ModelAtom,
  probeDatasetId: string,
): Promise<void> {
  const policy = await findPolicy(em, model.tenantId)
  if (!policy?.proposeOnAnalysis) return
  await step(em, model, policy, 'search for students', () =>
    queueProposals(em, platform, model, {
      probeDatasetId,
      budgetSeconds: policy.budgetSeconds,
      capabilities: policy.enabled ? policy.capabilities : null,
    }),
  )
}

/** Queues the next job; where that cannot be, the finished job stands and the model's history says why nothing followed. */
async function step(
  em: EntityManager,
  { id: modelId, tenantId }: ModelAtom,
  policy: ApprovalPolicy,
  what: string,
  queue: () => Promise<{ id: string }>,
) {
  const by = `by policy (version ${policy.version})`
  try {
    const { id: jobId } = await queue()
    const description = `The ${what} was queued ${by}`
    await addModelEvent(em, { tenantId, modelId, kind: 'POLICY', description, jobId })
  } catch (error) {
    // Everything is checked before the first row is written.
    if (!isDomainError(error)) throw error
    const description = `The ${what} was not queued ${by}: ${error.message}`
    await addModelEvent(em, { tenantId, modelId, kind: 'POLICY', description, jobId: null })
  }
}
