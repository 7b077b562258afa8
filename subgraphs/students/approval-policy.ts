// What may be approved without a person: a tenant's policy applied to one proposal.
import type { PolicyCheckValue } from '../../db/entities/index.js'

export interface Policy {
  enabled: boolean
  /** Lowest estimated quality that is approved; null: any, also unmeasured. */
  minimumQuality: number | null
  /** Largest student that is approved; null: any. */
  maximumParameters: number | null
  /** Capabilities whose recipes are approved; null: all. */
  capabilities: readonly string[] | null
  /** Most device seconds that building and measuring may take; null: any. */
  maximumCostSeconds: number | null
}

export interface PolicyDecision {
  approved: boolean
  /** Every comparison made, for the recipe's `decision`. */
  reason: string
  checks: PolicyCheckValue[]
}

/** What a policy looks at; null where it is not known. */
export interface JudgedRecipe {
  estimatedQuality: number | null
  estimatedParameterCount: number
  /** Those it is made for; null: all. */
  capabilities: readonly string[] | null
  estimatedCostSeconds: number | null
}

const count = (n: number) => n.toLocaleString('en-US')
const share = (n: number) => String(Number(n.toFixed(4)))
const seconds = (n: number) => `${Number(n.toPrecision(3))} s`

/** The policy's decision on a recipe, or null where there is no policy or it is switched off. */
export function applyPolicy(policy: Policy | null, recipe: JudgedRecipe): PolicyDecision | null {
  if (!policy?.enabled) return null
  const checks: PolicyCheckValue[] = []
  const { minimumQuality, maximumParameters, maximumCostSeconds } = policy
  const { estimatedQuality: quality, estimatedParameterCount: parameters, estimatedCostSeconds: cost } = recipe
  if (minimumQuality !== null) {
    const met = quality !== null && quality >= minimumQuality
    const text =
      quality === null
        ? `quality not measured, at least ${share(minimumQuality)} wanted`
        : `quality ${share(quality)} ${met ? '≥' : '<'} ${share(minimumQuality)}`
    checks.push({ limit: 'QUALITY', met, text })
  }
  if (maximumParameters !== null) {
    const met = parameters <= maximumParameters
    const text = `${count(parameters)} parameters ${met ? '≤' : '>'} ${count(maximumParameters)}`
    checks.push({ limit: 'SIZE', met, text })
  }
  if (policy.capabilities !== null) {
    const others = recipe.capabilities?.filter(slug => !policy.capabilities!.includes(slug))
    const met = others?.length === 0
    const allowed = policy.capabilities.join(', ')
    const text = met
      ? `made for ${recipe.capabilities!.join(', ')}`
      : `made for ${others ? others.join(', ') : 'all capabilities'}, only ${allowed} wanted`
    checks.push({ limit: 'CAPABILITY', met, text })
  }
  if (maximumCostSeconds !== null) {
    const met = cost !== null && cost <= maximumCostSeconds
    const text =
      cost === null
        ? `cost not known, at most ${seconds(maximumCostSeconds)} wanted`
        : `cost ${seconds(cost)} ${met ? '≤' : '>'} ${seconds(maximumCostSeconds)}`
    checks.push({ limit: 'COST', met, text })
  }
  const approved = checks.every(c => c.met)
  const texts = checks.map(c => c.text).join(', ') || 'no limits set'
  return { approved, reason: `${approved ? 'Approved by policy' : 'Left to a person by policy'}: ${texts}`, checks }
}
