// What quantising cost: predictions against the model before, per capability, and what it saved in bytes and time.
import type { Manifest } from '../../lib/manifest.js'
import { readManifest } from '../formats/manifest.js'
import { loadTokenizer } from '../formats/tokenizer.js'
import { addComparisons, type Comparison, noComparison, openComparison } from '../inference/compare-models.js'
import { type LoadedModel, openModel } from '../inference/model.js'
import type { CapabilityComparison, ModelComparison } from '../pool/job-types.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { encodeSamples } from '../probing/scoring.js'
import type { HandlerContext } from './handler.js'

const sizeOf = ({ tensors }: Manifest) => tensors.reduce((sum, t) => sum + t.bytes, 0)

const summary = (c: Comparison) => ({
  divergence: c.divergence / c.positions,
  agreement: c.agreements / c.positions,
  positions: c.positions,
  loss: c.nll / c.completionTokens,
  referenceLoss: c.referenceNll / c.completionTokens,
  perplexity: Math.min(Math.exp(c.nll / c.completionTokens), Number.MAX_VALUE),
  referencePerplexity: Math.min(Math.exp(c.referenceNll / c.completionTokens), Number.MAX_VALUE),
})

/** Tokens that decoding speed is measured over. */
const decodedTokens = 32

/** Greedy decoding after a short prompt, tokens per second, the first run not counted. */
async function decodeSpeed(model: LoadedModel, prompt: readonly number[]): Promise<number> {
  const best = (logits: Float32Array) => {
    let index = 0
    for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[index]!) index = i
    return index
  }
  let fastest = 0
  for (let round = 0; round < 2; round++) {
    const sequence = model.startSequence()
    let token = best(await sequence.append(prompt))
    const begin = performance.now()
    for (let i = 0; i < decodedTokens; i++) token = best(await sequence.append([token]))
    fastest = Math.max(fastest, (decodedTokens * 1000) / (performance.now() - begin))
  }
  return fastest
}

/**
 * @param measure.split the validation split: calibration saw the other one
 * @throws what opening models and reading probe sets throws
 */
export async function compareManifests(
  referenceHash: string,
  otherHash: string,
  measure: { probeSet: string; samplesPerCapability?: number; maxTokens: number; speed: boolean },
  context: HandlerContext,
): Promise<ModelComparison> {
  const { payloads, signal, dataFolder, env } = context
  const [before, after] = [await readManifest(payloads, referenceHash), await readManifest(payloads, otherHash)]
  const set = await parseProbeSet(await payloads.get(measure.probeSet))
  const selection = { split: 'validation' as const, samplesPerCapability: measure.samplesPerCapability }
  const tokenizer = await loadTokenizer(before, payloads)
  const reference = await openModel(before, context)
  const other = await openModel(after, context)
  const comparison = await openComparison(reference, other, {
    weightsFolder: dataFolder,
    threads: env.HARTONOMOUS_THREADS,
    signal,
  })
  try {
    const encoder = {
      encode: (text: string) => tokenizer.encode(text),
      bosTokenId: tokenizer.addBos ? tokenizer.bosTokenId : undefined,
      contextLength: reference.dimensions.contextLength,
    }
    const samples = await encodeSamples(encoder, selectSamples(set, selection), measure.maxTokens, signal)
    const sums = new Map<string, Comparison>()
    for (const [i, sample] of samples.entries()) {
      const found = await comparison.compare(sample)
      sums.set(sample.capability, addComparisons(sums.get(sample.capability) ?? noComparison, found))
      context.progress({ stage: 'compare', completed: i + 1, total: samples.length, unit: 'samples' })
    }
    const capabilities: CapabilityComparison[] = [...sums].map(([capability, sum]) => ({ capability, ...summary(sum) }))
    const all = [...sums.values()].reduce(addComparisons, noComparison)
    const prompt = samples[0]!.ids.slice(0, Math.min(16, reference.dimensions.contextLength - decodedTokens - 1))
    return {
      ...summary(all),
      capabilities,
      sizeBytes: sizeOf(after),
      referenceSizeBytes: sizeOf(before),
      ...(measure.speed && prompt.length > 0 ? await speeds(reference, after, prompt, context) : {}),
    }
  } finally {
    await comparison.dispose()
    await reference.dispose()
    await other.dispose()
  }
}

/** The quantised model on the kernels that read its blocks, the other in float32. */
async function speeds(reference: LoadedModel, after: Manifest, prompt: readonly number[], context: HandlerContext) {
  context.progress({ stage: 'speed', completed: 0, total: 1, unit: 'models' })
  const onKernels = await openModel(after, { ...context, env: { ...context.env, HARTONOMOUS_KERNELS: 'quantised' } })
  try {
    const referenceTokensPerSecond = await decodeSpeed(reference, prompt)
    return { tokensPerSecond: await decodeSpeed(onKernels, prompt), referenceTokensPerSecond }
  } finally {
    await onKernels.dispose()
  }
}
