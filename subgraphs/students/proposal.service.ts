// Proposals: a search that starts from the newest analysis, queued as a job; its finds become recipes, some approved by policy.
import { isDeepStrictEqual } from 'node:util'
import { In } from 'typeorm'
import type { MixtureValue, ProposalOutput } from '../../compute/pool/job-types.js'
import { StudentModelRecipe } from '../../db/entities/index.js'
import { aliveModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { proposedStages } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId, newId } from '../../lib/ids.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { findPolicy } from '../build/policy-steps.js'
import { checkSamplesPerCapability } from '../build/probe-dataset.js'
import { proposalContext, queueProposals } from '../build/queue-proposals.js'
import { applyPolicy } from './approval-policy.js'
import { startBuild } from './build.service.js'
import { recordDecision } from './decisions.js'
import { checkLayers, layersKey } from './recipe-layers.js'
import { recipeNames, unusedName } from './recipe-names.js'
import { checkBudget, checkParameterLimit, longestSearch, mostTokens } from './search-limits.js'

export interface ProposeStudents {
  modelId: string
  capabilities?: string[] | null
  mixtures?: { name: string; weights: { capability: string; weight: number }[] }[] | null
  maximumParameters?: number | bigint | null
  samplesPerCapability?: number | null
  budgetSeconds?: number | null
  budgetTokens?: number | bigint | null
  correctCuts?: boolean | null
  probeDatasetId?: string | null
  idempotencyKey?: string | null
}

/**
 * Queues a search for students; returns the job's row id.
 * @throws NOT_FOUND (model, probe set, capability), CONFLICT (not analysed yet), UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, BAD_USER_INPUT
 */
export async function proposeStudents({ platform, tenantId }: RequestContext, input: ProposeStudents): Promise<string> {
  const wanted = {
    probeDatasetId: input.probeDatasetId
      ? fromGlobalId('ProbeDataset', input.probeDatasetId, ['input', 'probeDatasetId'])
      : null,
    capabilities: input.capabilities,
    mixtures: checkMixtures(input.mixtures),
    maximumParameters: checkParameterLimit(input.maximumParameters),
    samplesPerCapability: checkSamplesPerCapability(input.samplesPerCapability),
    budgetSeconds: checkBudget('budgetSeconds', input.budgetSeconds, longestSearch),
    budgetTokens: checkBudget('budgetTokens', input.budgetTokens, mostTokens),
    correctCuts: input.correctCuts,
  }
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'proposeStudents', input.idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      return { jobId: (await queueProposals(em, platform, model, wanted)).id }
    })
    return jobId
  })
}

/** More would be a search for everything; several a day are many. */
const mostMixtures = 20

/** @throws BAD_USER_INPUT naming the mixture */
function checkMixtures(mixtures: ProposeStudents['mixtures']): MixtureValue[] {
  const refuse = (message: string, ...at: (string | number)[]): never => {
    throw new DomainError('BAD_USER_INPUT', `mixtures: ${message}`, { field: ['input', 'mixtures', ...at.map(String)] })
  }
  if (mixtures && (mixtures.length < 1 || mixtures.length > mostMixtures))
    refuse(`${mixtures.length}, expected 1 to ${mostMixtures}; leave it out for none`)
  const names = new Set<string>()
  return (mixtures ?? []).map(({ name, weights }, i) => {
    if (!/^[a-z0-9]+(?:[_-][a-z0-9]+)*$/.test(name) || name.length > 64)
      refuse(`"${name.slice(0, 80)}" is no name: 1 to 64 of a-z, 0-9, _ and -`, i, 'name')
    if (names.has(name)) refuse(`two are called "${name}"`, i, 'name')
    names.add(name)
    const slugs = new Set(weights.map(w => w.capability))
    if (weights.length < 2)
      refuse(`${name} has ${weights.length} capabilities, at least 2 make a mixture`, i, 'weights')
    if (slugs.size < weights.length) refuse(`${name} names a capability twice`, i, 'weights')
    for (const { capability, weight } of weights)
      if (!(weight > 0 && Number.isFinite(weight)))
        refuse(`${name}: the weight of ${capability} is ${weight}, expected a number above 0`, i, 'weights')
    return { name, weights: weights.map(({ capability, weight }) => ({ capability, weight })) }
  })
}

/** The same aim and cut: the same recipe. */
const keyOf = (r: Pick<StudentModelRecipe, 'capability' | 'mixture' | 'layers' | 'stages'>) =>
  `${r.mixture ? `mixture ${r.mixture.name}` : r.capability} ${layersKey(r.layers)} ${r.stages ? JSON.stringify(r.stages) : ''}`

const toValues = (proposed: ProposalOutput) => ({
  capability: proposed.capability,
  mixture: proposed.mixture ?? null,
  stages: proposedStages(proposed),
  estimatedParameterCount: proposed.parameterCount,
  estimatedQuality: proposed.quality,
  estimatedQualityInterval: proposed.qualityInterval ?? null,
  validationSamples: proposed.validationSamples ?? null,
  estimatedSizeBytes: proposed.sizeBytes ?? null,
  estimatedTokensPerSecond: proposed.tokensPerSecond ?? null,
  estimatedCostSeconds: proposed.costSeconds ?? null,
})

/** Whether what is known of the recipe was measured on more samples, of the same set and with the same weights. */
const isBetterFounded = (
  known: StudentModelRecipe,
  found: ReturnType<typeof toValues>,
  probeDatasetId: string | null,
): boolean =>
  (known.validationSamples ?? 0) > (found.validationSamples ?? 0) &&
  known.probeDatasetId === probeDatasetId &&
  isDeepStrictEqual(known.mixture, found.mixture)

/** What was measured of a recipe, as it stands, and the words about it. */
const figuresOf = ({
  objective,
  estimatedQuality,
  estimatedQualityInterval,
  validationSamples,
}: StudentModelRecipe) => ({ objective, figures: { estimatedQuality, estimatedQualityInterval, validationSamples } })

export const proposeEffect: JobEffect<'students.propose'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
  async succeeded(em, job, output, platform) {
    const { tenantId } = job
    const parent = await aliveModel(em, tenantId, job.modelId!)
    const { probeDatasetId } = proposalContext.parse(job.context)
    const policy = await findPolicy(em, tenantId)
    const open = await em.findBy(StudentModelRecipe, {
      ...scoped(tenantId),
      parentModelId: parent.id,
      status: In(['PROPOSED', 'APPROVED']),
    })
    const openByKey = new Map(open.map(r => [keyOf(r), r]))
    const names = await recipeNames(em, tenantId, parent.id)
    for (const proposed of output.proposals) {
      const { layers } = proposed
      checkLayers(layers, parent)
      const found = toValues(proposed)
      const known = openByKey.get(keyOf({ ...found, layers }))
      // The same cut found again is the same recipe, with the figures that rest on more samples of the same kind, of two on as many the newer ones; what was approved stays so.
      const kept = known && isBetterFounded(known, found, probeDatasetId) ? figuresOf(known) : undefined
      const measured = { ...found, ...kept?.figures }
      const name = known?.name ?? unusedName(proposed.name, names)
      names.add(name)
      const capabilities = measured.mixture?.weights.map(w => w.capability) ?? [measured.capability!]
      const decision = applyPolicy(policy, { ...measured, capabilities })
      const proposal = {
        ...measured,
        name,
        objective: kept?.objective ?? proposed.objective,
        layers,
        status: decision?.approved ? ('APPROVED' as const) : ('PROPOSED' as const),
        decision: decision?.reason ?? null,
      }
      const origin = { proposalJobId: job.id, probeDatasetId }
      const approvedBefore = known?.status === 'APPROVED'
      const id = known?.id ?? newId()
      if (known) {
        const changes = { ...origin, ...(approvedBefore ? measured : proposal) }
        await em.update(StudentModelRecipe, { ...scoped(tenantId), id }, changes)
      } else
        await em.insert(StudentModelRecipe, {
          ...proposal,
          ...origin,
          id,
          tenantId,
          parentModelId: parent.id,
          measuredQuality: null,
          studentModelId: null,
          jobId: null,
          createdAt: new Date(),
          builtAt: null,
        })
      if (!decision || !policy || approvedBefore) continue
      const { version: policyVersion } = policy
      const outcome = decision.approved ? 'APPROVED' : 'LEFT'
      await recordDecision(em, { id, tenantId }, outcome, decision.reason, { policyVersion, checks: decision.checks })
      if (decision.approved && policy.buildOnApproval)
        await startBuild(em, platform, await em.findOneByOrFail(StudentModelRecipe, { ...scoped(tenantId), id }))
    }
  },
}
