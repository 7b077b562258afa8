// What each layer does: block influence and angular distance from one pass, and the loss its skipping costs, measured per capability.
import { type CapabilityLoss, summarise, summariseWithIntervals } from './evaluate.js'
import type { EncodedSample, RowScore, Scorer } from './scoring.js'
import { longestBlock, type Stack } from './stacks.js'

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

/** Everything an analysis needs to know about one sample. */
export interface SampleRecord {
  nll: number
  exact: boolean
  /** [layers] sums over the sample's tokens. */
  cosine: number[]
  norm: number[]
  /** [n - 1][layer] as in LayerAnalysis. */
  angles: number[][]
  /** [layers] completion loss without the layer, summed, nats. */
  skipped: number[]
}

/** Records of earlier analyses of the same model. */
export interface RecordStore {
  get(sample: EncodedSample): SampleRecord | undefined
  add(entries: readonly (readonly [EncodedSample, SampleRecord])[]): Promise<void>
}

export interface InfluenceProgress {
  /** Tokens run, over all variants; samples that were measured before count nothing. */
  completed: number
  total: number
  /** Samples measured in this analysis, and those taken over from earlier ones. */
  samplesDone: number
  samplesReused: number
}

export const allOn = (layerCount: number) => new Array<number>(layerCount).fill(1)

/** Gates with the given layers skipped. */
export const gatesWithout = (layerCount: number, skipped: Iterable<number>): number[] => {
  const gates = allOn(layerCount)
  for (const layer of skipped) gates[layer] = 0
  return gates
}

/** All layers but the given ones. */
export const stackWithout = (layerCount: number, ...skipped: readonly number[]): Stack =>
  Array.from({ length: layerCount }, (_, layer) => layer).filter(layer => !skipped.includes(layer))

/**
 * Block influence (1 - mean over tokens of cos(layer input, layer output); ShortGPT, arXiv 2403.03853), angular distances of blocks and the
 * increase of the completion loss when one layer is skipped, per layer and capability. Skipping a layer re-runs only the layers after it,
 * so all variants together cost about half of (layers + 1) passes.
 * @param options.only layers whose skipping is measured; default: all. Records are neither used nor made then.
 * @param options.records what earlier analyses of this model measured; new samples are added batch by batch
 */
export async function layerInfluence(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  wanted: readonly string[],
  options: { only?: readonly number[]; records?: RecordStore; progress?: (p: InfluenceProgress) => void } = {},
): Promise<LayerInfluence> {
  const layers = options.only ?? Array.from({ length: layerCount }, (_, i) => i)
  const store = options.only ? undefined : options.records
  const records = samples.map(sample => store?.get(sample))
  const missing = samples.flatMap((_, i) => (records[i] ? [] : [i]))
  const stacks = [stackWithout(layerCount), ...layers.map(layer => stackWithout(layerCount, layer))]
  const samplesReused = samples.length - missing.length
  const total = missing.reduce((sum, i) => sum + samples[i]!.ids.length, 0) * stacks.length
  let completed = 0
  let samplesDone = 0
  const report = () => options.progress?.({ completed, total, samplesDone, samplesReused })
  report()

  await scorer.scoreStacks(
    missing.map(i => samples[i]!),
    stacks,
    {
      observe: 0,
      async batchDone(batch, scores) {
        const entries = batch.map((row, k) => {
          const index = missing[row]!
          const record = recordOf(scores, k)
          records[index] = record
          return [samples[index]!, record] as const
        })
        await store?.add(entries)
        samplesDone += batch.length
        report()
      },
      done(tokens) {
        completed += tokens
        report()
      },
    },
  )

  const measured = records as SampleRecord[]
  const baseline = summariseWithIntervals(samples, measured, wanted)
  const skipped = layers.map((_, k) =>
    summarise(
      samples,
      measured.map(({ skipped, exact }) => ({ nll: skipped[k]!, exact })),
      wanted,
    ),
  )
  return { baseline, layers: combine(layers, samples, measured, baseline, skipped, wanted) }
}

/** @param scores [stack][row of the batch], the whole model first */
function recordOf(scores: readonly RowScore[][], row: number): SampleRecord {
  const [whole, ...skipped] = scores.map(stack => stack[row]!)
  const { cosine, norm, angles } = whole!.layers!
  return {
    nll: whole!.nll,
    exact: whole!.exact,
    cosine: Array.from(cosine),
    norm: Array.from(norm),
    angles: angles!,
    skipped: skipped.map(score => score.nll),
  }
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
  return layers.map((layerIndex, k) => ({
    layerIndex,
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
