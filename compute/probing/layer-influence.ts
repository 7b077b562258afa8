// What each layer does: block influence from one pass, and the loss its skipping costs, measured per capability.
import { type CapabilityLoss, summarise } from './evaluate.js'
import type { EncodedSample, RowScore, Scorer } from './scoring.js'

export interface LayerAnalysis {
  layerIndex: number
  /** 1 - mean cosine of layer input and output, over all samples' tokens. */
  blockInfluence: number
  /** Mean L2 norm of the layer's output over tokens. */
  activationNorm: number
  capabilities: {
    capability: string
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

export interface InfluenceProgress {
  stage: 'baseline' | 'layers'
  /** Tokens run in this stage, over all variants. */
  completed: number
  total: number
  /** Layers whose skipping is measured. */
  layersDone: number
}

/** Layers measured per round: their rows share batches, and every round's end is a step of progress. */
const layersPerRound = 4

export const allOn = (layerCount: number) => new Array<number>(layerCount).fill(1)

/** Gates with the given layers skipped. */
export const gatesWithout = (layerCount: number, skipped: Iterable<number>): number[] => {
  const gates = allOn(layerCount)
  for (const layer of skipped) gates[layer] = 0
  return gates
}

/**
 * Block influence (1 - mean over tokens of cos(layer input, layer output); ShortGPT, arXiv 2403.03853) and the increase of the
 * completion loss when one layer is skipped, per layer and capability. Costs (layers + 1) passes over the samples.
 */
export async function layerInfluence(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  wanted: readonly string[],
  options: { only?: readonly number[]; progress?: (p: InfluenceProgress) => void } = {},
): Promise<LayerInfluence> {
  const layers = options.only ?? Array.from({ length: layerCount }, (_, i) => i)
  const perPass = samples.reduce((sum, s) => sum + s.ids.length, 0)
  const reporter = (stage: InfluenceProgress['stage'], total: number) => {
    let completed = 0
    return (tokens: number) => {
      completed += tokens
      options.progress?.({
        stage,
        completed,
        total,
        layersDone: stage === 'layers' ? Math.floor(completed / perPass) : 0,
      })
    }
  }

  const base = await scorer.scoreRows(samples, { layerSums: true, done: reporter('baseline', perPass) })
  const baseline = summarise(samples, base, wanted)

  const done = reporter('layers', perPass * layers.length)
  const skipped = new Map<number, CapabilityLoss[]>()
  for (let from = 0; from < layers.length; from += layersPerRound) {
    const round = layers.slice(from, from + layersPerRound)
    const rows = round.flatMap(layer => {
      const gates = gatesWithout(layerCount, [layer])
      return samples.map(sample => ({ ...sample, gates }))
    })
    const scores = await scorer.scoreRows(rows, { done })
    round.forEach((layer, k) => {
      const own = scores.slice(k * samples.length, (k + 1) * samples.length)
      skipped.set(layer, summarise(samples, own, wanted))
    })
  }
  return { baseline, layers: combine(layers, samples, base, baseline, skipped, wanted) }
}

function combine(
  layers: readonly number[],
  samples: readonly EncodedSample[],
  base: readonly RowScore[],
  baseline: readonly CapabilityLoss[],
  skipped: ReadonlyMap<number, CapabilityLoss[]>,
  wanted: readonly string[],
): LayerAnalysis[] {
  const increase = (layer: number, c: number) => skipped.get(layer)![c]!.loss - baseline[c]!.loss
  const greatest = wanted.map((_, c) => Math.max(...layers.map(layer => increase(layer, c))))
  return layers.map(layerIndex => ({
    layerIndex,
    blockInfluence: 1 - meanOver(samples, base, s => s.layers!.cosine[layerIndex]!),
    activationNorm: meanOver(samples, base, s => s.layers!.norm[layerIndex]!),
    capabilities: wanted.map((capability, c) => ({
      capability,
      blockInfluence: 1 - meanOver(samples, base, s => s.layers!.cosine[layerIndex]!, capability),
      lossIncrease: increase(layerIndex, c),
      score: scoreOf(increase(layerIndex, c), greatest[c]!),
    })),
  }))
}

/** Importance relative to the capability's most needed layer, 0 where skipping costs nothing. */
export const scoreOf = (lossIncrease: number, greatest: number) =>
  greatest > 0 ? Math.min(1, Math.max(0, lossIncrease / greatest)) : 0

/** Mean over tokens of a per-row sum, over all samples or one capability's. */
function meanOver(
  samples: readonly EncodedSample[],
  scores: readonly RowScore[],
  sum: (score: RowScore) => number,
  capability?: string,
): number {
  let total = 0
  let tokens = 0
  samples.forEach((sample, i) => {
    if (capability !== undefined && sample.capability !== capability) return
    total += sum(scores[i]!)
    tokens += sample.ids.length
  })
  return total / tokens
}
