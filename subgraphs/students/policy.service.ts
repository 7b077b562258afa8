// The tenant's approval policy as a row.
import type { EntityManager } from 'typeorm'
import { ApprovalPolicy as PolicyRow } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import type { RequestContext } from '../build/platform.js'

export interface SetApprovalPolicy {
  enabled: boolean
  minimumQuality?: number | null
  maximumParameters?: number | bigint | null
}

/** Before it was ever set: everything waits for a person. */
const initialPolicy = { enabled: false, minimumQuality: null, maximumParameters: null, updatedAt: null }

export const findPolicy = (em: EntityManager, tenantId: string): Promise<PolicyRow | null> =>
  em.findOneBy(PolicyRow, scoped(tenantId))

export const currentPolicy = async ({ platform, tenantId }: RequestContext) =>
  (await findPolicy(platform.db.read, tenantId)) ?? initialPolicy

/**
 * Replaces the policy; recipes that wait already are not decided on again.
 * @throws BAD_USER_INPUT
 */
export async function setApprovalPolicy(
  { platform, tenantId }: RequestContext,
  input: SetApprovalPolicy,
): Promise<PolicyRow> {
  const { enabled, minimumQuality = null } = input
  const refuse = (field: string, message: string) => {
    throw new DomainError('BAD_USER_INPUT', `${field}: ${message}`, { field: ['input', field] })
  }
  if (minimumQuality !== null && !(minimumQuality > 0 && Number.isFinite(minimumQuality)))
    refuse('minimumQuality', `${minimumQuality}, expected a number above 0`)
  const maximumParameters = checkParameterLimit(input.maximumParameters)
  const row: PolicyRow = { tenantId, enabled, minimumQuality, maximumParameters, updatedAt: new Date() }
  return platform.db.tx(async em => {
    const { tenantId: _key, ...changes } = row
    const { affected } = await em.update(PolicyRow, scoped(tenantId), changes)
    if (!affected) await em.insert(PolicyRow, row)
    return row
  })
}

/**
 * A largest number of parameters as people give it.
 * @throws BAD_USER_INPUT where it is below 1 or beyond 2^53
 */
export function checkParameterLimit(value: number | bigint | null | undefined): number | null {
  if (value == null) return null
  if (value < 1 || value > Number.MAX_SAFE_INTEGER)
    throw new DomainError('BAD_USER_INPUT', `maximumParameters: ${value}, expected 1 to ${Number.MAX_SAFE_INTEGER}`, {
      field: ['input', 'maximumParameters'],
    })
  return Number(value)
}
