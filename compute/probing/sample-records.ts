// What an analysis measures per sample: the whole model, every layer skipped, some key/value groups masked; taken over where it was measured before.
import { type ActivationSums, encodeVector } from './activations.js'
import type { EncodedSample, RowScore, Scorer } from './scoring.js'
import { stackWithout, type Variant } from './stacks.js'

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
  /** [layers] */
  activation: ActivationSums[]
  /** [layers * hidden] mean output of each layer over the tokens that count, as `encodeVector` writes it. */
  centroids: string
}

/** Completion losses without a key/value group, summed, nats, by `groupKey`. */
export type GroupLosses = Readonly<Record<string, number>>

/** A key/value head of a layer, with the query heads that share it. */
export interface HeadGroup {
  layerIndex: number
  keyValueHeadIndex: number
}
export const groupKey = ({ layerIndex, keyValueHeadIndex }: HeadGroup) => `${layerIndex}/${keyValueHeadIndex}`

/** What earlier analyses of the same model measured; entries are added batch by batch. */
export interface RecordStore<T> {
  get(sample: EncodedSample): T | undefined
  add(entries: readonly (readonly [EncodedSample, T])[]): Promise<void>
}

export interface InfluenceProgress {
  /** Tokens run, over all variants; what was measured before counts nothing. */
  completed: number
  total: number
  /** Samples measured in this analysis, and those taken over from earlier ones. */
  samplesDone: number
  samplesReused: number
}

/** All layers, one of them without a group. */
export const variantWithoutGroup = (layerCount: number, { layerIndex, keyValueHeadIndex }: HeadGroup): Variant =>
  Array.from({ length: layerCount }, (_, layer) =>
    layer === layerIndex ? { layer, withoutGroups: [keyValueHeadIndex] } : layer,
  )

export interface MeasureOptions {
  /** Layers whose skipping is measured; absent: all. Records are neither used nor made where it is given. */
  only?: readonly number[] | undefined
  /** Groups whose masking is measured. */
  groups?: readonly HeadGroup[] | undefined
  records?: RecordStore<SampleRecord> | undefined
  groupRecords?: RecordStore<GroupLosses> | undefined
  progress?: ((p: InfluenceProgress) => void) | undefined
}

/**
 * Measures what is not on record. A new sample goes through all variants in one pass, which shares their beginnings; samples that lack
 * only groups go through those.
 * @returns per sample, in their order
 * @throws NOT_A_NUMBER naming model and layer, CANCELLED
 */
export async function measureSamples(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  options: MeasureOptions = {},
): Promise<{ records: SampleRecord[]; groupLosses: GroupLosses[] }> {
  const { groups = [], progress } = options
  const layers = options.only ?? Array.from({ length: layerCount }, (_, i) => i)
  const [store, groupStore] = options.only ? [] : [options.records, options.groupRecords]
  const records = samples.map(sample => store?.get(sample))
  const groupLosses = samples.map(sample => groupStore?.get(sample) ?? {})

  const whole = [stackWithout(layerCount), ...layers.map(layer => stackWithout(layerCount, layer))]
  const lacking = (i: number) => groups.filter(group => groupLosses[i]![groupKey(group)] === undefined)
  const passes = [
    { rows: samples.flatMap((_, i) => (records[i] ? [] : [i])), variants: whole, groups, isNew: true },
    ...byLacking(samples.flatMap((_, i) => (records[i] && lacking(i).length > 0 ? [{ i, groups: lacking(i) }] : []))),
  ]
  const samplesReused = samples.length - passes[0]!.rows.length
  const total = passes.reduce(
    (sum, { rows, variants, groups: own }) =>
      sum + rows.reduce((tokens, i) => tokens + samples[i]!.ids.length, 0) * (variants.length + own.length),
    0,
  )
  let completed = 0
  let samplesDone = 0
  const report = () => progress?.({ completed, total, samplesDone, samplesReused })
  report()

  for (const pass of passes) {
    const masked = pass.groups.map(group => variantWithoutGroup(layerCount, group))
    await scorer.scoreStacks(
      pass.rows.map(i => samples[i]!),
      [...pass.variants, ...masked],
      {
        ...(pass.isNew ? { observe: 0 } : {}),
        async batchDone(batch, scores) {
          for (const [k, row] of batch.entries()) {
            const i = pass.rows[row]!
            if (pass.isNew) records[i] = recordOf(scores.slice(0, whole.length), k)
            const losses = pass.groups.map((group, g) => [groupKey(group), scores[pass.variants.length + g]![k]!.nll])
            groupLosses[i] = { ...groupLosses[i], ...Object.fromEntries(losses) }
          }
          const done = batch.map(row => pass.rows[row]!)
          if (masked.length > 0) await groupStore?.add(done.map(i => [samples[i]!, groupLosses[i]!] as const))
          if (pass.isNew) {
            await store?.add(done.map(i => [samples[i]!, records[i]!] as const))
            samplesDone += batch.length
          }
          report()
        },
        done(tokens) {
          completed += tokens
          report()
        },
      },
    )
  }
  return { records: records as SampleRecord[], groupLosses }
}

/** Samples that lack the same groups, together. */
function byLacking(lacking: readonly { i: number; groups: HeadGroup[] }[]) {
  const sets = new Map<string, { rows: number[]; variants: Variant[]; groups: readonly HeadGroup[]; isNew: boolean }>()
  for (const { i, groups } of lacking) {
    const key = groups.map(groupKey).join()
    const set = sets.get(key) ?? { rows: [], variants: [], groups, isNew: false }
    set.rows.push(i)
    sets.set(key, set)
  }
  return [...sets.values()]
}

/** @param scores [stack][row of the batch], the whole model first */
function recordOf(scores: readonly RowScore[][], row: number): SampleRecord {
  const [whole, ...skipped] = scores.map(stack => stack[row]!)
  const { cosine, norm, angles, activation, centroids } = whole!.layers!
  const size = centroids![0]?.length ?? 0
  const joined = new Float32Array(centroids!.length * size)
  centroids!.forEach((centroid, layer) => {
    joined.set(centroid, layer * size)
  })
  return {
    nll: whole!.nll,
    exact: whole!.exact!,
    cosine: Array.from(cosine),
    norm: Array.from(norm),
    angles: angles!,
    skipped: skipped.map(score => score.nll),
    activation: activation!,
    centroids: encodeVector(joined),
  }
}
