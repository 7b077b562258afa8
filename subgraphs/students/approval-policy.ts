// What may be approved without a person: a tenant's policy applied to one proposal.

export interface Policy {
  enabled: boolean
  /** Lowest estimated quality that is approved; null: any, also unmeasured. */
  minimumQuality: number | null
  /** Largest student that is approved; null: any. */
  maximumParameters: number | null
}

export interface PolicyDecision {
  approved: boolean
  /** Every comparison made, for the recipe's `decision`. */
  reason: string
}

const count = (n: number) => n.toLocaleString('en-US')
const share = (n: number) => String(Number(n.toFixed(4)))

/** The policy's decision on a recipe, or null where there is no policy or it is switched off. */
export function applyPolicy(
  policy: Policy | null,
  recipe: { estimatedQuality: number | null; estimatedParameterCount: number },
): PolicyDecision | null {
  if (!policy?.enabled) return null
  const checks: { met: boolean; text: string }[] = []
  const { minimumQuality, maximumParameters } = policy
  const { estimatedQuality: quality, estimatedParameterCount: parameters } = recipe
  if (minimumQuality !== null) {
    const met = quality !== null && quality >= minimumQuality
    const text =
      quality === null
        ? `quality not measured, at least ${share(minimumQuality)} wanted`
        : `quality ${share(quality)} ${met ? '≥' : '<'} ${share(minimumQuality)}`
    checks.push({ met, text })
  }
  if (maximumParameters !== null) {
    const met = parameters <= maximumParameters
    checks.push({ met, text: `${count(parameters)} parameters ${met ? '≤' : '>'} ${count(maximumParameters)}` })
  }
  const approved = checks.every(c => c.met)
  const texts = checks.map(c => c.text).join(', ') || 'no limits set'
  return { approved, reason: `${approved ? 'Approved by policy' : 'Left to a person by policy'}: ${texts}` }
}
