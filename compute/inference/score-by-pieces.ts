// Losses of samples with a model that is larger than memory: one layer after the other over all samples, so that its weights are read once.
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { finiteFloats, floats } from '../runtime/session.js'
import { packBatches } from './batches.js'
import { throwIfCancelled } from './cancellation.js'
import type { LayerProbes, SampleScore, ScoredSample, ScoreOptions } from './model.js'
import { longestOf, type ModelPieces } from './model-pieces.js'

/** Residual streams kept at once, in bytes; more samples go through the model in turns. */
const stateBytes = 256 * 1024 * 1024
/** Padded tokens of one run. */
const runTokens = 2048

/** The same scores as the measuring graph's. Throws NOT_A_NUMBER, CANCELLED between two runs, and what pieces throw. */
export async function scoreByPieces(
  d: ResolvedDimensions,
  pieces: ModelPieces,
  samples: readonly ScoredSample[],
  { gates, probes = false, signal, onProgress }: ScoreOptions,
): Promise<SampleScore[]> {
  const scores = new Array<SampleScore>(samples.length)
  let done = 0
  for (const [layers, indices] of byLayers(samples, gates, d.layerCount)) {
    const batches = packBatches(
      indices.map(i => samples[i]!),
      d.vocabularySize,
      runTokens,
    ).map(batch => batch.map(k => indices[k]!))
    for (const turn of turnsOf(batches, samples, d.hiddenSize)) {
      await scoreTurn(d, pieces, layers, turn, samples, scores, probes, signal)
      done += turn.reduce((sum, batch) => sum + batch.length, 0)
      onProgress?.(done)
    }
  }
  return scores
}

/** Samples by the layers that run for them. */
function byLayers(samples: readonly ScoredSample[], gates: ScoreOptions['gates'], layerCount: number) {
  const groups = new Map<string, [layers: number[], samples: number[]]>()
  samples.forEach((_, index) => {
    const own = gates instanceof Float32Array ? gates : gates?.[index]
    const layers = Array.from({ length: layerCount }, (_, layer) => layer).filter(layer => (own?.[layer] ?? 1) !== 0)
    const key = layers.join()
    const group = groups.get(key) ?? [layers, []]
    group[1].push(index)
    groups.set(key, group)
  })
  return groups.values()
}

/** Batches whose states may be kept together. */
function* turnsOf(batches: readonly number[][], samples: readonly ScoredSample[], hiddenSize: number) {
  let turn: number[][] = []
  let bytes = 0
  for (const batch of batches) {
    const own = 4 * hiddenSize * batch.length * longestOf(batch.map(i => samples[i]!))
    if (turn.length > 0 && bytes + own > stateBytes) {
      yield turn
      turn = []
      bytes = 0
    }
    turn.push(batch)
    bytes += own
  }
  if (turn.length > 0) yield turn
}

async function scoreTurn(
  d: ResolvedDimensions,
  pieces: ModelPieces,
  layers: readonly number[],
  batches: readonly number[][],
  samples: readonly ScoredSample[],
  scores: SampleScore[],
  probes: boolean,
  signal: AbortSignal | undefined,
) {
  const rows = batches.map(batch => batch.map(i => samples[i]!))
  const sums = rows.map(own => own.map(({ ids }) => noProbes(ids.length, d.layerCount)))
  const states: Float32Array[] = []
  for (const own of rows) states.push(await pieces.embed(own))
  const each = async (work: (own: readonly ScoredSample[], index: number) => Promise<void>) => {
    for (const [index, own] of rows.entries()) {
      throwIfCancelled(signal)
      await work(own, index)
    }
  }
  for (let layer = 0; layer < d.layerCount; layer++) {
    const runs = layers.includes(layer)
    if (!runs && !probes) continue
    await each(async (own, index) => {
      const before = states[index]!
      if (runs) states[index] = await pieces.layer(layer, before, own)
      if (probes) addProbes(sums[index]!, layer, before, states[index]!, own, d.hiddenSize)
    })
  }
  await each(async (own, index) => {
    const found = await pieces.losses(states[index]!, own)
    found.forEach(({ hits = 0, ...measured }, row) => {
      const score = { ...measured, hits }
      finiteFloats(floats(Float32Array.of(score.nll), [1]), 'loss')
      scores[batches[index]![row]!] = probes ? { ...score, probes: sums[index]![row]! } : score
    })
  })
}

const noProbes = (tokens: number, layerCount: number): LayerProbes => ({
  tokens,
  cosine: new Float64Array(layerCount),
  norm: new Float64Array(layerCount),
})

/** Adds what one layer does to each row's tokens: cos(input, output), 0 where one has no direction, and the output's L2 norm. */
function addProbes(
  sums: readonly LayerProbes[],
  layer: number,
  before: Float32Array,
  after: Float32Array,
  rows: readonly ScoredSample[],
  hiddenSize: number,
) {
  const longest = longestOf(rows)
  rows.forEach(({ ids }, row) => {
    for (let token = 0; token < ids.length; token++) {
      const from = (row * longest + token) * hiddenSize
      let [dot, squareBefore, squareAfter] = [0, 0, 0]
      for (let i = from; i < from + hiddenSize; i++) {
        dot += before[i]! * after[i]!
        squareBefore += before[i]! ** 2
        squareAfter += after[i]! ** 2
      }
      const scale = Math.sqrt(squareBefore * squareAfter)
      sums[row]!.cosine[layer]! += scale === 0 ? 0 : dot / scale
      sums[row]!.norm[layer]! += Math.sqrt(squareAfter)
    }
  })
}
