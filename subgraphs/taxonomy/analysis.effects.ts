// What a finished analysis writes: itself with its layers and heads, scores, the capabilities it found, and a line in the model's history.
import type { EntityManager } from 'typeorm'
import type { CapabilityScoreOutput, JobOutput } from '../../compute/pool/job-types.js'
import {
  CapabilityAnalysis as AnalysisRow,
  ModelEvaluation,
  ModelHeadImportance,
  ModelLayerCapability,
} from '../../db/entities/index.js'
import { addModelEvent, aliveModel } from '../../db/models.js'
import { newId } from '../../lib/ids.js'
import type { JobEffect } from '../build/platform.js'
import { afterAnalysis } from '../build/policy-steps.js'
import { analysisContext } from '../build/queue-analysis.js'
import { recordDiscoveries } from './discovery.service.js'
import { ensureCapabilities } from './taxonomy.service.js'

export const analyzeEffect: JobEffect<'capability.analyze'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
  async succeeded(em, job, output, platform) {
    const { tenantId } = job
    const model = await aliveModel(em, tenantId, job.modelId!)
    const { probeDatasetId, samplesPerCapability } = analysisContext.parse(job.context)
    const createdAt = new Date()
    const named = [...output.baseline, ...output.layers.flatMap(l => l.capabilities), ...(output.subcapabilities ?? [])]
    const slugs = named.map(c => c.capability)
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
      layers: output.layers.map(
        ({ layerIndex, blockInfluence, activationNorm, angularDistances = [], activation }) => ({
          layerIndex,
          blockInfluence,
          activationNorm,
          angularDistances,
          ...(activation && { activation }),
        }),
      ),
      clusters: output.clusters ?? null,
      maskedGroups: output.groups ?? null,
      droppedSamples: output.dropped ?? null,
      centroidsHash: output.centroids ?? null,
      createdAt,
    })
    const cells = output.layers.flatMap(({ layerIndex, capabilities }) =>
      capabilities.map(({ capability, blockInfluence, lossIncrease, score, activation = null }) => ({
        id: newId(),
        tenantId,
        analysisId,
        modelId: model.id,
        layerIndex,
        slug: capability,
        capabilityScore: score,
        lossIncrease,
        blockInfluence,
        activation,
      })),
    )
    // SQL Server takes at most 2,100 parameters per statement, a row has ten.
    for (let i = 0; i < cells.length; i += 200) await em.insert(ModelLayerCapability, cells.slice(i, i + 200))
    await insertHeads(em, { tenantId, analysisId, modelId: model.id }, output.heads ?? [])
    const discoveries = output.discoveries ?? []
    const nodes = await recordDiscoveries(em, tenantId, model.id, discoveries)
    const found = discoveries.flatMap(({ score }, i) => (nodes[i] ? [{ ...score, capability: nodes[i] }] : []))
    await insertEvaluations(em, { tenantId, modelId: model.id, probeDatasetId, jobId: job.id, createdAt }, [
      ...output.baseline,
      ...(output.subcapabilities ?? []),
      ...found,
    ])
    await addModelEvent(em, {
      tenantId,
      modelId: model.id,
      kind: 'ANALYZED',
      description: `${output.layers.length} layers on ${output.baseline.length} capabilities`,
      jobId: job.id,
    })
    await afterAnalysis(em, platform, model, probeDatasetId)
  },
}

async function insertHeads(
  em: EntityManager,
  shared: Pick<ModelHeadImportance, 'tenantId' | 'analysisId' | 'modelId'>,
  heads: NonNullable<JobOutput<'capability.analyze'>['heads']>,
) {
  const rows = heads.flatMap(({ capability, keyValueHeadCount, keyValueHeadCounts, layers, entropy }) =>
    layers.map((importance, layerIndex) => ({
      ...shared,
      id: newId(),
      layerIndex,
      slug: capability,
      keyValueHeadCount: keyValueHeadCounts?.[layerIndex] ?? keyValueHeadCount,
      importance,
      entropy: entropy?.[layerIndex] ?? null,
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
  for (let i = 0; i < rows.length; i += 150) await em.insert(ModelEvaluation, rows.slice(i, i + 150))
}
