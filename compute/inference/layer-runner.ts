// A model layer by layer with its inside open, for measurements that choose what to cut and fit what is left. Sessions of one layer at a time.
import { relative } from 'node:path'
import type { Manifest } from '../../lib/manifest.js'
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import {
  type DerivedContext,
  ensureFloat32,
  keepFiles,
  readTensorFloat32,
  releaseFiles,
} from '../formats/float-weights.js'
import type { ExternalData, Graph } from '../graph/ir.js'
import { createSession, floats, int32s, int64s, type RuntimeTensor, type Session } from '../runtime/session.js'
import { positionInputs } from './graph-inputs.js'
import { buildModelGraph, type GraphVariant } from './model-graph.js'
import { observedLayer, productSumsGraph, type Tap, unitSizesGraph } from './observed-layer.js'
import { ropeTables } from './rope.js'

/** A sample as tokens; the loss counts those from `completionStart` on. */
export interface RunnerSample {
  capability: string
  ids: readonly number[]
  completionStart: number
}

/** Samples run together, padded on the right to the longest. */
export interface RunnerBatch {
  samples: readonly RunnerSample[]
  /** Padded length. */
  seq: number
}

export type Hidden = Float32Array

export interface Observed {
  hidden: Hidden
  taps: Readonly<Partial<Record<Tap, RuntimeTensor>>>
}

export interface LayerRunner {
  readonly manifest: Manifest
  readonly dimensions: ResolvedDimensions
  embed(batch: RunnerBatch): Promise<Hidden>
  layer(layer: number, hidden: Hidden, batch: RunnerBatch): Promise<Hidden>
  /** A layer's output and what its inside gave; `removed` query heads give 0 before the output projection. */
  observe(
    layer: number,
    hidden: Hidden,
    batch: RunnerBatch,
    options: { taps?: readonly Tap[]; removed?: readonly number[] },
  ): Promise<Observed>
  /** Per sample the summed negative log-likelihood of its completion, nats. */
  losses(hidden: Hidden, batch: RunnerBatch): Promise<number[]>
  /** Gives the sessions of layers back; the next run of one makes it anew. */
  release(): Promise<void>
  dispose(): Promise<void>
  /** Multiplications and additions of all runs so far: 2 per weight of a layer or head and token, attention scores not counted. */
  readonly flops: number
}

export interface RunnerContext extends DerivedContext {
  env: DerivedContext['env'] & { HARTONOMOUS_THREADS: number }
  signal: AbortSignal
}

/** Padded tokens of a batch. */
const batchTokens = 2048

/** Samples in batches of similar length. */
export function toBatches(samples: readonly RunnerSample[]): RunnerBatch[] {
  const order = [...samples].sort((a, b) => a.ids.length - b.ids.length)
  const batches: RunnerBatch[] = []
  let from = 0
  for (let to = 1; to <= order.length; to++) {
    const next = order[to]
    if (next && (to - from + 1) * next.ids.length <= batchTokens) continue
    const own = order.slice(from, to)
    batches.push({ samples: own, seq: Math.max(...own.map(s => s.ids.length)) })
    from = to
  }
  return batches
}

/** Tokens of a batch but padding and each sample's first, whose residual is far beyond all others (arXiv 2309.17453), as 1 and 0: [tokens, 1]. */
export function countedTokens({ samples, seq }: RunnerBatch): RuntimeTensor {
  const weights = new Float32Array(samples.length * seq)
  samples.forEach(({ ids }, row) => {
    weights.fill(1, row * seq + 1, row * seq + ids.length)
  })
  return floats(weights, [weights.length, 1])
}

/**
 * Opens a model; its weights become float32 files where they are not.
 * @param replaced files of float32 within the data folder that stand in for matrices, by role
 * @throws what `openModel` throws
 */
export async function openLayers(
  manifest: Manifest,
  context: RunnerContext,
  replaced: ReadonlyMap<string, string> = new Map(),
): Promise<LayerRunner> {
  const model = checkBuildable(manifest)
  const { dimensions: d, tensors } = model
  const kept = keepFiles()
  const factors = tensors.get('rope_factors')
  const ropeFactors = factors && (await readTensorFloat32(context.payloads, factors))
  const asked = positionInputs(model)
  let rope = ropeTables(d, 0, ropeFactors)
  const sessions = new Map<string, Promise<Session>>()
  let flops = 0

  const makeSession = async (variant: GraphVariant, observed: boolean): Promise<Session> => {
    const files = new Map<string, ExternalData>()
    for (const role of rolesOf(model, variant)) {
      const tensor = tensors.get(role)!
      const path = replaced.get(role) ?? (await ensureFloat32({ ...context, kept }, tensor))
      const length = tensor.shape.reduce((product, size) => product * size, 4)
      files.set(role, { location: relative(context.dataFolder, path), offset: 0, length })
    }
    const graph = buildModelGraph(model, variant, role => files.get(role)!)
    return open(observed ? observedLayer(graph, Number(variant.split('.')[1])) : graph, context)
  }
  const session = (variant: GraphVariant, observed = false): Promise<Session> => {
    const key = `${variant}${observed ? ' observed' : ''}`
    const known = sessions.get(key) ?? makeSession(variant, observed)
    sessions.set(key, known)
    return known
  }
  const feedsOf = new WeakMap<RunnerBatch, Record<string, RuntimeTensor>>()
  const feeds = (batch: RunnerBatch): Record<string, RuntimeTensor> => {
    const { samples, seq } = batch
    const known = feedsOf.get(batch)
    if (known) return known
    if (asked.tables && rope.positions < seq) rope = ropeTables(d, seq, ropeFactors)
    const shape = [rope.positions, d.headSize / 2]
    const made: Record<string, RuntimeTensor> = {
      input_ids: int64s(
        samples.flatMap(({ ids }) => [...ids, ...new Array<number>(seq - ids.length).fill(0)]),
        [samples.length, seq],
      ),
      last_positions: int32s(new Array<number>(samples.length).fill(seq - 1)),
      total_length: int32s([seq], []),
      ...(asked.tables ? { rope_cos: floats(rope.cos, shape), rope_sin: floats(rope.sin, shape) } : {}),
      ...(asked.ids
        ? {
            position_ids: int64s(
              Array.from({ length: samples.length * seq }, (_, i) => i % seq),
              [samples.length, seq],
            ),
          }
        : {}),
    }
    feedsOf.set(batch, made)
    return made
  }
  const { signal } = context
  const hiddenIn = (hidden: Hidden) => floats(hidden, [hidden.length / d.hiddenSize, d.hiddenSize])
  const weightsOf = (part: (role: string) => boolean) =>
    [...tensors].reduce((sum, [role, { shape }]) => sum + (part(role) ? shape.reduce((a, b) => a * b, 1) : 0), 0)
  const layerWeights = Array.from({ length: d.layerCount }, (_, layer) =>
    weightsOf(role => role.startsWith(`layers.${layer}.`)),
  )

  return {
    manifest,
    dimensions: d,
    get flops() {
      return flops
    },
    async embed(batch) {
      const { hidden_out } = await (await session('embed')).run(feeds(batch), ['hidden_out'], { signal })
      return hidden_out!.data as Hidden
    },
    async layer(layer, hidden, batch) {
      const given = { ...feeds(batch), hidden_in: hiddenIn(hidden) }
      const { hidden_out } = await (await session(`layer.${layer}`)).run(given, ['hidden_out'], { signal })
      flops += 2 * layerWeights[layer]! * (hidden.length / d.hiddenSize)
      return hidden_out!.data as Hidden
    },
    async observe(layer, hidden, batch, { taps = [], removed = [] }) {
      const { attentionHeadCount, headSize } = layerDimensions(d, layer)
      const gates = new Float32Array(attentionHeadCount * headSize).fill(1)
      for (const head of removed) gates.fill(0, head * headSize, (head + 1) * headSize)
      const given = { ...feeds(batch), hidden_in: hiddenIn(hidden), head_gates: floats(gates, [gates.length]) }
      const results = await (await session(`layer.${layer}`, true)).run(given, ['hidden_out', ...taps], { signal })
      flops += 2 * layerWeights[layer]! * (hidden.length / d.hiddenSize)
      const { hidden_out, ...tapped } = results
      return { hidden: hidden_out!.data as Hidden, taps: tapped }
    },
    async losses(hidden, batch) {
      const { samples, seq } = batch
      const wanted = samples.flatMap(({ ids, completionStart }, sample) =>
        ids.flatMap((target, i) =>
          i >= Math.max(1, completionStart) ? [{ sample, row: sample * seq + i - 1, target }] : [],
        ),
      )
      const sums = new Array<number>(samples.length).fill(0)
      // Logits of a run: 64 MB.
      const step = Math.max(1, Math.floor((16 * 1024 * 1024) / d.vocabularySize))
      for (let from = 0; from < wanted.length; from += step) {
        const part = wanted.slice(from, from + step)
        const given = {
          ...feeds(batch),
          hidden_in: hiddenIn(hidden),
          rows: int64s(part.map(w => w.row)),
          targets: int64s(part.map(w => w.target)),
        }
        const results = await (await session('losses')).run(given, ['log_probabilities'], { signal })
        const found = results.log_probabilities!.data as Float32Array
        part.forEach(({ sample }, i) => {
          sums[sample]! -= found[i]!
        })
        flops += 2 * d.vocabularySize * d.hiddenSize * part.length
      }
      return sums
    },
    async release() {
      for (const [key, opened] of [...sessions]) {
        if (!key.startsWith('layer.')) continue
        sessions.delete(key)
        await (await opened).dispose()
      }
    },
    async dispose() {
      const opened = await Promise.allSettled(sessions.values())
      sessions.clear()
      for (const one of opened) if (one.status === 'fulfilled') await one.value.dispose()
      releaseFiles(kept)
    },
  }
}

const open = (graph: Graph, { dataFolder, env }: RunnerContext) =>
  createSession(graph, { weightsFolder: dataFolder, threads: env.HARTONOMOUS_THREADS, arena: false })

function rolesOf(model: BuildableModel, variant: GraphVariant): Set<string> {
  const roles = new Set<string>()
  buildModelGraph(model, variant, role => {
    roles.add(role)
    return { location: '', offset: 0, length: 0 }
  })
  return roles
}

export interface Statistics {
  /** Sum over counted tokens of a_i * b_j, [p, q] in float64. */
  productSums(pairs: readonly { a: RuntimeTensor; b: RuntimeTensor; weights: RuntimeTensor }[]): Promise<Float64Array>
  /** Minitron's size of each unit over all batches (see `unitSizesGraph`). */
  unitSizes(parts: readonly { x: RuntimeTensor; batch: RunnerBatch }[]): Promise<number[]>
  dispose(): Promise<void>
}

/** Sums over what layers gave, by graphs. */
export function openStatistics(context: RunnerContext): Statistics {
  const sessions = new Map<string, Promise<Session>>()
  const session = (key: string, graph: () => Graph) => {
    const known = sessions.get(key) ?? open(graph(), context)
    sessions.set(key, known)
    return known
  }
  const { signal } = context
  return {
    async productSums(pairs) {
      const [p, q] = [pairs[0]!.a.shape[1]!, pairs[0]!.b.shape[1]!]
      const sums = new Float64Array(p * q)
      for (const feeds of pairs) {
        const found = await (await session(`${p} ${q}`, () => productSumsGraph(p, q))).run({ ...feeds }, ['sums'], {
          signal,
        })
        const own = found.sums!.data as Float32Array
        for (let i = 0; i < sums.length; i++) sums[i]! += own[i]!
      }
      return sums
    },
    async unitSizes(parts) {
      const size = parts[0]!.x.shape[1]!
      const sums = new Array<number>(size).fill(0)
      for (const { x, batch } of parts) {
        const { samples, seq } = batch
        const means = new Float32Array(samples.length * samples.length * seq)
        samples.forEach(({ ids }, row) => {
          const start = (row * samples.length + row) * seq
          means.fill(1 / ids.length, start, start + ids.length)
        })
        const feeds = { x, means: floats(means, [samples.length, samples.length * seq]) }
        const found = await (await session(`size ${size}`, () => unitSizesGraph(size))).run(feeds, ['sizes'], {
          signal,
        })
        const own = found.sizes!.data as Float32Array
        for (let i = 0; i < size; i++) sums[i]! += own[i]!
      }
      return sums.map(Math.sqrt)
    },
    async dispose() {
      for (const opened of await Promise.allSettled(sessions.values()))
        if (opened.status === 'fulfilled') await opened.value.dispose()
    },
  }
}
