// Commands about the policy: what is approved without a person, and what follows by itself from what.
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { print, printJson } from './run-job.js'
import type { Session } from './session.js'

interface Policy {
  version: number
  enabled: boolean
  minimumQuality: number | null
  maximumParameters: number | null
  capabilities: string[] | null
  maximumCostSeconds: number | null
  analyzeOnIngest: boolean
  samplesPerCapability: number | null
  proposeOnAnalysis: boolean
  budgetSeconds: number | null
  buildOnApproval: boolean
  updatedAt: string | null
}

export interface PolicyOptions {
  enabled?: boolean
  minimumQuality?: number
  maximumParameters?: number
  capability?: string[]
  anyCapability?: boolean
  maximumCost?: number
  analyzeOnIngest?: boolean
  samples?: number
  proposeOnAnalysis?: boolean
  budget?: number
  buildOnApproval?: boolean
}

const current = async (session: Session) =>
  (await session.client.query<{ approvalPolicy: Policy }>(documents.policy)).approvalPolicy

export async function showPolicy(session: Session) {
  show(session, await current(session))
}

/** What an option gives: 0 stands for no limit, an absent one leaves what was set. */
const limit = (given: number | undefined, before: number | null) => (given === undefined ? before : given || null)

export async function setPolicy(session: Session, o: PolicyOptions) {
  const { version: _version, updatedAt: _updatedAt, ...before } = await current(session)
  const { policy } = await session.client.mutate<{ policy: Policy }>(documents.setPolicy, {
    ...before,
    enabled: o.enabled ?? before.enabled,
    minimumQuality: limit(o.minimumQuality, before.minimumQuality),
    maximumParameters: limit(o.maximumParameters, before.maximumParameters),
    capabilities: o.anyCapability ? null : (o.capability ?? before.capabilities),
    maximumCostSeconds: limit(o.maximumCost, before.maximumCostSeconds),
    analyzeOnIngest: o.analyzeOnIngest ?? before.analyzeOnIngest,
    samplesPerCapability: limit(o.samples, before.samplesPerCapability),
    proposeOnAnalysis: o.proposeOnAnalysis ?? before.proposeOnAnalysis,
    budgetSeconds: limit(o.budget, before.budgetSeconds),
    buildOnApproval: o.buildOnApproval ?? before.buildOnApproval,
  })
  show(session, policy)
}

function show(session: Session, policy: Policy) {
  if (session.json) return printJson(policy)
  const limits = [
    policy.minimumQuality === null ? '' : `quality at least ${policy.minimumQuality}`,
    policy.maximumParameters === null ? '' : `at most ${quantity(Number(policy.maximumParameters))} parameters`,
    policy.capabilities === null ? '' : `made for ${policy.capabilities.join(', ')}`,
    policy.maximumCostSeconds === null
      ? ''
      : `at most ${policy.maximumCostSeconds} device seconds to build and measure`,
  ].filter(text => text !== '')
  print(
    policy.version === 0
      ? 'No policy was set yet: everything waits for a person.'
      : `Policy, version ${policy.version}`,
  )
  if (policy.enabled)
    print(`  Proposals are approved by themselves: ${limits.join('; ') || 'all of them, there is no limit'}.`)
  else print('  Proposals wait for a person.')
  const samples =
    policy.samplesPerCapability === null ? 'all samples' : `${policy.samplesPerCapability} samples per capability`
  const search = policy.budgetSeconds === null ? 'the short search' : `${policy.budgetSeconds} s`
  print(
    `  A finished ingest is ${policy.analyzeOnIngest ? `analysed by itself (${samples})` : 'not analysed by itself'}.`,
  )
  print(`  A finished analysis starts ${policy.proposeOnAnalysis ? `a search for students (${search})` : 'no search'}.`)
  print(`  What the policy approves is ${policy.buildOnApproval ? 'built at once' : 'not built by itself'}.`)
}
