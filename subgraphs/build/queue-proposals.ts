// Queues a search for students: asked for by a mutation, or by the policy when an analysis has finished.
import type { EntityManager } from 'typeorm'
import { z } from 'zod'
import type { HeadImportanceOutput, LayerAnalysisOutput, MixtureValue } from '../../compute/pool/job-types.js'
import {
  CapabilityAnalysis,
  type Job,
  type ModelAtom,
  ModelHeadImportance,
  ModelLayerCapability,
  ProbeDataset,
} from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { enqueue } from './enqueue.js'
import { runnableManifest } from './live-model.js'
import { groupBy } from './loader.js'
import type { Platform } from './platform.js'
import { checkCapabilities, samplesByCapability } from './probe-dataset.js'

/** What the search's owner needs when it ends. */
export const proposalContext = z.object({ probeDatasetId: z.string() })

export interface WantedProposals {
  /** Row id of the probe set whose newest analysis is used; absent: the newest of all. */
  probeDatasetId?: string | null
  capabilities?: readonly string[] | null
  mixtures?: readonly MixtureValue[] | null
  maximumParameters?: number | null
  samplesPerCapability?: number | null
  budgetSeconds?: number | null
  budgetTokens?: number | null
  correctCuts?: boolean | null
}

/** What a search with a budget looks for besides single capabilities, where nobody says otherwise. */
const generalMixture = 'general'

/**
 * Within a transaction; nothing is written where it throws.
 * @throws CONFLICT (not analysed yet), NOT_FOUND (capability), INVALID_PROBE_DATASET (no validation samples), UNSUPPORTED_ARCHITECTURE,
 *   NO_TOKENIZER
 */
export async function queueProposals(
  em: EntityManager,
  platform: Platform,
  model: ModelAtom,
  wanted: WantedProposals,
): Promise<Job> {
  await runnableManifest(platform.payloads, model)
  const { tenantId } = model
  const analysis = await findAnalysis(em, tenantId, model, wanted.probeDatasetId)
  const layers = await readLayers(em, analysis)
  const measured = measuredCapabilities(layers)
  const missing = 'the analysis did not measure'
  const mixtures = [...(wanted.mixtures ?? [])]
  for (const { weights } of mixtures)
    checkCapabilities(
      weights.map(w => w.capability),
      measured,
      missing,
      ['input', 'mixtures'],
    )
  const budgeted = wanted.budgetSeconds != null || wanted.budgetTokens != null
  const all = wanted.capabilities == null && mixtures.length === 0
  if (all && budgeted && measured.length > 1)
    mixtures.push({ name: generalMixture, weights: measured.map(capability => ({ capability, weight: 1 })) })
  // Mixtures alone are meant where only they are named.
  const capabilities = all ? null : (checkCapabilities(wanted.capabilities, measured, missing) ?? [])
  const probeSet = await em.findOneByOrFail(ProbeDataset, { ...scoped(tenantId), id: analysis.probeDatasetId })
  const shown = new Set([...(capabilities ?? measured), ...mixtures.flatMap(m => m.weights.map(w => w.capability))])
  await checkValidation(em, probeSet, [...shown])
  // A budget says how many samples are used; the short search uses as many as the analysis.
  const samplesPerCapability = wanted.samplesPerCapability ?? (budgeted ? null : analysis.samplesPerCapability)
  return enqueue(em, platform, {
    tenantId,
    type: 'students.propose',
    modelId: model.id,
    input: {
      manifest: model.manifestHash,
      probeSet: probeSet.probeSetHash,
      maxTokens: 256,
      modelName: model.name,
      layers,
      // Only a search with a budget looks at heads.
      ...(budgeted ? { heads: await readHeads(em, analysis) } : {}),
      ...(samplesPerCapability === null ? {} : { samplesPerCapability }),
      ...(capabilities === null ? {} : { capabilities }),
      ...(mixtures.length === 0 ? {} : { mixtures }),
      ...(wanted.maximumParameters == null ? {} : { maximumParameters: wanted.maximumParameters }),
      ...(wanted.budgetSeconds == null ? {} : { budgetSeconds: wanted.budgetSeconds }),
      ...(wanted.budgetTokens == null ? {} : { budgetTokens: wanted.budgetTokens }),
      ...(wanted.correctCuts ? { correctCuts: true } : {}),
    },
    context: { probeDatasetId: probeSet.id } satisfies z.infer<typeof proposalContext>,
  })
}

async function findAnalysis(
  em: EntityManager,
  tenantId: string,
  model: { id: string; name: string },
  setId: string | null | undefined,
): Promise<CapabilityAnalysis> {
  const analysis = await em.findOne(CapabilityAnalysis, {
    where: { ...scoped(tenantId), modelId: model.id, ...(setId ? { probeDatasetId: setId } : {}) },
    order: { id: 'DESC' },
  })
  if (!analysis)
    throw new DomainError(
      'CONFLICT',
      `Model "${model.name}" has no finished analysis${setId ? ' on this probe set' : ''}: run analyzeModel first`,
      { field: ['input', setId ? 'probeDatasetId' : 'modelId'] },
    )
  return analysis
}

/** The analysis as the worker that measured it reported it. */
async function readLayers(em: EntityManager, analysis: CapabilityAnalysis): Promise<LayerAnalysisOutput[]> {
  const cells = await em.find(ModelLayerCapability, {
    where: { ...scoped(analysis.tenantId), analysisId: analysis.id },
    order: { id: 'ASC' },
  })
  const byLayer = groupBy(cells, c => c.layerIndex)
  return analysis.layers.map(layer => ({
    ...layer,
    capabilities: (byLayer.get(layer.layerIndex) ?? []).map(c => ({
      capability: c.slug,
      blockInfluence: c.blockInfluence,
      lossIncrease: c.lossIncrease,
      score: c.capabilityScore,
    })),
  }))
}

/** Heads in the same form, without what only people look at. */
async function readHeads(em: EntityManager, analysis: CapabilityAnalysis): Promise<HeadImportanceOutput[]> {
  const rows = await em.find(ModelHeadImportance, {
    where: { ...scoped(analysis.tenantId), analysisId: analysis.id },
    order: { layerIndex: 'ASC' },
  })
  return [...groupBy(rows, row => row.slug)].map(([capability, layers]) => ({
    capability,
    keyValueHeadCount: Math.max(...layers.map(layer => layer.keyValueHeadCount)),
    keyValueHeadCounts: layers.map(layer => layer.keyValueHeadCount),
    layers: layers.map(layer => layer.importance),
  }))
}

const measuredCapabilities = (layers: readonly LayerAnalysisOutput[]) => [
  ...new Set(layers.flatMap(l => l.capabilities.map(c => c.capability))),
]

/** Proposals are judged on samples that the search does not see. */
async function checkValidation(em: EntityManager, set: ProbeDataset, capabilities: readonly string[]) {
  const samples = await samplesByCapability(em, set.tenantId, set.id)
  const lacking = capabilities.filter(slug => !samples.get(slug)?.validation)
  if (lacking.length > 0)
    throw new DomainError(
      'INVALID_PROBE_DATASET',
      `Probe set "${set.name}" has no validation samples of ${lacking.join(', ')}: proposals could not be judged`,
      { field: ['input', 'probeDatasetId'] },
    )
}
