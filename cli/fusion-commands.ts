// Commands that fuse a model's graph and give the model back.
import { documents } from './documents.js'
import { findModel } from './find.js'
import { probeSetId } from './model-commands.js'
import { print, printJson, runJob } from './run-job.js'
import type { Session } from './session.js'
import { showFused } from './show-result.js'

export interface FuseOptions {
  threshold: number
  together?: boolean
  only?: string[]
  tolerance: number
  rounds: number
  probes?: string
  name?: string
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
  showFused(session, await runJob(session, documents.fuseLayers, input, 'fuse'), model.name)
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
