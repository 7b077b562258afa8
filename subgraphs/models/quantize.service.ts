// Quantising: a job, and the model that comes of it.
import { z } from 'zod'
import { Job } from '../../db/entities/index.js'
import { aliveModel, registerModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { quantizationSchema } from '../../lib/quantization.js'
import { checkOptions } from '../build/check-options.js'
import { checkText } from '../build/check-text.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { checkSamplesPerCapability, chooseProbeDataset } from '../build/probe-dataset.js'
import { readManifest } from './model.loaders.js'
import type { QuantizeModelInput } from './quantize.inputs.js'

const quantizeContext = z.object({ name: z.string(), parentId: z.string() })

/** Validation samples per capability of the report, where the caller does not say. */
const usualSamples = 8

/**
 * Queues the job; returns its row id.
 * @throws NOT_FOUND (model, probe set), BAD_USER_INPUT naming the option, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function quantizeModel(
  { platform, tenantId }: RequestContext,
  input: QuantizeModelInput,
): Promise<string> {
  const samples = checkSamplesPerCapability(input.samplesPerCapability) ?? usualSamples
  const name = checkText(input.name, 200, 'name')
  const { modelId: _of, probeDatasetId: _with, samplesPerCapability: _on, name: _as, idempotencyKey, ...given } = input
  const options = checkOptions(quantizationSchema, given, 'BAD_USER_INPUT', [])
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, input.modelId))
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'quantizeModel', idempotencyKey, input, async () => {
      const model = await liveModel(em, tenantId, input.modelId)
      const probes = await chooseProbeDataset(em, tenantId, input.probeDatasetId)
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'model.quantize',
        modelId: model.id,
        input: {
          manifest: model.manifestHash,
          options,
          probeSet: probes.probeSetHash,
          samplesPerCapability: samples,
          maxTokens: 256,
        },
        context: { name: name ?? `${model.name} ${options.type}`.slice(0, 200), parentId: model.id } satisfies z.infer<
          typeof quantizeContext
        >,
      })
      return { jobId: job.id }
    })
    return jobId
  })
}

export const quantizeEffect: JobEffect<'model.quantize'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, quantizeContext.parse(job.context).parentId)
    return input
  },
  async succeeded(em, job, output, platform) {
    const { tenantId } = job
    const { name, parentId } = quantizeContext.parse(job.context)
    const parent = await aliveModel(em, tenantId, parentId)
    const { divergence, agreement, sizeBytes, referenceSizeBytes } = output.comparison
    const { id: modelId } = await registerModel(em, {
      tenantId,
      manifest: await readManifest(platform, output.manifest),
      manifestHash: output.manifest,
      name,
      source: null,
      parentModelId: parent.id,
      isStudent: true,
      objective: `${parent.name} in fewer bits`,
      jobId: job.id,
      description: `Quantised from ${parent.name}: ${Object.entries(output.types)
        .map(([dtype, count]) => `${count} ${dtype}`)
        .join(
          ', ',
        )}; ${((100 * sizeBytes) / referenceSizeBytes).toFixed(0)} % of its bytes, KL ${divergence.toFixed(4)} nats, same best token at ${(100 * agreement).toFixed(1)} %`,
    })
    await em.update(Job, { ...scoped(tenantId), id: job.id }, { modelId })
  },
}
