// Commands that fuse a model's graph and give the model back.
import { table } from '../lib/client/tables.js'
import { documents } from './documents.js'
import { findModel } from './find.js'
import { probeSetId } from './model-commands.js'
import type { FusionResult } from './results.js'
import { print, printJson, runJob } from './run-job.js'
import type { Session } from './session.js'

export interface FuseOptions {
  threshold: number
  together?: boolean
  only?: string[]
  tolerance: number
  rounds: number
  probes?: string
  name?: string
}

const stateTexts: Record<string, string> = {
  BUILT_IN: 'always done',
  APPLIED: 'applied',
  BELOW_THRESHOLD: 'below the threshold',
  OUTPUTS_DIFFER: 'outputs differ',
  NOT_APPLICABLE: 'nothing to fuse',
}

/** A table of what was timed, and how far outputs moved. */
export function fusionText({ rows, check }: FusionResult): string {
  const lines = rows.map(row => [
    row.fusion,
    row.mode === 'STEP' ? 'token' : 'prompt',
    String(row.sites),
    row.speedup === undefined ? '–' : row.speedup.toFixed(3),
    row.lower === undefined ? '–' : `${row.lower.toFixed(3)} … ${row.upper?.toFixed(3)}`,
    row.milliseconds === undefined ? '–' : row.milliseconds.toFixed(2),
    `${stateTexts[row.state] ?? row.state}${row.reason ? `: ${row.reason}` : ''}`,
  ])
  const head = ['fusion', 'of a', 'places', 'times as fast', 'quartiles', 'ms with it', '']
  const compared = check
    ? `\nOutputs at ${check.positions} positions: the same likeliest token at ${(100 * check.agreement).toFixed(1)} %, largest move of a logit ${check.largestDeviation.toExponential(1)} of the greatest.`
    : ''
  return `${table(head, lines)}${compared}`
}

export async function fuse(session: Session, reference: string, o: FuseOptions) {
  const model = await findModel(session, reference)
  const input = {
    modelId: model.id,
    threshold: o.threshold,
    together: o.together === true,
    only: o.only?.map(name => name.toUpperCase().replaceAll('-', '_')),
    tolerance: o.tolerance,
    rounds: o.rounds,
    probeDatasetId: await probeSetId(session, o.probes),
    name: o.name,
  }
  const job = await runJob(session, documents.fuseLayers, input, 'fuse')
  const result = job.output as unknown as FusionResult
  if (session.json) return printJson({ model: job.model, ...result })
  print(fusionText(result))
  if (result.applied.length === 0) return print(`Nothing was applied; ${model.name} is as it was.`)
  print(`${job.model?.name}: ${result.applied.join(', ')}. \`hartonomous unfuse\` gives the model before back.`)
  print(`id ${job.model?.id}`)
}

export async function unfuse(session: Session, reference: string, o: { name?: string }) {
  const fused = await findModel(session, reference)
  const { model } = await session.client.mutate<{ model: { id: string; name: string } }>(documents.unfuseModel, {
    modelId: fused.id,
    name: o.name,
  })
  if (session.json) return printJson(model)
  print(`${model.name} is ${fused.name} as it was before it was fused.`)
  print(`id ${model.id}`)
}
