// model.quantize: matrices to 4- or 8-bit blocks, then how far the result's predictions are from the model before.
import type { Handler } from './handler.js'
import { quantiseManifest } from './quantise-manifest.js'
import { compareManifests } from './quantise-report.js'

export const quantizeModel: Handler<'model.quantize'> = async (input, context) => {
  const { options, probeSet, samplesPerCapability, maxTokens } = input
  const begin = performance.now()
  const { manifest, source, types, kept, search } = await quantiseManifest(input.manifest, options, probeSet, context)
  const seconds = (performance.now() - begin) / 1000
  const comparison = await compareManifests(
    source,
    manifest,
    { probeSet, samplesPerCapability, maxTokens, speed: true },
    context,
  )
  return { manifest, source, types, kept, seconds, comparison, ...(search ? { search } : {}) }
}
