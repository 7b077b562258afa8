// Quantising: a job, and the model that comes of it.

import type { JobOutput } from '../../compute/pool/job-types.js'
import { quantizationSchema } from '../../lib/quantization.js'
import { checkOptions } from '../build/check-options.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import { checkSamplesPerCapability } from '../build/probe-dataset.js'
import { claimDerived, parentOf, queueDerived, registerDerived } from './derived-model.js'
import type { QuantizeModelInput } from './quantize.inputs.js'

/** Validation samples per capability of the report, where the caller does not say. */
const usualSamples = 8

/**
 * Queues the job; returns its row id.
 * @throws NOT_FOUND (model, probe set), BAD_USER_INPUT naming the option, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
export async function quantizeModel(context: RequestContext, input: QuantizeModelInput): Promise<string> {
  const {
    modelId: _of,
    probeDatasetId: _with,
    samplesPerCapability: _on,
    name: _as,
    idempotencyKey: _once,
    ...given
  } = input
  const samplesPerCapability = checkSamplesPerCapability(input.samplesPerCapability) ?? usualSamples
  const options = checkOptions(quantizationSchema, given, 'BAD_USER_INPUT', [])
  return queueDerived(context, 'quantizeModel', 'model.quantize', input, options.type, (manifest, probeSet) => ({
    manifest,
    options,
    probeSet,
    samplesPerCapability,
    maxTokens: 256,
  }))
}

/** One line for the new model's history. */
function describeQuantisation(parent: string, { types, comparison }: JobOutput<'model.quantize'>): string {
  const { divergence, agreement, sizeBytes, referenceSizeBytes } = comparison
  const counts = Object.entries(types).map(([dtype, count]) => `${count} ${dtype}`)
  const share = ((100 * sizeBytes) / referenceSizeBytes).toFixed(0)
  return `Quantised from ${parent}: ${counts.join(', ')}; ${share} % of its bytes, KL ${divergence.toFixed(4)} nats, same best token at ${(100 * agreement).toFixed(1)} %`
}

export const quantizeEffect: JobEffect<'model.quantize'> = {
  claim: claimDerived,
  async succeeded(em, job, output, platform) {
    const parent = await parentOf(em, job)
    await registerDerived(em, platform, job, parent, {
      manifest: output.manifest,
      objective: `${parent.name} in fewer bits`,
      description: describeQuantisation(parent.name, output),
    })
  },
}
