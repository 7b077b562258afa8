// How much each attention head matters to each capability: the size of the loss's gradient for a gate on the head's output.
import { DomainError } from '../../lib/errors.js'
import type { EncodedSample, ScoreRow } from './scoring.js'

/** What was measured for one sample. */
export interface HeadRecord {
  /** Mean completion loss, nats per token. */
  loss: number
  /** [layers * heads] */
  gradients: number[]
  /** [layers * heads] mean over positions but the first of the entropy of what the head attends to, nats. */
  entropies: number[]
}

/** Records of earlier analyses of the same model. */
export interface HeadRecordStore {
  get(sample: EncodedSample): HeadRecord | undefined
  add(entries: readonly (readonly [EncodedSample, HeadRecord])[]): Promise<void>
}

/** What is needed of a loaded model. */
export interface HeadModel {
  /** What messages call it. */
  name: string
  layerCount: number
  /** Query heads per layer. */
  headCount: number
  keyValueHeadCount: number
  /** Of one layer, where pruning left layers with different numbers; the counts above are then the largest. */
  headsOf(layer: number): { heads: number; keyValueHeads: number }
  /**
   * Per row its mean completion loss, [layers * heads] the derivatives of that for a factor of each head's output, and entropies.
   * Throws NOT_A_NUMBER, and CANCELLED between two batches.
   */
  gradients(
    rows: readonly ScoreRow[],
    options: {
      signal?: AbortSignal | undefined
      /** Called after each batch with the indices of its rows and their results. */
      batchDone?: ((rows: readonly number[], results: readonly HeadRecord[]) => Promise<void> | void) | undefined
    },
  ): Promise<HeadRecord[]>
}

export interface LayerHeads {
  layerIndex: number
  /** [query heads] mean over samples of |d loss / d gate|, nats per completion token. */
  heads: number[]
  /** [key/value heads] the sum over the query heads that share one: what removing the group is expected to cost at most. */
  keyValueGroups: number[]
  /** [query heads] mean over samples of the entropy of what the head attends to, nats: 0 is a head that looks at one token only. */
  entropy: number[]
}

export interface CapabilityHeads {
  capability: string
  /** Mean over samples of the sample's mean completion loss, nats per token. */
  meanSampleLoss: number
  sampleCount: number
  layers: LayerHeads[]
}

/**
 * Importance of every head per capability (Michel et al. 2019, arXiv 1905.10650, eq. 2): the mean over samples of |dL / d gate|, where the
 * gate multiplies the head's output before the output projection, is 1, and L is the sample's mean completion loss. One forward and one
 * backward pass over the samples, whatever the number of heads.
 * @param wanted capabilities that must have a result
 * @param options.records what earlier analyses of this model measured; new samples are added batch by batch
 * @param options.progress called after each batch with the samples measured so far and those taken over from records
 * @throws INVALID_PROBE_DATASET where a wanted capability has no sample; NOT_A_NUMBER naming the model; CANCELLED
 */
export async function headImportance(
  model: HeadModel,
  samples: readonly EncodedSample[],
  wanted: readonly string[],
  options: {
    signal?: AbortSignal
    records?: HeadRecordStore
    progress?: (done: { measured: number; reused: number; total: number }) => void
  } = {},
): Promise<CapabilityHeads[]> {
  const chosen = samples.filter(sample => wanted.includes(sample.capability))
  const found = chosen.map(sample => options.records?.get(sample))
  const missing = chosen.flatMap((_, i) => (found[i] ? [] : [i]))
  const reused = chosen.length - missing.length
  const rows = missing.map(i => chosen[i]!)
  let measured = 0
  options.progress?.({ measured, reused, total: chosen.length })
  const batchDone = async (batch: readonly number[], results: readonly HeadRecord[]) => {
    await options.records?.add(batch.map((row, k) => [rows[row]!, results[k]!] as const))
    measured += batch.length
    options.progress?.({ measured, reused, total: chosen.length })
  }
  const made = await model.gradients(rows, { signal: options.signal, batchDone }).catch(error => {
    throw error instanceof DomainError && error.code === 'NOT_A_NUMBER'
      ? new DomainError('NOT_A_NUMBER', `${model.name}: ${error.message}`)
      : error
  })
  missing.forEach((index, k) => {
    found[index] = made[k]
  })
  const records = found as HeadRecord[]
  return wanted.map(capability => {
    const own = records.filter((_, i) => chosen[i]!.capability === capability)
    if (own.length === 0)
      throw new DomainError('INVALID_PROBE_DATASET', `${capability}: no sample to measure heads with`)
    const importance = new Float64Array(model.layerCount * model.headCount)
    const entropy = new Float64Array(importance.length)
    for (const { gradients, entropies } of own) {
      for (let i = 0; i < importance.length; i++) {
        importance[i]! += Math.abs(gradients[i]!) / own.length
        entropy[i]! += entropies[i]! / own.length
      }
    }
    return {
      capability,
      meanSampleLoss: own.reduce((sum, { loss }) => sum + loss, 0) / own.length,
      sampleCount: own.length,
      layers: Array.from({ length: model.layerCount }, (_, layerIndex) =>
        layerHeads(model, importance, entropy, layerIndex),
      ),
    }
  })
}

function layerHeads(
  { headCount, headsOf }: HeadModel,
  importance: Float64Array,
  entropy: Float64Array,
  layerIndex: number,
): LayerHeads {
  const own = headsOf(layerIndex)
  const start = layerIndex * headCount
  const heads = [...importance.subarray(start, start + own.heads)]
  const perGroup = own.heads / own.keyValueHeads
  const keyValueGroups = Array.from({ length: own.keyValueHeads }, (_, group) =>
    heads.slice(group * perGroup, (group + 1) * perGroup).reduce((sum, head) => sum + head, 0),
  )
  return { layerIndex, heads, keyValueGroups, entropy: [...entropy.subarray(start, start + own.heads)] }
}
