// The tenant's approval policy as a row.
import type { EntityManager } from 'typeorm'
import { ApprovalPolicy as PolicyRow, StudentModelTaxonomy } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import type { RequestContext } from '../build/platform.js'
import { findPolicy } from '../build/policy-steps.js'
import { checkCapabilities, checkSamplesPerCapability } from '../build/probe-dataset.js'
import { checkBudget, checkParameterLimit, longestSearch } from './search-limits.js'

export interface SetApprovalPolicy {
  enabled: boolean
  minimumQuality?: number | null
  maximumParameters?: number | bigint | null
  capabilities?: string[] | null
  maximumCostSeconds?: number | null
  analyzeOnIngest?: boolean | null
  samplesPerCapability?: number | null
  proposeOnAnalysis?: boolean | null
  budgetSeconds?: number | null
  buildOnApproval?: boolean | null
}

/** Before it was ever set: everything waits for a person. */
const initialPolicy = {
  version: 0,
  enabled: false,
  minimumQuality: null,
  maximumParameters: null,
  capabilities: null,
  maximumCostSeconds: null,
  analyzeOnIngest: false,
  samplesPerCapability: null,
  proposeOnAnalysis: false,
  budgetSeconds: null,
  buildOnApproval: false,
  updatedAt: null,
}

export const currentPolicy = async ({ platform, tenantId }: RequestContext) =>
  (await findPolicy(platform.db.read, tenantId)) ?? initialPolicy

/**
 * Replaces the policy; recipes that wait already are not decided on again.
 * @throws BAD_USER_INPUT, NOT_FOUND (capability)
 */
export async function setApprovalPolicy(
  { platform, tenantId }: RequestContext,
  input: SetApprovalPolicy,
): Promise<PolicyRow> {
  const { enabled, minimumQuality = null, maximumCostSeconds = null } = input
  const above0 = (name: string, value: number | null) => {
    if (value !== null && !(value > 0 && Number.isFinite(value)))
      throw new DomainError('BAD_USER_INPUT', `${name}: ${value}, expected a number above 0`, {
        field: ['input', name],
      })
  }
  above0('minimumQuality', minimumQuality)
  above0('maximumCostSeconds', maximumCostSeconds)
  const settings = {
    enabled,
    minimumQuality,
    maximumCostSeconds,
    maximumParameters: checkParameterLimit(input.maximumParameters),
    analyzeOnIngest: input.analyzeOnIngest ?? false,
    samplesPerCapability: checkSamplesPerCapability(input.samplesPerCapability),
    proposeOnAnalysis: input.proposeOnAnalysis ?? false,
    budgetSeconds: checkBudget('budgetSeconds', input.budgetSeconds, longestSearch),
    buildOnApproval: input.buildOnApproval ?? false,
    updatedAt: new Date(),
  }
  return platform.db.tx(async em => {
    const capabilities = await checkSlugs(em, tenantId, input.capabilities)
    const known = await findPolicy(em, tenantId)
    const row: PolicyRow = { tenantId, version: (known?.version ?? 0) + 1, capabilities, ...settings }
    const { tenantId: _key, ...changes } = row
    if (known) await em.update(PolicyRow, scoped(tenantId), changes)
    else await em.insert(PolicyRow, row)
    return row
  })
}

/** Slugs of top-level capabilities that the taxonomy has. */
async function checkSlugs(em: EntityManager, tenantId: string, slugs: readonly string[] | null | undefined) {
  if (slugs == null) return null
  const rows = await em.findBy(StudentModelTaxonomy, { ...scoped(tenantId), capabilityLevel: 0 })
  return checkCapabilities(
    slugs,
    rows.map(row => row.slug),
    'the taxonomy has no top-level capability',
  )
}
