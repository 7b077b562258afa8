// Analyses: queued for a model and a probe set, written when the job is done, read per model, layer and capability.
import type { CapabilityScoreOutput, LayerClusterOutput, MaskedGroupOutput } from '../../compute/pool/job-types.js'
import {
  CapabilityAnalysis as AnalysisRow,
  Job,
  ModelAtom,
  ModelEvaluation,
  ModelHeadImportance,
  ModelLayerCapability,
} from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { checkSamplesPerCapability } from '../build/probe-dataset.js'
import { queueAnalysis } from '../build/queue-analysis.js'
import {
  CapabilityAnalysis,
  type CapabilityScore,
  type HeadImportance,
  type LayerAnalysis,
  type LayerCapability,
  ModelCapabilityScore,
} from './analysis.type.js'

export interface AnalyzeModel {
  modelId: string
  probeDatasetId?: string | null
  samplesPerCapability?: number | null
  maskedGroups?: number | null
  seed?: number | null
  idempotencyKey?: string | null
}

/** A masked group costs about half a pass over the samples. */
const mostMaskedGroups = 256

/**
 * Queues the analysis of a model; returns the job's row id.
 * @throws NOT_FOUND (model, probe set), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, BAD_USER_INPUT
 */
export async function analyzeModel(context: RequestContext, input: AnalyzeModel): Promise<string> {
  const { platform, tenantId } = context
  const samplesPerCapability = checkSamplesPerCapability(input.samplesPerCapability)
  const { maskedGroups, seed } = input
  if (maskedGroups != null && (maskedGroups < 0 || maskedGroups > mostMaskedGroups))
    throw new DomainError('BAD_USER_INPUT', `maskedGroups: ${maskedGroups}, expected 0 to ${mostMaskedGroups}`, {
      field: ['input', 'maskedGroups'],
    })
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'analyzeModel', input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const { probeDatasetId } = input
      const job = await queueAnalysis(em, platform, model, { probeDatasetId, samplesPerCapability, maskedGroups, seed })
      return { jobId: job.id }
    })
    return jobId
  })
}

function toAnalysis(row: AnalysisRow): CapabilityAnalysis {
  const baseline = row.baseline as CapabilityScoreOutput[]
  return Object.assign(new CapabilityAnalysis(), {
    id: row.id,
    samplesPerCapability: row.samplesPerCapability,
    layers: row.layers.map(layer => ({
      angularDistances: [],
      activation: null,
      ...layer,
      analysisId: row.id,
    })) as LayerAnalysis[],
    layerClusters: ((row.clusters ?? []) as LayerClusterOutput[]).map(({ capability, ...own }) => ({
      stability: null,
      ...own,
      slug: capability,
    })),
    groups: ((row.maskedGroups ?? []) as MaskedGroupOutput[]).flatMap(
      ({ layerIndex, keyValueHeadIndex, capabilities }) =>
        capabilities.map(({ capability, ...measured }) => ({
          layerIndex,
          keyValueHeadIndex,
          ...measured,
          slug: capability,
        })),
    ),
    dropped: (row.droppedSamples ?? []).map(({ capability, count }) => ({ slug: capability, count })),
    centroidsHash: row.centroidsHash,
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
    const cells = rows.map(
      ({ analysisId, layerIndex, slug, capabilityScore, lossIncrease, blockInfluence, activation }) => ({
        analysisId,
        layerIndex,
        slug,
        score: capabilityScore,
        lossIncrease,
        blockInfluence,
        activation,
      }),
    )
    return new Map([...groupBy(cells, c => c.analysisId)].map(([id, own]) => [id, groupBy(own, c => c.layerIndex)]))
  })

/** Device of the job that made an analysis, by the job's row id. */
export const measuredOn = (context: RequestContext) =>
  loader<string, string | null>(context, 'taxonomy.measuredOn', async jobIds => {
    const rows = await context.platform.db.read.find(Job, {
      select: { id: true, deviceId: true },
      where: { ...scoped(context.tenantId), id: anyOf(jobIds) },
    })
    return new Map(rows.map(row => [row.id, row.deviceId]))
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
    attentionEntropy: rows.every(row => row.entropy)
      ? rows.reduce((sum, row) => sum + row.entropy![headIndex]!, 0) / rows.length
      : null,
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
    return new Map([...groupBy(rows, r => r.modelId)].map(([modelId, own]) => [modelId, own.map(toScore)]))
  })

const toScore = (row: ModelEvaluation): CapabilityScore => ({
  loss: row.loss,
  perplexity: row.perplexity,
  accuracy: row.accuracy,
  sampleCount: row.sampleCount,
  interval: row.lossInterval,
  split: row.split === 'probe' ? 'PROBE' : 'VALIDATION',
  measuredAt: row.createdAt,
  slug: row.slug,
  probeDatasetRowId: row.probeDatasetId,
})

/** A capability's newest measurement of every model that was not deleted, by slug; the best of each split first. */
export const modelScoresOf = (context: RequestContext) =>
  loader<string, ModelCapabilityScore[]>(context, 'taxonomy.modelScores', async slugs => {
    const { read } = context.platform.db
    const newest = await read
      .createQueryBuilder(ModelEvaluation, 'e')
      .innerJoin(ModelAtom, 'm', 'm.id = e.modelId AND m.deletedAt IS NULL')
      .select('MAX(e.id)', 'id')
      .where({ ...scoped(context.tenantId), slug: anyOf(slugs) })
      .groupBy('e.modelId')
      .addGroupBy('e.slug')
      .addGroupBy('e.split')
      .getRawMany<{ id: string }>()
    const rows = await read.find(ModelEvaluation, {
      where: { ...scoped(context.tenantId), id: anyOf(newest.map(n => n.id)) },
      order: { split: 'ASC', loss: 'ASC' },
    })
    return new Map(
      [...groupBy(rows, r => r.slug)].map(([slug, own]) => [
        slug,
        own.map(row => Object.assign(new ModelCapabilityScore(), { score: toScore(row), modelRowId: row.modelId })),
      ]),
    )
  })
