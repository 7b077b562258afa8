// What a sample's loss changes by per change of each attention head's output: one backward pass per batch of samples.
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { causalMask } from '../autodiff/differentiable.js'
import { finiteFloats, floats, int64s, type RuntimeTensor, type Session } from '../runtime/session.js'
import { packBatches } from './batches.js'
import { throwIfCancelled } from './cancellation.js'
import type { ScoredSample } from './model.js'

export interface HeadGradients {
  /** Mean negative log-likelihood of the completion's tokens, in nats. */
  loss: number
  /** [layers * heads] derivative of `loss` for a factor of each query head's output before the output projection, at factor 1. */
  gradients: Float32Array
}

export interface HeadGradientOptions {
  signal?: AbortSignal | undefined
  /** Called after each batch with the indices of its samples and their results. */
  batchDone?: ((samples: readonly number[], results: readonly HeadGradients[]) => Promise<void> | void) | undefined
}

/** Activations that a backward pass keeps; a batch is made to fit, a single long sample may exceed it. */
const maximumActivationBytes = 768 * 1024 * 1024
/** Numbers kept per token and hidden unit of a layer, and attention scores kept per head (probabilities and their gradients). */
const keptPerHiddenUnit = 30
const keptPerScore = 3

/** Padded tokens of a batch of samples of at most this length. */
export function backwardTokens(d: ResolvedDimensions, longest: number): number {
  const perLayer = keptPerHiddenUnit * d.hiddenSize + keptPerScore * d.attentionHeadCount * longest
  return Math.max(1, Math.floor(maximumActivationBytes / (4 * d.layerCount * perLayer)))
}

/** Inputs of the gradient graphs but the tables of positions. Each sample's completion tokens weigh 1 together, and every gate is 1. */
export function gradientFeeds(d: ResolvedDimensions, samples: readonly ScoredSample[]): Record<string, RuntimeTensor> {
  const batch = samples.length
  const seq = Math.max(1, ...samples.map(s => s.ids.length))
  const wanted = samples.flatMap(({ ids, completionStart }, sample) => {
    const from = Math.max(1, completionStart)
    const weight = 1 / (ids.length - from)
    return ids.slice(from).map((target, i) => ({ row: sample * seq + from + i - 1, target, weight }))
  })
  return {
    input_ids: int64s(
      samples.flatMap(({ ids }) => [...ids, ...new Array<number>(seq - ids.length).fill(0)]),
      [batch, seq],
    ),
    rows: int64s(wanted.map(w => w.row)),
    targets: int64s(wanted.map(w => w.target)),
    row_weights: floats(
      Float32Array.from(wanted, w => w.weight),
      [wanted.length],
    ),
    layer_gates: floats(new Float32Array(batch * d.layerCount).fill(1), [batch, d.layerCount]),
    head_gates: floats(new Float32Array(d.layerCount * batch * d.attentionHeadCount).fill(1), [
      d.layerCount,
      batch,
      d.attentionHeadCount,
    ]),
    causal_mask: floats(causalMask(seq, d.slidingWindow), [seq, seq]),
  }
}

/**
 * Gradients per sample, in their order. A sample without completion tokens has a loss and gradients of 0.
 * @param model.session the session of `headGradientGraph`
 * @param model.check throws where token ids do not suit the model
 * @throws NOT_A_NUMBER, CANCELLED between two batches
 */
export async function headGradients(
  d: ResolvedDimensions,
  model: {
    session(): Promise<Session>
    check(ids: readonly number[]): void
    ropeFeeds(start: number, batch: number, seq: number): Record<string, RuntimeTensor>
  },
  samples: readonly ScoredSample[],
  { signal, batchDone }: HeadGradientOptions = {},
): Promise<HeadGradients[]> {
  for (const { ids } of samples) model.check(ids)
  const heads = d.attentionHeadCount
  const results: HeadGradients[] = samples.map(() => ({ loss: 0, gradients: new Float32Array(d.layerCount * heads) }))
  const scored = samples.flatMap(({ ids, completionStart }, i) =>
    ids.length > Math.max(1, completionStart) ? [i] : [],
  )
  const longest = Math.max(1, ...scored.map(i => samples[i]!.ids.length))
  const packed = packBatches(
    scored.map(i => samples[i]!),
    d.vocabularySize,
    backwardTokens(d, longest),
  )
  for (const batch of packed) {
    throwIfCancelled(signal)
    const indices = batch.map(k => scored[k]!)
    const own = indices.map(i => samples[i]!)
    const feeds = {
      ...gradientFeeds(d, own),
      ...model.ropeFeeds(0, own.length, Math.max(...own.map(s => s.ids.length))),
    }
    const found = await (await model.session()).run(feeds, ['log_probabilities', 'head_gradients'], { signal })
    const logProbabilities = finiteFloats(found.log_probabilities!, 'loss')
    const byLayer = finiteFloats(found.head_gradients!, 'gradient of a head') // [layers, batch, heads]
    let from = 0
    indices.forEach((index, row) => {
      const { ids, completionStart } = samples[index]!
      const tokens = ids.length - Math.max(1, completionStart)
      const sum = logProbabilities.subarray(from, from + tokens).reduce((total, l) => total - l, 0)
      from += tokens
      const result = results[index]!
      result.loss = sum / tokens
      for (let layer = 0; layer < d.layerCount; layer++) {
        const start = (layer * own.length + row) * heads
        result.gradients.set(byLayer.subarray(start, start + heads), layer * heads)
      }
    })
    await batchDone?.(
      indices,
      indices.map(i => results[i]!),
    )
  }
  return results
}
