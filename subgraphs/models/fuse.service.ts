// Fusing: a job, the model that may come of it, and the way back.

import type { JobOutput } from '../../compute/pool/job-types.js'
import { ModelAtom } from '../../db/entities/index.js'
import { addModelEvent, modelOfManifest, registerModel } from '../../db/models.js'
import { DomainError } from '../../lib/errors.js'
import { fusionSchema } from '../../lib/fusion.js'
import { checkOptions } from '../build/check-options.js'
import { checkText } from '../build/check-text.js'
import { liveModel } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { readManifest } from '../build/read-manifest.js'
import { claimDerived, parentOf, queueDerived, registerDerived } from './derived-model.js'
import type { FuseLayersInput, UnfuseModelInput } from './fuse.inputs.js'

/**
 * Queues the job; returns its row id.
 * @throws NOT_FOUND (model, probe set), BAD_USER_INPUT naming the option, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function fuseLayers(context: RequestContext, input: FuseLayersInput): Promise<string> {
  const { modelId: _of, probeDatasetId: _with, name: _as, idempotencyKey: _once, ...given } = input
  const options = checkOptions(fusionSchema, given, 'BAD_USER_INPUT', [])
  return queueDerived(context, 'fuseLayers', 'model.fuse', input, 'fused', (manifest, probeSet) => ({
    manifest,
    options,
    probeSet,
  }))
}

/** One line for a model's history: what was applied, or the best of what was not. */
export function describeFusion({ applied, rows, check }: Pick<JobOutput<'model.fuse'>, 'applied' | 'rows' | 'check'>) {
  const factor = (row: (typeof rows)[number]) =>
    `${row.fusion} ${row.speedup?.toFixed(2)} in ${row.mode === 'STEP' ? 'decoding' : 'prompts'}`
  if (applied.length > 0) {
    const own = rows.filter(row => row.state === 'APPLIED').map(factor)
    return `Fused: ${own.join(', ')}; largest move of a logit ${check?.largestDeviation.toExponential(1)} of the greatest`
  }
  const timed = rows.filter(row => row.state !== 'BUILT_IN' && row.speedup !== undefined)
  const best = timed.toSorted((a, b) => b.speedup! - a.speedup!)[0]
  const why = rows.find(row => row.state === 'OUTPUTS_DIFFER')?.reason ?? 'none reached the threshold'
  return `Fusions timed, none applied: ${why}${best ? ` (best: ${factor(best)})` : ''}`
}

export const fuseEffect: JobEffect<'model.fuse'> = {
  claim: claimDerived,
  async succeeded(em, job, output, platform) {
    const parent = await parentOf(em, job)
    const description = describeFusion(output)
    if (output.applied.length === 0)
      await addModelEvent(em, {
        tenantId: job.tenantId,
        modelId: parent.id,
        kind: 'FUSED',
        description,
        jobId: job.id,
      })
    else
      await registerDerived(em, platform, job, parent, {
        manifest: output.manifest,
        objective: `${parent.name} with fewer, larger steps`,
        description,
      })
  },
}

/**
 * The model that a fused one was before; its row.
 * @throws NOT_FOUND, CONFLICT where it was not fused, or what it was is gone, BAD_USER_INPUT (name)
 */
export async function unfuseModel({ platform, tenantId }: RequestContext, input: UnfuseModelInput): Promise<ModelAtom> {
  const name = checkText(input.name, 200, 'name')
  const conflict = (message: string) => new DomainError('CONFLICT', message, { field: ['input', 'modelId'] })
  return platform.db.tx(async em => {
    const model = await liveModel(em, tenantId, input.modelId)
    const { fusedFrom } = await readManifest(platform.payloads, model.manifestHash)
    if (!fusedFrom) throw conflict(`Model "${model.name}" was not fused: there is nothing to undo`)
    const known = await modelOfManifest(em, tenantId, fusedFrom)
    if (known) return known
    if (!(await platform.payloads.has(fusedFrom)))
      throw conflict(`What "${model.name}" was before it was fused (manifest ${fusedFrom.slice(0, 12)}) is gone`)
    return registerModel(em, {
      tenantId,
      manifest: await readManifest(platform.payloads, fusedFrom),
      manifestHash: fusedFrom,
      name: name ?? `${model.name} unfused`.slice(0, 200),
      source: null,
      parentModelId: model.id,
      isStudent: true,
      objective: `${model.name} as it was before it was fused`,
      jobId: null,
      description: `Given back as it was before "${model.name}" was fused`,
    })
  })
}
