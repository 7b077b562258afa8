// Proposals: a search that starts from the newest analysis, queued as a job; its finds become recipes, some approved by policy.
import { type EntityManager, In } from 'typeorm'
import { z } from 'zod'
import type { LayerAnalysisOutput } from '../../compute/pool/job-types.js'
import { CapabilityAnalysis, ModelLayerCapability, ProbeDataset, StudentModelRecipe } from '../../db/entities/index.js'
import { aliveModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId, newId } from '../../lib/ids.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import { groupBy } from '../build/loader.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { checkCapabilities, checkSamplesPerCapability, samplesByCapability } from '../build/probe-dataset.js'
import { applyPolicy } from './approval-policy.js'
import { checkParameterLimit, findPolicy } from './policy.service.js'
import { checkLayers, layersKey } from './recipe-layers.js'

export interface ProposeStudents {
  modelId: string
  capabilities?: string[] | null
  maximumParameters?: number | bigint | null
  samplesPerCapability?: number | null
  budgetSeconds?: number | null
  probeDatasetId?: string | null
  idempotencyKey?: string | null
}

/** A day, in seconds. */
const longestSearch = 86_400

const proposalContext = z.object({ probeDatasetId: z.string() })

/**
 * Queues a search for students; returns the job's row id.
 * @throws NOT_FOUND (model, probe set, capability), CONFLICT (not analysed yet), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, BAD_USER_INPUT
 */
export async function proposeStudents({ platform, tenantId }: RequestContext, input: ProposeStudents): Promise<string> {
  const maximumParameters = checkParameterLimit(input.maximumParameters)
  const samples = checkSamplesPerCapability(input.samplesPerCapability)
  const budgetSeconds = input.budgetSeconds ?? null
  if (budgetSeconds !== null && !(budgetSeconds >= 1 && budgetSeconds <= longestSearch))
    throw new DomainError('BAD_USER_INPUT', `budgetSeconds: ${budgetSeconds}, expected 1 to ${longestSearch}`, {
      field: ['input', 'budgetSeconds'],
    })
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'proposeStudents', input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const analysis = await findAnalysis(em, tenantId, model, input.probeDatasetId)
      const layers = await readLayers(em, analysis)
      const measured = measuredCapabilities(layers)
      const capabilities = checkCapabilities(input.capabilities, measured, 'the analysis did not measure')
      const probeSet = await em.findOneByOrFail(ProbeDataset, { ...scoped(tenantId), id: analysis.probeDatasetId })
      await checkValidation(em, probeSet, capabilities ?? measured)
      const samplesPerCapability = samples ?? analysis.samplesPerCapability
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'students.propose',
        modelId: model.id,
        input: {
          manifest: model.manifestHash,
          probeSet: probeSet.probeSetHash,
          maxTokens: 256,
          modelName: model.name,
          layers,
          ...(samplesPerCapability === null ? {} : { samplesPerCapability }),
          ...(capabilities === null ? {} : { capabilities }),
          ...(maximumParameters === null ? {} : { maximumParameters }),
          ...(budgetSeconds === null ? {} : { budgetSeconds }),
        },
        context: { probeDatasetId: probeSet.id } satisfies z.infer<typeof proposalContext>,
      })
      return { jobId: job.id }
    })
    return jobId
  })
}

async function findAnalysis(
  em: EntityManager,
  tenantId: string,
  model: { id: string; name: string },
  probeDatasetId: string | null | undefined,
): Promise<CapabilityAnalysis> {
  const setId = probeDatasetId ? fromGlobalId('ProbeDataset', probeDatasetId, ['input', 'probeDatasetId']) : null
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

export const proposeEffect: JobEffect<'students.propose'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
  async succeeded(em, job, output) {
    const { tenantId } = job
    const parent = await aliveModel(em, tenantId, job.modelId!)
    const { probeDatasetId } = proposalContext.parse(job.context)
    const policy = await findPolicy(em, tenantId)
    const open = await em.findBy(StudentModelRecipe, {
      ...scoped(tenantId),
      parentModelId: parent.id,
      status: In(['PROPOSED', 'APPROVED']),
    })
    const keyOf = (r: Pick<StudentModelRecipe, 'capability' | 'layers'>) => `${r.capability} ${layersKey(r.layers)}`
    const openByKey = new Map(open.map(r => [keyOf(r), r]))
    for (const proposed of output.proposals) {
      const { capability, name, objective, layers, parameterCount, quality, qualityInterval = null } = proposed
      checkLayers(layers, parent)
      const measured = {
        estimatedParameterCount: parameterCount,
        estimatedQuality: quality,
        estimatedQualityInterval: qualityInterval,
      }
      const decision = applyPolicy(policy, measured)
      const proposal = {
        ...measured,
        name,
        objective,
        layers,
        status: decision?.approved ? ('APPROVED' as const) : ('PROPOSED' as const),
        decision: decision?.reason ?? null,
      }
      const origin = { proposalJobId: job.id, probeDatasetId }
      // The same cut found again is the same recipe, with newer figures; what was approved stays so.
      const known = openByKey.get(keyOf({ capability, layers }))
      if (known) {
        const changes = { ...origin, ...(known.status === 'APPROVED' ? measured : proposal) }
        await em.update(StudentModelRecipe, { ...scoped(tenantId), id: known.id }, changes)
      } else
        await em.insert(StudentModelRecipe, {
          ...proposal,
          ...origin,
          id: newId(),
          tenantId,
          parentModelId: parent.id,
          capability,
          stages: null,
          measuredQuality: null,
          studentModelId: null,
          jobId: null,
          createdAt: new Date(),
          builtAt: null,
        })
    }
  },
}
