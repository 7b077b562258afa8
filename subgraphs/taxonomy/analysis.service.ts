// Analyses: queued for a model and a probe set, written when the job is done, read per model, layer and capability.
import type { EntityManager } from 'typeorm'
import { z } from 'zod'
import type { CapabilityScoreOutput, JobOutput } from '../../compute/pool/job-types.js'
import {
  CapabilityAnalysis as AnalysisRow,
  ModelEvaluation,
  ModelHeadImportance,
  ModelLayerCapability,
} from '../../db/entities/index.js'
import { addModelEvent, aliveModel } from '../../db/models.js'
import { anyOf, scoped } from '../../db/scope.js'
import { newId } from '../../lib/ids.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import { groupBy, loader } from '../build/loader.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { checkSamplesPerCapability, chooseProbeDataset } from '../build/probe-dataset.js'
import {
  CapabilityAnalysis,
  type CapabilityScore,
  type HeadImportance,
  type LayerAnalysis,
  type LayerCapability,
} from './analysis.type.js'
import { ensureCapabilities } from './taxonomy.service.js'

export interface AnalyzeModel {
  modelId: string
  probeDatasetId?: string | null
  samplesPerCapability?: number | null
  idempotencyKey?: string | null
}

const analysisContext = z.object({ probeDatasetId: z.string(), samplesPerCapability: z.number().nullable() })

/**
 * Queues the analysis of a model; returns the job's row id.
 * @throws NOT_FOUND (model, probe set), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, BAD_USER_INPUT
 */
export async function analyzeModel(context: RequestContext, input: AnalyzeModel): Promise<string> {
  const { platform, tenantId } = context
  const samplesPerCapability = checkSamplesPerCapability(input.samplesPerCapability)
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'analyzeModel', input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const probeDataset = await chooseProbeDataset(em, tenantId, input.probeDatasetId)
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'capability.analyze',
        modelId: model.id,
        input: {
          manifest: model.manifestHash,
          probeSet: probeDataset.probeSetHash,
          maxTokens: 256,
          ...(samplesPerCapability === null ? {} : { samplesPerCapability }),
        },
        context: { probeDatasetId: probeDataset.id, samplesPerCapability } satisfies z.infer<typeof analysisContext>,
      })
      return { jobId: job.id }
    })
    return jobId
  })
}

export const analyzeEffect: JobEffect<'capability.analyze'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
  async succeeded(em, job, output) {
    const { tenantId } = job
    const model = await aliveModel(em, tenantId, job.modelId!)
    const { probeDatasetId, samplesPerCapability } = analysisContext.parse(job.context)
    const createdAt = new Date()
    const slugs = [...output.baseline, ...output.layers.flatMap(l => l.capabilities)].map(c => c.capability)
    await ensureCapabilities(
      em,
      tenantId,
      [...new Set(slugs)].map(slug => ({ slug })),
    )
    const analysisId = newId()
    await em.insert(AnalysisRow, {
      id: analysisId,
      tenantId,
      modelId: model.id,
      probeDatasetId,
      jobId: job.id,
      samplesPerCapability,
      baseline: output.baseline as object,
      layers: output.layers.map(({ layerIndex, blockInfluence, activationNorm, angularDistances = [] }) => ({
        layerIndex,
        blockInfluence,
        activationNorm,
        angularDistances,
      })),
      createdAt,
    })
    const cells = output.layers.flatMap(({ layerIndex, capabilities }) =>
      capabilities.map(({ capability, blockInfluence, lossIncrease, score }) => ({
        id: newId(),
        tenantId,
        analysisId,
        modelId: model.id,
        layerIndex,
        slug: capability,
        capabilityScore: score,
        lossIncrease,
        blockInfluence,
      })),
    )
    // SQL Server takes at most 2,100 parameters per statement, a row has nine.
    for (let i = 0; i < cells.length; i += 200) await em.insert(ModelLayerCapability, cells.slice(i, i + 200))
    await insertHeads(em, { tenantId, analysisId, modelId: model.id }, output.heads ?? [])
    await insertEvaluations(
      em,
      { tenantId, modelId: model.id, probeDatasetId, jobId: job.id, createdAt },
      output.baseline,
    )
    await addModelEvent(em, {
      tenantId,
      modelId: model.id,
      kind: 'ANALYZED',
      description: `${output.layers.length} layers on ${output.baseline.length} capabilities`,
      jobId: job.id,
    })
  },
}

async function insertHeads(
  em: EntityManager,
  shared: Pick<ModelHeadImportance, 'tenantId' | 'analysisId' | 'modelId'>,
  heads: NonNullable<JobOutput<'capability.analyze'>['heads']>,
) {
  const rows = heads.flatMap(({ capability, keyValueHeadCount, layers }) =>
    layers.map((importance, layerIndex) => ({
      ...shared,
      id: newId(),
      layerIndex,
      slug: capability,
      keyValueHeadCount,
      importance,
    })),
  )
  for (let i = 0; i < rows.length; i += 200) await em.insert(ModelHeadImportance, rows.slice(i, i + 200))
}

async function insertEvaluations(
  em: EntityManager,
  shared: Pick<ModelEvaluation, 'tenantId' | 'modelId' | 'probeDatasetId' | 'jobId' | 'createdAt'>,
  scores: readonly CapabilityScoreOutput[],
) {
  const rows = scores.map(({ capability, loss, perplexity, accuracy, sampleCount, interval = null }) => ({
    ...shared,
    id: newId(),
    slug: capability,
    split: 'probe',
    loss,
    perplexity,
    accuracy,
    sampleCount,
    lossInterval: interval,
  }))
  if (rows.length > 0) await em.insert(ModelEvaluation, rows)
}

function toAnalysis(row: AnalysisRow): CapabilityAnalysis {
  const baseline = row.baseline as CapabilityScoreOutput[]
  return Object.assign(new CapabilityAnalysis(), {
    id: row.id,
    samplesPerCapability: row.samplesPerCapability,
    layers: row.layers.map(layer => ({ angularDistances: [], ...layer, analysisId: row.id })) as LayerAnalysis[],
    createdAt: row.createdAt,
    modelRowId: row.modelId,
    jobRowId: row.jobId,
    probeDatasetRowId: row.probeDatasetId,
    scores: baseline.map(({ capability, loss, perplexity, accuracy, sampleCount, interval = null }) => ({
      loss,
      perplexity,
      accuracy,
      sampleCount,
      interval,
      split: 'PROBE' as const,
      measuredAt: row.createdAt,
      slug: capability,
      probeDatasetRowId: row.probeDatasetId,
    })),
  })
}

export async function findAnalysis(context: RequestContext, id: string): Promise<CapabilityAnalysis | null> {
  const row = await context.platform.db.read.findOneBy(AnalysisRow, { ...scoped(context.tenantId), id })
  return row ? toAnalysis(row) : null
}

/** Newest analysis by model, or by `model/probe set`. */
export const newestAnalysis = (context: RequestContext) =>
  loader<string, CapabilityAnalysis>(context, 'taxonomy.newestAnalysis', async keys => {
    const modelIds = [...new Set(keys.map(key => key.split('/')[0]!))]
    const { read } = context.platform.db
    // Ids are time-ordered, so the greatest of a group is its newest: only those rows (with their layers) are read.
    const newest = await read
      .createQueryBuilder(AnalysisRow, 'a')
      .select('MAX(a.id)', 'id')
      .where({ ...scoped(context.tenantId), modelId: anyOf(modelIds) })
      .groupBy('a.modelId')
      .addGroupBy('a.probeDatasetId')
      .getRawMany<{ id: string }>()
    const rows = await read.find(AnalysisRow, {
      where: { ...scoped(context.tenantId), id: anyOf(newest.map(n => n.id)) },
      order: { id: 'ASC' },
    })
    return new Map(
      rows.flatMap(row => {
        const analysis = toAnalysis(row)
        return [
          [row.modelId, analysis],
          [`${row.modelId}/${row.probeDatasetId}`, analysis],
        ] as const
      }),
    )
  })

export const analysisOfJob = (context: RequestContext) =>
  loader<string, CapabilityAnalysis>(context, 'taxonomy.analysisOfJob', async jobIds => {
    const rows = await context.platform.db.read.findBy(AnalysisRow, {
      ...scoped(context.tenantId),
      jobId: anyOf(jobIds),
    })
    return new Map(rows.map(r => [r.jobId, toAnalysis(r)]))
  })

/** All cells of an analysis, by layer and in the probe set's order of capabilities. */
export const layerCapabilitiesOf = (context: RequestContext) =>
  loader<string, Map<number, LayerCapability[]>>(context, 'taxonomy.layerCapabilities', async analysisIds => {
    const rows = await context.platform.db.read.find(ModelLayerCapability, {
      where: { ...scoped(context.tenantId), analysisId: anyOf(analysisIds) },
      order: { id: 'ASC' },
    })
    const cells = rows.map(({ analysisId, layerIndex, slug, capabilityScore, lossIncrease, blockInfluence }) => ({
      analysisId,
      layerIndex,
      slug,
      score: capabilityScore,
      lossIncrease,
      blockInfluence,
    }))
    return new Map([...groupBy(cells, c => c.analysisId)].map(([id, own]) => [id, groupBy(own, c => c.layerIndex)]))
  })

/** Rows per capability of an analysis's heads, by layer. */
export const headImportanceOf = (context: RequestContext) =>
  loader<string, Map<number, ModelHeadImportance[]>>(context, 'taxonomy.headImportance', async analysisIds => {
    const rows = await context.platform.db.read.find(ModelHeadImportance, {
      where: { ...scoped(context.tenantId), analysisId: anyOf(analysisIds) },
      order: { id: 'ASC' },
    })
    return new Map([...groupBy(rows, r => r.analysisId)].map(([id, own]) => [id, groupBy(own, r => r.layerIndex)]))
  })

/** The heads of one layer, their importance the mean over the capabilities given. */
export function meanOfHeads(rows: readonly ModelHeadImportance[]): HeadImportance[] {
  const [first] = rows
  if (!first) return []
  const perGroup = first.importance.length / first.keyValueHeadCount
  return first.importance.map((_, headIndex) => ({
    headIndex,
    keyValueHeadIndex: Math.floor(headIndex / perGroup),
    importance: rows.reduce((sum, row) => sum + row.importance[headIndex]!, 0) / rows.length,
  }))
}

/** Newest measurement of every capability and split, by model. */
export const newestScores = (context: RequestContext) =>
  loader<string, CapabilityScore[]>(context, 'taxonomy.newestScores', async modelIds => {
    const { read } = context.platform.db
    const newest = await read
      .createQueryBuilder(ModelEvaluation, 'e')
      .select('MAX(e.id)', 'id')
      .where({ ...scoped(context.tenantId), modelId: anyOf(modelIds) })
      .groupBy('e.modelId')
      .addGroupBy('e.slug')
      .addGroupBy('e.split')
      .getRawMany<{ id: string }>()
    const rows = await read.find(ModelEvaluation, {
      where: { ...scoped(context.tenantId), id: anyOf(newest.map(n => n.id)) },
      order: { split: 'ASC', id: 'ASC' },
    })
    return new Map(
      [...groupBy(rows, r => r.modelId)].map(([modelId, own]) => [
        modelId,
        own.map(
          ({ loss, perplexity, accuracy, sampleCount, lossInterval, split, createdAt, slug, probeDatasetId }) => ({
            loss,
            perplexity,
            accuracy,
            sampleCount,
            interval: lossInterval,
            split: split === 'probe' ? ('PROBE' as const) : ('VALIDATION' as const),
            measuredAt: createdAt,
            slug,
            probeDatasetRowId: probeDatasetId,
          }),
        ),
      ]),
    )
  })
