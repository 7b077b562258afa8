// What a sample's loss changes by per change of each attention head's output: one backward pass per batch of samples.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { causalMask } from '../autodiff/differentiable.js'
import { finiteFloats, floats, int64s, type RuntimeTensor, type Session } from '../runtime/session.js'
import { packBatches } from './batches.js'
import { throwIfCancelled } from './cancellation.js'
import type { ScoredSample } from './model.js'
import type { ModelPieces } from './model-pieces.js'

export interface HeadGradients {
  /** Mean negative log-likelihood of the completion's tokens, in nats. */
  loss: number
  /** [layers * heads] derivative of `loss` for a factor of each query head's output before the output projection, at factor 1. */
  gradients: Float32Array
  /** [layers * heads] mean over the positions but the first of the entropy of what the head attends to, in nats. */
  entropies: Float32Array
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

/**
 * Padded tokens of a batch of samples of at most this length.
 * @param layers how many keep what their backward pass needs at once; of the others only the input is kept
 */
export function backwardTokens(d: ResolvedDimensions, longest: number, layers = d.layerCount): number {
  const perLayer = keptPerHiddenUnit * d.hiddenSize + keptPerScore * d.attentionHeadCount * longest
  const perToken = layers * perLayer + (d.layerCount - layers) * d.hiddenSize
  return Math.max(1, Math.floor(maximumActivationBytes / (4 * perToken)))
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

/** [batch, 1, seq], for entropies: each sample's positions but the first, which can only look at itself, weigh 1 together. */
export function positionWeights(samples: readonly ScoredSample[]): RuntimeTensor {
  const seq = longestOf(samples)
  const weights = new Float32Array(samples.length * seq)
  samples.forEach(({ ids }, row) => {
    weights.fill(1 / (ids.length - 1), row * seq + 1, row * seq + ids.length)
  })
  return floats(weights, [samples.length, 1, seq])
}

/** One backward pass over a batch: `log_probabilities` of the completion tokens; gradients and entropies are [layers, batch, heads]. */
export interface BackwardPass {
  logProbabilities: RuntimeTensor
  headGradients: RuntimeTensor
  headEntropies: RuntimeTensor
}
type RunBackward = (samples: readonly ScoredSample[], signal: AbortSignal | undefined) => Promise<BackwardPass>
type RopeFeeds = (start: number, batch: number, seq: number) => Record<string, RuntimeTensor>
const longestOf = (samples: readonly ScoredSample[]) => Math.max(1, ...samples.map(s => s.ids.length))

/** The whole model in one graph. */
export const wholeBackward =
  (d: ResolvedDimensions, session: (graph: 'head_gradients') => Promise<Session>, ropeFeeds: RopeFeeds): RunBackward =>
  async (samples, signal) => {
    const feeds = {
      ...gradientFeeds(d, samples),
      position_weights: positionWeights(samples),
      ...ropeFeeds(0, samples.length, longestOf(samples)),
    }
    const fetches = ['log_probabilities', 'head_gradients', 'head_entropies']
    const found = await (await session('head_gradients')).run(feeds, fetches, { signal })
    return {
      logProbabilities: found.log_probabilities!,
      headGradients: found.head_gradients!,
      headEntropies: found.head_entropies!,
    }
  }

/**
 * Layer by layer: forward with every layer's input kept, then backward with each layer computed again, so that the weights of one layer
 * are needed at a time.
 */
export const layerwiseBackward =
  (
    d: ResolvedDimensions,
    session: (graph: 'loss_gradient' | `layer_gradient.${number}`) => Promise<Session>,
    pieces: ModelPieces,
    ropeFeeds: RopeFeeds,
  ): RunBackward =>
  async (samples, signal) => {
    const states = [await pieces.embed(samples)]
    for (let layer = 0; layer < d.layerCount; layer++) {
      throwIfCancelled(signal)
      states.push(await pieces.layer(layer, states[layer]!, samples))
    }
    const batch = samples.length
    const all: Record<string, RuntimeTensor> = {
      ...gradientFeeds(d, samples),
      position_weights: positionWeights(samples),
      ...ropeFeeds(0, batch, longestOf(samples)),
    }
    const run = async (
      graph: 'loss_gradient' | `layer_gradient.${number}`,
      own: Record<string, RuntimeTensor>,
      fetches: string[],
    ) => {
      const opened = await session(graph)
      const feeds = Object.fromEntries(
        opened.inputs.flatMap(name => {
          const feed = own[name] ?? all[name]
          return feed ? [[name, feed]] : []
        }),
      )
      return opened.run(feeds, fetches, { signal })
    }
    const hiddenIn = (hidden: Float32Array) => floats(hidden, [hidden.length / d.hiddenSize, d.hiddenSize])
    const gates = (layers: number, heads: number) =>
      floats(new Float32Array(layers * batch * heads).fill(1), [layers, batch, heads])
    const head = await run('loss_gradient', { hidden_in: hiddenIn(states.pop()!), head_gates: gates(0, 1) }, [
      'log_probabilities',
      'hidden_gradient',
    ])
    const [headGradients, headEntropies] = [0, 1].map(
      () => new Float32Array(d.layerCount * batch * d.attentionHeadCount),
    )
    /** Rows of a layer with fewer heads than others are filled up with 0. */
    const collect = (into: Float32Array, layer: number, found: Float32Array) => {
      const own = found.length / batch
      for (let row = 0; row < batch; row++)
        into.set(found.subarray(row * own, (row + 1) * own), (layer * batch + row) * d.attentionHeadCount)
    }
    let upstream = head.hidden_gradient!
    for (let layer = d.layerCount - 1; layer >= 0; layer--) {
      throwIfCancelled(signal)
      const own = {
        hidden_in: hiddenIn(states.pop()!),
        hidden_out_gradient: upstream,
        head_gates: gates(1, layerDimensions(d, layer).attentionHeadCount),
      }
      const found = await run(`layer_gradient.${layer}`, own, ['hidden_gradient', 'head_gradients', 'head_entropies'])
      upstream = found.hidden_gradient!
      collect(headGradients!, layer, found.head_gradients!.data as Float32Array)
      collect(headEntropies!, layer, found.head_entropies!.data as Float32Array)
    }
    const shape = [d.layerCount, batch, d.attentionHeadCount]
    return {
      logProbabilities: head.log_probabilities!,
      headGradients: floats(headGradients!, shape),
      headEntropies: floats(headEntropies!, shape),
    }
  }

/**
 * Gradients per sample, in their order. A sample without completion tokens has a loss and gradients of 0.
 * @param model.run one backward pass over a batch
 * @param model.keptLayers of how many layers at once it keeps what their derivatives need
 * @param model.check throws where token ids do not suit the model
 * @throws NOT_A_NUMBER, CANCELLED between two batches
 */
export async function headGradients(
  d: ResolvedDimensions,
  model: { run: RunBackward; keptLayers: number; check(ids: readonly number[]): void },
  samples: readonly ScoredSample[],
  { signal, batchDone }: HeadGradientOptions = {},
): Promise<HeadGradients[]> {
  for (const { ids } of samples) model.check(ids)
  const heads = d.attentionHeadCount
  const results: HeadGradients[] = samples.map(() => ({
    loss: 0,
    gradients: new Float32Array(d.layerCount * heads),
    entropies: new Float32Array(d.layerCount * heads),
  }))
  const scored = samples.flatMap(({ ids, completionStart }, i) =>
    ids.length > Math.max(1, completionStart) ? [i] : [],
  )
  const longest = Math.max(1, ...scored.map(i => samples[i]!.ids.length))
  const packed = packBatches(
    scored.map(i => samples[i]!),
    d.vocabularySize,
    backwardTokens(d, longest, model.keptLayers),
  )
  for (const batch of packed) {
    throwIfCancelled(signal)
    const indices = batch.map(k => scored[k]!)
    const own = indices.map(i => samples[i]!)
    const found = await model.run(own, signal)
    const logProbabilities = finiteFloats(found.logProbabilities, 'loss')
    const byLayer = finiteFloats(found.headGradients, 'gradient of a head') // [layers, batch, heads]
    const entropies = finiteFloats(found.headEntropies, 'entropy of a head') // [layers, batch, heads]
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
        result.entropies.set(entropies.subarray(start, start + heads), layer * heads)
      }
    })
    await batchDone?.(
      indices,
      indices.map(i => results[i]!),
    )
  }
  return results
}
