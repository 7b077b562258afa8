// Fusing: a job, the model that may come of it, and the way back.
import { z } from 'zod'
import type { JobOutput } from '../../compute/pool/job-types.js'
import { Job, ModelAtom } from '../../db/entities/index.js'
import { addModelEvent, aliveModel, modelOfManifest, registerModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fusionSchema } from '../../lib/fusion.js'
import { checkOptions } from '../build/check-options.js'
import { checkText } from '../build/check-text.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { chooseProbeDataset } from '../build/probe-dataset.js'
import type { FuseLayersInput, UnfuseModelInput } from './fuse.inputs.js'
import { readManifest } from './model.loaders.js'

const fuseContext = z.object({ name: z.string(), parentId: z.string() })

/**
 * Queues the job; returns its row id.
 * @throws NOT_FOUND (model, probe set), BAD_USER_INPUT naming the option, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function fuseLayers({ platform, tenantId }: RequestContext, input: FuseLayersInput): Promise<string> {
  const name = checkText(input.name, 200, 'name')
  const { modelId, probeDatasetId, name: _as, idempotencyKey, ...given } = input
  const options = checkOptions(fusionSchema, given, 'BAD_USER_INPUT', [])
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'fuseLayers', idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, modelId)
      const probes = await chooseProbeDataset(em, tenantId, probeDatasetId)
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'model.fuse',
        modelId: model.id,
        input: { manifest: model.manifestHash, options, probeSet: probes.probeSetHash },
        context: { name: name ?? `${model.name} fused`.slice(0, 200), parentId: model.id } satisfies z.infer<
          typeof fuseContext
        >,
      })
      return { jobId: job.id }
    })
    return jobId
  })
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
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, fuseContext.parse(job.context).parentId)
    return input
  },
  async succeeded(em, job, output, platform) {
    const { tenantId } = job
    const { name, parentId } = fuseContext.parse(job.context)
    const parent = await aliveModel(em, tenantId, parentId)
    const description = describeFusion(output)
    if (output.applied.length === 0) {
      await addModelEvent(em, { tenantId, modelId: parent.id, kind: 'FUSED', description, jobId: job.id })
      return
    }
    const { id: modelId } = await registerModel(em, {
      tenantId,
      manifest: await readManifest(platform, output.manifest),
      manifestHash: output.manifest,
      name,
      source: null,
      parentModelId: parent.id,
      isStudent: true,
      objective: `${parent.name} with fewer, larger steps`,
      jobId: job.id,
      description,
    })
    await em.update(Job, { ...scoped(tenantId), id: job.id }, { modelId })
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
    const { fusedFrom } = await readManifest(platform, model.manifestHash)
    if (!fusedFrom) throw conflict(`Model "${model.name}" was not fused: there is nothing to undo`)
    const known = await modelOfManifest(em, tenantId, fusedFrom)
    if (known) return known
    if (!(await platform.payloads.has(fusedFrom)))
      throw conflict(`What "${model.name}" was before it was fused (manifest ${fusedFrom.slice(0, 12)}) is gone`)
    return registerModel(em, {
      tenantId,
      manifest: await readManifest(platform, fusedFrom),
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
