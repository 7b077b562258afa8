// What operations that make one model of another have in common: a job that keeps the new name and the parent, and the model that comes of it.
import type { EntityManager } from 'typeorm'
import { z } from 'zod'
import type { JobInput } from '../../compute/pool/job-types.js'
import type { JobRecord } from '../../compute/pool/queue.js'
import { Job, type ModelAtom } from '../../db/entities/index.js'
import { aliveModel, registerModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { checkText } from '../build/check-text.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { Platform, RequestContext } from '../build/platform.js'
import { chooseProbeDataset } from '../build/probe-dataset.js'
import { readManifest } from '../build/read-manifest.js'

type DerivingJob = 'model.quantize' | 'model.fuse'

const contextSchema = z.object({ name: z.string(), parentId: z.string() })

interface DerivedInput {
  modelId: string
  probeDatasetId?: string | null
  name?: string | null
  idempotencyKey?: string | null
}

/**
 * Queues the job; returns its row id.
 * @param ending what the parent's name gets where the caller gives none
 * @throws NOT_FOUND (model, probe set), BAD_USER_INPUT (name), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function queueDerived<K extends DerivingJob>(
  { platform, tenantId }: RequestContext,
  mutation: string,
  type: K,
  input: DerivedInput,
  ending: string,
  jobInput: (manifest: string, probeSet: string) => JobInput<K>,
): Promise<string> {
  const name = checkText(input.name, 200, 'name')
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, mutation, input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const probes = await chooseProbeDataset(em, tenantId, input.probeDatasetId)
      const context = { name: name ?? `${model.name} ${ending}`.slice(0, 200), parentId: model.id }
      const job = await enqueue(em, platform, {
        tenantId,
        type,
        modelId: model.id,
        input: jobInput(model.manifestHash, probes.probeSetHash),
        context: context satisfies z.infer<typeof contextSchema>,
      })
      return { jobId: job.id }
    })
    return jobId
  })
}

/** A job whose model was deleted meanwhile is not begun. */
export async function claimDerived<I>(em: EntityManager, job: JobRecord, input: I): Promise<I> {
  await parentOf(em, job)
  return input
}

/** The model a job was asked for, which must be there still. */
export const parentOf = (em: EntityManager, job: Pick<JobRecord, 'tenantId' | 'context'>) =>
  aliveModel(em, job.tenantId, contextSchema.parse(job.context).parentId)

/** Registers what came of it as a student of the parent, and as the job's model. */
export async function registerDerived(
  em: EntityManager,
  platform: Platform,
  job: JobRecord,
  parent: ModelAtom,
  made: { manifest: string; objective: string; description: string },
): Promise<void> {
  const { tenantId } = job
  const { id: modelId } = await registerModel(em, {
    tenantId,
    manifest: await readManifest(platform.payloads, made.manifest),
    manifestHash: made.manifest,
    name: contextSchema.parse(job.context).name,
    source: null,
    parentModelId: parent.id,
    isStudent: true,
    objective: made.objective,
    jobId: job.id,
    description: made.description,
  })
  await em.update(Job, { ...scoped(tenantId), id: job.id }, { modelId })
}
