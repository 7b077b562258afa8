// A batch of token sequences as the inputs of the training graph.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { floats, int64s, type RuntimeTensor } from '../runtime/session.js'
import type { TrainingGraphOptions } from './training-graph.js'

/** What a teacher says of one sequence: at each position its most likely next tokens, at one temperature. */
export interface TeacherRow {
  /** [positions, tokens] different ids within a position. */
  ids: Int32Array
  probabilities: Float32Array
  /** [positions] what they leave over, and the sum of q ln q, that of the rest included. */
  tail: Float32Array
  entropy: Float32Array
  /** By hidden loss: [positions, hidden] states of the residual stream. */
  hidden?: readonly Float32Array[]
  /** By attention loss: [kv heads, group * positions, positions]. */
  attention?: readonly Float32Array[]
}

export interface TrainingRow {
  ids: readonly number[]
  /** Per position, what the prediction of the token after it counts: in cross-entropy (0 at the last) and in divergence. */
  crossEntropyWeights?: Float32Array | undefined
  divergenceWeights?: Float32Array | undefined
  /** What each position's hidden state counts; absent: nothing. */
  hiddenWeights?: Float32Array | undefined
  teacher?: TeacherRow | undefined
  /** By layer, with `layerGates`: 1 takes part, 0 leaves its input as it is; absent: all take part. */
  layerGates?: readonly number[] | undefined
}

export interface TrainingBatch {
  rows: readonly TrainingRow[]
  /** Positions of every row; shorter ones are padded on the right. */
  seq: number
  /** Factor of the attention losses. */
  attentionWeight?: number
}

type Options = Pick<
  TrainingGraphOptions,
  'crossEntropy' | 'divergence' | 'hidden' | 'attention' | 'layerGates' | 'headChunks'
>

/** The inputs that differ from batch to batch: tokens, chosen rows with their weights, the teacher's numbers. */
export function batchFeeds(
  batch: TrainingBatch,
  d: ResolvedDimensions,
  options: Options,
): Record<string, RuntimeTensor> {
  const { rows, seq } = batch
  const feeds: Record<string, RuntimeTensor> = {
    input_ids: int64s(
      rows.flatMap(({ ids }) => [...ids, ...new Array<number>(seq - ids.length).fill(0)]),
      [rows.length, seq],
    ),
  }
  if (options.layerGates) {
    const all = new Array<number>(d.layerCount).fill(1)
    const gates = Float32Array.from(rows.flatMap(({ layerGates }) => layerGates ?? all))
    feeds.layer_gates = floats(gates, [rows.length, d.layerCount])
  }
  const chosen: { row: number; at: number }[] = []
  rows.forEach(({ ids, crossEntropyWeights, divergenceWeights }, row) => {
    for (let at = 0; at < ids.length; at++)
      if (crossEntropyWeights?.[at] || divergenceWeights?.[at]) chosen.push({ row, at })
  })
  // The graph's chunks must not be empty: rows of weight 0 change nothing.
  while (chosen.length < options.headChunks) chosen.push({ row: -1, at: 0 })
  for (let c = 0; c < options.headChunks; c++) {
    const from = Math.floor((c * chosen.length) / options.headChunks)
    const part = chosen.slice(from, Math.floor(((c + 1) * chosen.length) / options.headChunks))
    Object.assign(feeds, chunkFeeds(batch, part, c, options))
  }
  const tokens = rows.length * seq
  options.hidden?.forEach(({ kind }, i) => {
    const { states, weights } = hiddenFeeds(batch, i, kind, d.hiddenSize)
    feeds[`teacher_hidden.${i}`] = floats(states, [tokens, d.hiddenSize])
    feeds[`hidden_weights.${i}`] = floats(weights, [tokens, 1])
  })
  options.attention?.forEach((layer, i) => {
    const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
    const perRow = attentionHeadCount * seq * seq
    const all = new Float32Array(rows.length * perRow)
    rows.forEach(({ teacher }, row) => {
      if (teacher?.attention) all.set(teacher.attention[i]!, row * perRow)
    })
    feeds[`teacher_attention.${i}`] = floats(all, [
      ...[rows.length, keyValueHeadCount, (attentionHeadCount / keyValueHeadCount) * seq, seq],
    ])
  })
  if (options.attention?.length) feeds.attention_weight = floats(Float32Array.of(batch.attentionWeight ?? 0), [])
  return feeds
}

function chunkFeeds(
  { rows, seq }: TrainingBatch,
  part: readonly { row: number; at: number }[],
  c: number,
  { crossEntropy, divergence }: Options,
): Record<string, RuntimeTensor> {
  const n = part.length
  const column = (value: (row: TrainingRow, at: number) => number) =>
    floats(
      Float32Array.from(part, ({ row, at }) => (row < 0 ? 0 : value(rows[row]!, at))),
      [n, 1],
    )
  const feeds: Record<string, RuntimeTensor> = {
    [`rows.${c}`]: int64s(part.map(({ row, at }) => (row < 0 ? 0 : row * seq + at))),
  }
  if (crossEntropy) {
    feeds[`labels.${c}`] = int64s(
      part.map(({ row, at }) => rows[row]?.ids[at + 1] ?? 0),
      [n, 1],
    )
    feeds[`ce_weights.${c}`] = column((row, at) => row.crossEntropyWeights?.[at] ?? 0)
  }
  if (divergence) {
    const k = divergence.tokens
    const ids = new Int32Array(n * k)
    const probabilities = new Float32Array(n * k)
    part.forEach(({ row, at }, i) => {
      const teacher = rows[row]?.teacher
      if (teacher) {
        ids.set(teacher.ids.subarray(at * k, (at + 1) * k), i * k)
        probabilities.set(teacher.probabilities.subarray(at * k, (at + 1) * k), i * k)
      } else for (let j = 0; j < k; j++) ids[i * k + j] = j
    })
    feeds[`teacher_ids.${c}`] = { type: 'int32', data: ids, shape: [n, k] }
    feeds[`teacher_probabilities.${c}`] = floats(probabilities, [n, k])
    feeds[`teacher_tail.${c}`] = column((row, at) => row.teacher?.tail[at] ?? 0)
    feeds[`teacher_entropy.${c}`] = column((row, at) => row.teacher?.entropy[at] ?? 0)
    feeds[`kl_weights.${c}`] = column((row, at) => (row.teacher ? (row.divergenceWeights?.[at] ?? 0) : 0))
  }
  return feeds
}

/** For `mse` the weights are divided by the squared length of the teacher's state; for `cosine` the states get length 1. */
function hiddenFeeds({ rows, seq }: TrainingBatch, index: number, kind: 'mse' | 'cosine', width: number) {
  const states = new Float32Array(rows.length * seq * width)
  const weights = new Float32Array(rows.length * seq)
  rows.forEach(({ ids, teacher, hiddenWeights }, row) => {
    const own = teacher?.hidden?.[index]
    if (!own || !hiddenWeights) return
    const begin = row * seq * width
    states.set(own, begin)
    for (let at = 0; at < ids.length; at++) {
      const state = states.subarray(begin + at * width, begin + (at + 1) * width)
      let squares = 0
      for (const x of state) squares += x * x
      if (squares === 0) continue
      weights[row * seq + at] = hiddenWeights[at]! / (kind === 'mse' ? squares : 1)
      if (kind === 'cosine') for (let i = 0; i < width; i++) state[i]! /= Math.sqrt(squares)
    }
  })
  return { states, weights }
}
