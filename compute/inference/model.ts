// A model that can be run: sessions over a manifest's weights, made when first needed; forward passes, losses with layer gates, decoding.
import { totalmem } from 'node:os'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import type { Fusion } from '../../lib/fusion.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { checkBuildable } from '../architectures/registry.js'
import { readTensorFloat32 } from '../formats/float-weights.js'
import type { BackendName } from '../runtime/backend-face.js'
import type { DeviceChoice } from '../runtime/providers.js'
import { finiteFloats, floats, int32s, int64s, type RuntimeTensor } from '../runtime/session.js'
import { packBatches } from './batches.js'
import { throwIfCancelled } from './cancellation.js'
import { type DecodingBatch, decodingBatch } from './decoding-batch.js'
import { type DecodingSequence, type RunTokens, startSequence } from './decoding-sequence.js'
import { positionInputs } from './graph-inputs.js'
import {
  type HeadGradientOptions,
  type HeadGradients,
  headGradients,
  layerwiseBackward,
  wholeBackward,
} from './head-gradients.js'
import { type ModelPieces, modelPieces } from './model-pieces.js'
import { modelSessions } from './model-sessions.js'
import type { PrefixStore } from './prefix-store.js'
import { type RopeTables, ropeTables } from './rope.js'
import { scoreByPieces } from './score-by-pieces.js'

export interface ModelContext {
  payloads: PayloadStore
  dataFolder: string
  env: Pick<Env, 'HARTONOMOUS_THREADS' | 'HARTONOMOUS_DERIVED_BYTES'> & Partial<Pick<Env, 'HARTONOMOUS_KERNELS'>>
  signal?: AbortSignal
  /** How ONNX Runtime is called; absent: the best way there is. */
  backend?: BackendName
  /** Where the times of the decoding graph's nodes are written (see `SessionOptions.profile`). */
  profile?: string
  /** What is computed together in the graphs that decode; absent: what the engine does of itself, and what the manifest says. */
  fusions?: Partial<Record<'step' | 'generate', readonly Fusion[]>>
  /** What computes; absent: the process's own device. */
  device?: DeviceChoice
  /** Where sequences that ended are kept for those that begin alike; absent: nowhere. */
  prefixes?: PrefixStore
}

/** Token ids of prompt and completion joined; the loss counts tokens from `completionStart` on (never token 0). */
export interface ScoredSample {
  ids: readonly number[]
  completionStart: number
}

export interface SampleScore {
  /** Summed negative log-likelihood of the completion's tokens, in nats. */
  nll: number
  completionTokens: number
  /** Completion tokens that are the arg-max under teacher forcing. */
  hits: number
  /** With `probes`: per layer, sums over all tokens of the sample. */
  probes?: LayerProbes
}

export interface LayerProbes {
  /** Tokens the sums run over. */
  tokens: number
  /** [layers] sum of cos(layer input, layer output). */
  cosine: Float64Array
  /** [layers] sum of the L2 norm of the layer's output. */
  norm: Float64Array
}

export interface ScoreOptions {
  /** [layers], 1 runs a layer, 0 skips it (its input goes on unchanged); absent: all 1. One for all samples, or one for each. */
  gates?: Float32Array | readonly Float32Array[]
  probes?: boolean
  signal?: AbortSignal
  /** Called after each batch with the samples done so far. */
  onProgress?: (done: number) => void
}

export interface ForwardRequest {
  /** One or more sequences of token ids; they need not have one length. */
  ids: readonly (readonly number[])[]
  /** Per sequence [layers]. */
  gates?: readonly Float32Array[]
  wantLogits: 'all' | 'last' | 'none'
}

export interface ForwardResult {
  /** Per sequence: [positions, vocabulary] for `all`, [vocabulary] for `last`. */
  logits: Float32Array[]
  /** Per sequence: [layers + 1][tokens] L2 norm of the residual stream; 0 the embedding, l + 1 after layer l. */
  norms: Float32Array[][]
  /** Per sequence: [layers][tokens] cos(layer input, layer output). */
  cosines: Float32Array[][]
}

export interface LoadedModel {
  readonly manifest: Manifest
  readonly dimensions: ResolvedDimensions
  /** Whether it is larger than memory or the cache of derived files: losses and gradients are then computed layer by layer. */
  readonly pieceByPiece: boolean
  /** Logits and per-layer probes of whole sequences. */
  forward(request: ForwardRequest): Promise<ForwardResult>
  /** Losses of samples in their order; batched by length, padded on the right. */
  score(samples: readonly ScoredSample[], options?: ScoreOptions): Promise<SampleScore[]>
  /** Per sample the gradients of its mean completion loss for the gates of all query heads; one backward pass per batch. */
  headGradients(samples: readonly ScoredSample[], options?: HeadGradientOptions): Promise<HeadGradients[]>
  /** A sequence with buffers and runs of its own. */
  startSequence(): DecodingSequence
  /** Sequences that share their runs: what generations go through. */
  readonly batch: DecodingBatch
  /** The same computation layer by layer, for measurements that share work. */
  readonly pieces: ModelPieces
  dispose(): Promise<void>
}

/** Of the machine's memory, for keys and values of all sequences of a batch. */
const largestCacheShare = 1 / 4
/** Rope tables grow in steps of this many positions. */
const ropeStep = 512

/**
 * Opens a model for running. Weights are mapped from files below `dataFolder`; quantised and half-precision tensors become float32 files once.
 * Throws UNSUPPORTED_ARCHITECTURE, MISSING_TENSOR, SHAPE_MISMATCH, UNSUPPORTED_FORMAT, PAYLOAD_MISSING, DISK_FULL.
 */
export async function openModel(manifest: Manifest, context: ModelContext): Promise<LoadedModel> {
  const model = checkBuildable(manifest)
  const { dimensions: d, tensors } = model
  const factors = tensors.get('rope_factors')
  const ropeFactors = factors && (await readTensorFloat32(context.payloads, factors))
  const asked = positionInputs(model)
  let rope: RopeTables = ropeTables(d, asked.tables ? ropeStep : 0, ropeFactors)
  const { session, stepGraph, promptGraph, pieceByPiece, dispose } = await modelSessions(manifest, model, context)

  const checkIds = (ids: readonly number[], length: number) => {
    if (length > d.contextLength) {
      throw new DomainError(
        'CONTEXT_LENGTH_EXCEEDED',
        `${length} tokens are more than the model's context of ${d.contextLength}`,
      )
    }
    const wrong = ids.find(id => !Number.isInteger(id) || id < 0 || id >= d.vocabularySize)
    if (wrong !== undefined) {
      throw new DomainError(
        'BAD_USER_INPUT',
        `Token id ${wrong} is outside the model's vocabulary of ${d.vocabularySize}`,
      )
    }
  }
  /** Tables for at least this many positions, and the ids of positions, where the graph asks for them; `starts` [batch]. */
  const positionFeeds = (starts: readonly number[], seq: number): Record<string, RuntimeTensor> => {
    const end = Math.max(...starts) + seq
    if (asked.tables && rope.positions < end) {
      rope = ropeTables(d, Math.ceil(end / ropeStep) * ropeStep, ropeFactors)
    }
    const shape = [rope.positions, d.headSize / 2]
    const tables = asked.tables ? { rope_cos: floats(rope.cos, shape), rope_sin: floats(rope.sin, shape) } : undefined
    if (!asked.ids) return { ...tables }
    const positions = starts.flatMap(start => Array.from({ length: seq }, (_, i) => start + i))
    return { ...tables, position_ids: int64s(positions, [starts.length, seq]) }
  }
  const ropeFeeds = (start: number, batch: number, seq: number) =>
    positionFeeds(new Array<number>(batch).fill(start), seq)

  /** Runs the measuring graph on one padded batch; `rows` are flat token positions (row * seq + position). */
  const measure = async (
    batch: readonly (readonly number[])[],
    gates: readonly (Float32Array | undefined)[],
    rows: readonly number[],
    targets: readonly number[],
    fetches: readonly string[],
    signal?: AbortSignal,
  ) => {
    const seq = Math.max(1, ...batch.map(ids => ids.length))
    const flatIds = batch.flatMap(ids => [...ids, ...new Array<number>(seq - ids.length).fill(0)])
    const flatGates = new Float32Array(batch.length * d.layerCount).fill(1)
    gates.forEach((gate, row) => {
      if (!gate) return
      if (gate.length !== d.layerCount) throw new Error(`${gate.length} gates for ${d.layerCount} layers`)
      flatGates.set(gate, row * d.layerCount)
    })
    const feeds = {
      input_ids: int64s(flatIds, [batch.length, seq]),
      last_positions: int32s(new Array<number>(batch.length).fill(seq - 1)),
      total_length: int32s([seq], []),
      layer_gates: floats(flatGates, [batch.length, d.layerCount]),
      rows: int64s(rows),
      targets: int64s(targets),
      ...ropeFeeds(0, batch.length, seq),
    }
    if (fetches.length === 0) return { seq, results: {} }
    return { seq, results: await (await session('measure')).run(feeds, fetches, { signal }) }
  }

  const pieces = modelPieces(d, { session, check: ids => checkIds(ids, ids.length), ropeFeeds })

  const runTokens: RunTokens = async (ids, starts, rows, { past, present }, signal) => {
    const seq = ids[0]!.length
    ids.forEach((own, row) => {
      checkIds(own, starts[row]! + seq)
    })
    const feeds = {
      input_ids: int64s(ids.flat(), [ids.length, seq]),
      last_positions: int32s(starts.map(start => start + seq - 1)),
      total_length: int32s([Math.max(...starts) + seq], []),
      rows: int64s(rows),
      ...positionFeeds(starts, seq),
      ...past,
    }
    const fetches = [...Object.keys(present), ...(rows.length > 0 ? ['logits'] : [])]
    return (await session(seq === 1 ? stepGraph : promptGraph)).run(feeds, fetches, { into: present, signal })
  }

  const batch = decodingBatch(
    { name: manifest.sourceName ?? manifest.architecture, dimensions: d, run: runTokens, check: checkIds },
    context.prefixes,
    totalmem() * largestCacheShare,
  )

  return {
    manifest,
    dimensions: d,
    pieceByPiece,

    async forward({ ids, gates = [], wantLogits }) {
      ids.forEach(sequence => {
        checkIds(sequence, sequence.length)
      })
      const seq = Math.max(1, ...ids.map(sequence => sequence.length))
      const positions = ids.map((sequence, row) => {
        const all = sequence.map((_, i) => row * seq + i)
        return wantLogits === 'all' ? all : wantLogits === 'last' ? all.slice(-1) : []
      })
      const rows = positions.flat()
      const fetches = ['norms', 'cosines', ...(rows.length > 0 ? ['logits'] : [])]
      const { results } = await measure(ids, gates, rows, new Array<number>(rows.length).fill(0), fetches)
      const tokens = ids.length * seq
      const perSequence = (data: Float32Array, count: number) =>
        ids.map((sequence, row) =>
          Array.from({ length: count }, (_, layer) => {
            const start = layer * tokens + row * seq
            return data.subarray(start, start + sequence.length)
          }),
        )
      const logits = rows.length > 0 ? finiteFloats(results.logits!, 'logits') : new Float32Array()
      let taken = 0
      return {
        logits: positions.map(({ length }) => {
          const start = taken * d.vocabularySize
          taken += length
          return logits.subarray(start, taken * d.vocabularySize)
        }),
        norms: perSequence(results.norms!.data as Float32Array, d.layerCount + 1),
        cosines: perSequence(results.cosines!.data as Float32Array, d.layerCount),
      }
    },

    async score(samples, options = {}) {
      if (pieceByPiece) return scoreByPieces(d, pieces, samples, options)
      const { gates, probes = false, signal, onProgress } = options
      const scores: SampleScore[] = new Array(samples.length)
      let done = 0
      for (const batch of packBatches(samples, d.vocabularySize)) {
        throwIfCancelled(signal)
        const ids = batch.map(index => samples[index]!.ids)
        ids.forEach(sequence => {
          checkIds(sequence, sequence.length)
        })
        const seq = Math.max(1, ...ids.map(sequence => sequence.length))
        const rows: number[] = []
        const targets: number[] = []
        const starts = batch.map((index, row) => {
          const { ids: own, completionStart } = samples[index]!
          const from = rows.length
          for (let i = Math.max(1, completionStart); i < own.length; i++) {
            rows.push(row * seq + i - 1)
            targets.push(own[i]!)
          }
          return { from, to: rows.length }
        })
        const ownGates = batch.map(index => (gates instanceof Float32Array ? gates : gates?.[index]))
        const fetches = [
          ...(rows.length > 0 ? ['log_probabilities', 'predictions'] : []),
          ...(probes ? ['norms', 'cosines'] : []),
        ]
        const { results } = await measure(ids, ownGates, rows, targets, fetches, signal)
        const logProbabilities = rows.length > 0 ? finiteFloats(results.log_probabilities!, 'loss') : new Float32Array()
        const predictions = (results.predictions?.data ?? new BigInt64Array()) as BigInt64Array
        batch.forEach((index, row) => {
          const { from, to } = starts[row]!
          let sum = 0
          let hits = 0
          for (let i = from; i < to; i++) {
            sum -= logProbabilities[i]!
            if (Number(predictions[i]) === targets[i]) hits++
          }
          scores[index] = { nll: sum, completionTokens: to - from, hits }
          if (probes)
            scores[index].probes = sumProbes(results, row, seq, batch.length * seq, ids[row]!.length, d.layerCount)
        })
        done += batch.length
        onProgress?.(done)
      }
      return scores
    },

    headGradients: (samples, options) =>
      headGradients(
        d,
        pieceByPiece
          ? {
              run: layerwiseBackward(d, session, pieces, ropeFeeds),
              keptLayers: 1,
              check: ids => checkIds(ids, ids.length),
            }
          : {
              run: wholeBackward(d, session, ropeFeeds),
              keptLayers: d.layerCount,
              check: ids => checkIds(ids, ids.length),
            },
        samples,
        options,
      ),

    startSequence: () => startSequence(d, runTokens),
    batch,

    pieces,

    dispose() {
      batch.dispose()
      return dispose()
    },
  }
}

/** Sums over the real tokens of one row of a padded batch; probe results are [layers (+ 1), batch tokens]. */
function sumProbes(
  results: Record<string, RuntimeTensor>,
  row: number,
  seq: number,
  batchTokens: number,
  tokens: number,
  layerCount: number,
): LayerProbes {
  const norms = results.norms!.data as Float32Array
  const cosines = results.cosines!.data as Float32Array
  const cosine = new Float64Array(layerCount)
  const norm = new Float64Array(layerCount)
  for (let layer = 0; layer < layerCount; layer++) {
    for (let i = row * seq; i < row * seq + tokens; i++) {
      cosine[layer]! += cosines[layer * batchTokens + i]!
      norm[layer]! += norms[(layer + 1) * batchTokens + i]!
    }
  }
  return { tokens, cosine, norm }
}
