// What each layer does: block influence and angular distance from one pass, and the loss its skipping costs, measured per capability.

import { type ActivationStatistics, activationStatistics } from './activations.js'
import { type CapabilityLoss, summarise, summariseWithIntervals } from './evaluate.js'
import { type GroupLosses, type MeasureOptions, measureSamples, type SampleRecord } from './sample-records.js'
import type { EncodedSample, Scorer } from './scoring.js'
import { longestBlock } from './stacks.js'

export { stackWithout } from './stacks.js'

export interface LayerAnalysis {
  layerIndex: number
  /** 1 - mean cosine of layer input and output, over all samples' tokens. */
  blockInfluence: number
  /** Mean L2 norm of the layer's output over tokens. */
  activationNorm: number
  /**
   * [n - 1]: mean over samples of arccos(cos(input of this layer, output of the n-th layer from it on)) / pi at the last token
   * (Gromov et al., arXiv 2403.17887); as many as fit below the last layer, at most 8.
   */
  angularDistances: number[]
  /** What its output looks like, over all samples. */
  activation: ActivationStatistics
  capabilities: {
    capability: string
    /** The same over this capability's samples. */
    activation: ActivationStatistics
    /** The same over this capability's samples. */
    blockInfluence: number
    /** Nats per completion token added when the layer is skipped. */
    lossIncrease: number
    /** lossIncrease over the greatest of this capability's layers, in [0, 1]. */
    score: number
  }[]
}

export interface LayerInfluence {
  baseline: CapabilityLoss[]
  layers: LayerAnalysis[]
}

export const allOn = (layerCount: number) => new Array<number>(layerCount).fill(1)

/** Gates with the given layers skipped. */
export const gatesWithout = (layerCount: number, skipped: Iterable<number>): number[] => {
  const gates = allOn(layerCount)
  for (const layer of skipped) gates[layer] = 0
  return gates
}

/**
 * Block influence (1 - mean over tokens of cos(layer input, layer output); ShortGPT, arXiv 2403.03853), angular distances of blocks and the
 * increase of the completion loss when one layer is skipped, per layer and capability. Skipping a layer re-runs only the layers after it,
 * so all variants together cost about half of (layers + 1) passes.
 */
export async function layerInfluence(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  wanted: readonly string[],
  options: MeasureOptions = {},
): Promise<LayerInfluence & { records: SampleRecord[]; groupLosses: GroupLosses[] }> {
  const layers = options.only ?? Array.from({ length: layerCount }, (_, i) => i)
  const { records, groupLosses } = await measureSamples(scorer, layerCount, samples, options)
  const baseline = summariseWithIntervals(samples, records, wanted)
  const skipped = layers.map((_, k) =>
    summarise(
      samples,
      records.map(({ skipped, exact }) => ({ nll: skipped[k]!, exact })),
      wanted,
    ),
  )
  return { baseline, layers: combine(layers, samples, records, baseline, skipped, wanted), records, groupLosses }
}

function combine(
  layers: readonly number[],
  samples: readonly EncodedSample[],
  records: readonly SampleRecord[],
  baseline: readonly CapabilityLoss[],
  skipped: readonly CapabilityLoss[][],
  wanted: readonly string[],
): LayerAnalysis[] {
  const increase = (k: number, c: number) => skipped[k]![c]!.loss - baseline[c]!.loss
  const greatest = wanted.map((_, c) => Math.max(...layers.map((_, k) => increase(k, c))))
  const activation = (layer: number, capability?: string) =>
    activationStatistics(
      records.flatMap(({ activation }, i) =>
        capability === undefined || samples[i]!.capability === capability ? [activation[layer]!] : [],
      ),
    )
  return layers.map((layerIndex, k) => ({
    layerIndex,
    activation: activation(layerIndex),
    blockInfluence: 1 - meanOver(samples, records, r => r.cosine[layerIndex]!),
    activationNorm: meanOver(samples, records, r => r.norm[layerIndex]!),
    angularDistances: Array.from({ length: longestBlock }, (_, n) =>
      records.map(record => record.angles[n]?.[layerIndex]),
    ).flatMap(angles => {
      const found = angles.filter(angle => angle !== undefined)
      return found.length > 0 ? [found.reduce((sum, angle) => sum + angle, 0) / found.length] : []
    }),
    capabilities: wanted.map((capability, c) => ({
      capability,
      activation: activation(layerIndex, capability),
      blockInfluence: 1 - meanOver(samples, records, r => r.cosine[layerIndex]!, capability),
      lossIncrease: increase(k, c),
      score: scoreOf(increase(k, c), greatest[c]!),
    })),
  }))
}

/** Importance relative to the capability's most needed layer, 0 where skipping costs nothing. */
export const scoreOf = (lossIncrease: number, greatest: number) =>
  greatest > 0 ? Math.min(1, Math.max(0, lossIncrease / greatest)) : 0

/** Mean over tokens of a per-sample sum, over all samples or one capability's. */
function meanOver(
  samples: readonly EncodedSample[],
  records: readonly SampleRecord[],
  sum: (record: SampleRecord) => number,
  capability?: string,
): number {
  let total = 0
  let tokens = 0
  samples.forEach((sample, i) => {
    if (capability !== undefined && sample.capability !== capability) return
    total += sum(records[i]!)
    tokens += sample.ids.length
  })
  return total / tokens
}
