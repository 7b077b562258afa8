// Evaluations: queued for a model and a probe set; their result becomes scores and, for students, quality.
import { type EntityManager, IsNull } from 'typeorm'
import { z } from 'zod'
import type { JobOutput } from '../../compute/pool/job-types.js'
import type { JobRecord } from '../../compute/pool/queue.js'
import {
  ModelAtom,
  ModelEvaluation,
  StudentModelCapabilityMapping,
  StudentModelRecipe,
  StudentModelTaxonomy,
} from '../../db/entities/index.js'
import { addModelEvent, aliveModel } from '../../db/models.js'
import { anyOf, scoped } from '../../db/scope.js'
import { newId } from '../../lib/ids.js'
import { type ConnectionArguments, paginateEach } from '../build/connection.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import { loader } from '../build/loader.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import {
  checkCapabilities,
  checkSamplesPerCapability,
  chooseProbeDataset,
  samplesByCapability,
} from '../build/probe-dataset.js'
import { type EvaluateModelInput, splitNames, toEvaluation } from './evaluation.type.js'
import { compareScores } from './quality.js'

/** `recipeId`: the student of that recipe is measured against the job's reference, its parent or teacher. */
const evaluationContext = z.object({ probeDatasetId: z.string(), recipeId: z.string().optional() })

/**
 * Queues a measurement; students are measured beside their parent, or the teacher that their recipe names. Returns the job's row id.
 * @throws NOT_FOUND (model, probe set, capability), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, BAD_USER_INPUT
 */
export async function evaluateModel(
  { platform, tenantId }: RequestContext,
  input: EvaluateModelInput,
): Promise<string> {
  const samples = checkSamplesPerCapability(input.samplesPerCapability)
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'evaluateModel', input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const probeDataset = await chooseProbeDataset(em, tenantId, input.probeDatasetId)
      const shown = [...(await samplesByCapability(em, tenantId, probeDataset.id)).keys()]
      const capabilities = checkCapabilities(input.capabilities, shown, 'the probe set does not show')
      const reference = await referenceOf(em, model)
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'model.evaluate',
        modelId: model.id,
        input: {
          manifest: model.manifestHash,
          probeSet: probeDataset.probeSetHash,
          split: splitNames[input.split],
          maxTokens: 256,
          ...(samples === null ? {} : { samplesPerCapability: samples }),
          ...(capabilities === null ? {} : { capabilities }),
          ...(reference ? { reference } : {}),
        },
        context: { probeDatasetId: probeDataset.id } satisfies z.infer<typeof evaluationContext>,
      })
      return { jobId: job.id }
    })
    return jobId
  })
}

/** Manifest of the model it is measured beside, where that is still there: the teacher its recipe names, else its parent. */
async function referenceOf(
  em: EntityManager,
  { id, tenantId, parentModelId }: Pick<ModelAtom, 'id' | 'tenantId' | 'parentModelId'>,
): Promise<string | undefined> {
  const recipe = await em.findOneBy(StudentModelRecipe, { ...scoped(tenantId), studentModelId: id })
  const teacher = recipe?.stages?.healing?.teacher
  if (teacher) {
    const alive = await em.existsBy(ModelAtom, { ...scoped(tenantId), manifestHash: teacher, deletedAt: IsNull() })
    if (alive) return teacher
  }
  const parent = parentModelId ? await em.findOneBy(ModelAtom, { ...scoped(tenantId), id: parentModelId }) : null
  return parent && !parent.deletedAt ? parent.manifestHash : undefined
}

export const evaluateEffect: JobEffect<'model.evaluate'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
  async succeeded(em, job, output) {
    const { tenantId } = job
    const model = await aliveModel(em, tenantId, job.modelId!)
    const { probeDatasetId, recipeId } = evaluationContext.parse(job.context)
    await insertScores(em, job, model.id, probeDatasetId, output.scores)
    const recipe =
      recipeId === undefined ? null : await em.findOneBy(StudentModelRecipe, { ...scoped(tenantId), id: recipeId })
    const comparison = output.reference
      ? compareScores(output.scores, output.reference, recipe?.mixture?.weights)
      : null
    if (!comparison) return
    // Only the validation split, kept apart from the search, says how good a student is.
    const { split, reference } = job.input as { split: string; reference: string }
    if (split !== 'validation') return
    if (recipeId !== undefined)
      await em.update(
        StudentModelRecipe,
        { ...scoped(tenantId), id: recipeId, studentModelId: model.id },
        { measuredQuality: comparison.overall },
      )
    await mapQualities(em, tenantId, model.id, comparison.capabilities)
    const beside = await em.findOneBy(ModelAtom, { ...scoped(tenantId), manifestHash: reference })
    await addModelEvent(em, {
      tenantId,
      modelId: model.id,
      kind: 'EVALUATED',
      description: `Quality ${comparison.overall.toFixed(4)} (1 is ${beside?.name ?? 'a model that is gone'}) on ${comparison.capabilities.map(c => c.capability).join(', ')}`,
      jobId: job.id,
    })
  },
}

async function insertScores(
  em: EntityManager,
  { id: jobId, tenantId, input }: JobRecord,
  modelId: string,
  probeDatasetId: string,
  scores: JobOutput<'model.evaluate'>['scores'],
) {
  const { split } = input as { split: string }
  const createdAt = new Date()
  const rows = scores.map(({ capability, loss, perplexity, accuracy, sampleCount, interval = null }) => ({
    id: newId(),
    tenantId,
    modelId,
    probeDatasetId,
    jobId,
    createdAt,
    slug: capability,
    split,
    loss,
    perplexity,
    accuracy,
    sampleCount,
    lossInterval: interval,
  }))
  if (rows.length > 0) await em.insert(ModelEvaluation, rows)
}

/** Measured quality replaces what the search had measured. */
async function mapQualities(
  em: EntityManager,
  tenantId: string,
  studentModelId: string,
  qualities: readonly { capability: string; quality: number }[],
) {
  const rows = await em.findBy(StudentModelTaxonomy, {
    ...scoped(tenantId),
    slug: anyOf(qualities.map(q => q.capability)),
  })
  for (const { id: taxonomyId, slug } of rows) {
    const capabilityScore = qualities.find(q => q.capability === slug)!.quality
    const key = { ...scoped(tenantId), studentModelId, taxonomyId }
    const { affected } = await em.update(StudentModelCapabilityMapping, key, { capabilityScore })
    if (!affected) await em.insert(StudentModelCapabilityMapping, { ...key, id: newId(), capabilityScore })
  }
}

/** A page of a model's measurements, newest first; the same pages of several models are one query. */
export async function listEvaluations(context: RequestContext, modelId: string, args: ConnectionArguments) {
  const pages = loader(context, `evaluation.evaluations ${JSON.stringify(args)}`, (ids: readonly string[]) => {
    const query = context.platform.db.read
      .createQueryBuilder(ModelEvaluation, 'evaluation')
      .where(scoped(context.tenantId))
    return paginateEach(query, args, 'modelId', ids, id => `evaluations ${id}`)
  })
  return (await pages.load(modelId))!.map(toEvaluation)
}

export const capabilityIdBySlug = (context: RequestContext) =>
  loader<string, string>(context, 'evaluation.capabilityIdBySlug', async slugs => {
    const rows = await context.platform.db.read.find(StudentModelTaxonomy, {
      select: { id: true, slug: true },
      where: { ...scoped(context.tenantId), slug: anyOf(slugs) },
    })
    return new Map(rows.map(r => [r.slug, r.id]))
  })
