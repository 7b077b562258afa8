// Layers whose outputs on a capability's samples differ from those on others in the same way, with what they carry.
import { decodeVector } from './activations.js'
import {
  type ClusterRole,
  type Comparison,
  carries,
  clusterLabel,
  commonLabel,
  idle,
  looseLabel,
  singleLabel,
  unchecked,
} from './cluster-labels.js'
import { adjustedRand, cluster, labelsOf, unit } from './clustering.js'
import type { LayerAnalysis } from './layer-influence.js'
import type { SampleRecord } from './sample-records.js'

/** More clusters than these name nothing any more. */
const mostClusters = 6
/** With fewer samples of a capability nothing can be said of halves. */
const leastSamples = 4
/** Agreement of the halves' clusters below which there are none. */
const leastStability = 0.5
/** How many times the median layer one costs every capability that all of them rest on. */
const commonCost = 3

export interface LayerCluster {
  capability: string
  layers: number[]
  silhouette: number
  /** How far the clusters of two halves of the samples agree, 1 fully, 0 as by chance; null where too few samples tell. */
  stability: number | null
  lossIncrease: number
  role: ClusterRole
  label: string
}

/** [layer][hidden] mean over samples of the layers' mean outputs. */
export function meanCentroids(records: readonly SampleRecord[], layerCount: number, hiddenSize: number): Float32Array {
  const sum = new Float32Array(layerCount * hiddenSize)
  for (const { centroids } of records) {
    const own = decodeVector(centroids, sum.length)
    if (!own) throw new Error(`a record does not hold ${layerCount} vectors of ${hiddenSize}`)
    for (let i = 0; i < sum.length; i++) sum[i]! += own[i]! / records.length
  }
  return sum
}

/** Mean outputs of a capability's samples, [layers * hidden], and the same of two halves of them; undefined where halves are too small. */
export interface LayerVectors {
  all: Float32Array
  halves?: readonly [Float32Array, Float32Array] | undefined
}

/**
 * The vectors of all samples, and of two halves that share every sub-capability alike, however the file orders them.
 * @param subtasks of the samples
 */
export function layerVectors(
  records: readonly SampleRecord[],
  subtasks: readonly string[],
  layerCount: number,
  hiddenSize: number,
): LayerVectors {
  const vectors = (own: readonly SampleRecord[]) => meanCentroids(own, layerCount, hiddenSize)
  const all = vectors(records)
  if (records.length < leastSamples) return { all }
  const bySubtask = [...new Set(subtasks)].flatMap(subtask => records.filter((_, i) => subtasks[i] === subtask))
  const half = (rest: number) => vectors(bySubtask.filter((_, i) => i % 2 === rest))
  return { all, halves: [half(0), half(1)] }
}

/**
 * What a layer does for one capability: how its mean output differs from the mean over all capabilities, as a direction. Outputs themselves
 * mostly tell how deep a layer is, whatever the text. Of a single capability, how it differs from its other layers' directions.
 * @returns [layer][hidden]
 */
function signatures(own: Float32Array, all: readonly Float32Array[], layerCount: number): number[][] {
  const size = own.length / layerCount
  const layerOf = (vectors: Float32Array, layer: number) => vectors.subarray(layer * size, (layer + 1) * size)
  if (all.length > 1)
    return Array.from({ length: layerCount }, (_, layer) =>
      unit(layerOf(own, layer).map((x, i) => x - meanOf(all.map(vectors => vectors[layer * size + i]!)))),
    )
  const directions = Array.from({ length: layerCount }, (_, layer) => unit(layerOf(own, layer)))
  return directions.map(direction => unit(direction.map((x, i) => x - meanOf(directions.map(other => other[i]!)))))
}

/** Of each capability: nats per completion token that skipping each layer costs it. */
type Costs = ReadonlyMap<string, readonly number[]>

const costsOf = (layers: readonly LayerAnalysis[], capabilities: Iterable<string>): Costs =>
  new Map(
    [...capabilities].map(slug => [
      slug,
      layers.map(layer => layer.capabilities.find(c => c.capability === slug)?.lossIncrease ?? 0),
    ]),
  )

/** Layers that cost every capability far more than most layers do: they set none apart. */
function commonLayers(costs: Costs): number[] {
  const all = [...costs.values()]
  if (all.length < 2) return []
  const limits = all.map(own => Math.max(0, commonCost * medianOf(own), carries * meanOf(own)))
  return all[0]!.flatMap((_, layer) => (all.every((own, c) => own[layer]! > limits[c]!) ? [layer] : []))
}

/** A capability of high losses loses more without any layer, so each is measured by its own mean. */
function comparisonOf(
  capability: string,
  members: readonly number[],
  costs: Costs,
  common: readonly number[],
): Comparison {
  const shares = [...costs].flatMap(([name, own]) => {
    const typical = meanOf(own.filter((_, i) => !common.includes(i)))
    return typical > 0 ? [{ name, values: members.map(i => own[i]! / typical) }] : []
  })
  const own = shares.find(({ name }) => name === capability)?.values
  const others = shares.flatMap(({ name, values }) => (name === capability ? [] : [values]))
  const shared = others.length > 0 ? members.map((_, i) => meanOf(others.map(values => values[i]!))) : undefined
  return {
    share: own && meanOf(own),
    elsewhere: shared && meanOf(shared),
    apart: members.map((member, i) => (own ? own[i]! - (shared?.[i] ?? 0) : costs.get(capability)![member]!)),
  }
}

function roleOf(lossIncrease: number, { share, elsewhere }: Comparison): ClusterRole {
  if (lossIncrease <= 0 || (share !== undefined && share < idle)) return 'IDLE'
  return share === undefined || share >= carries * (elsewhere ?? 1) ? 'CARRIES' : 'SUPPORTS'
}

/**
 * Clusters of every capability's layers by their signatures (k-means on unit vectors, which is by cosine), kept only where two halves of the samples
 * give nearly the same ones. A model whose layers do not differ, or that has fewer than three, has one cluster. Layers that carry every capability
 * are a cluster of their own for each, with the same label.
 * @param vectors per capability, as `layerVectors` gives them
 */
export function layerClusters(
  layers: readonly LayerAnalysis[],
  vectors: ReadonlyMap<string, LayerVectors>,
  seed = 0,
): LayerCluster[] {
  // A capability without halves would be the same in the reference of both, and make them agree.
  const clustering = (pick: (own: LayerVectors) => Float32Array, own: LayerVectors) => {
    const reference = [...vectors.values()].filter(other => other.halves || !own.halves)
    return cluster(signatures(pick(own), reference.map(pick), layers.length), mostClusters, seed)
  }
  const costs = costsOf(layers, vectors.keys())
  const common = commonLayers(costs)
  const losses = [...costs.values()].flatMap(own => common.map(i => own[i]!))
  const numbersOf = (members: readonly number[]) => members.map(i => layers[i]!.layerIndex)

  return [...vectors].flatMap(([capability, own]) => {
    const [first, second] = [0, 1].map(half => own.halves && clustering(v => v.halves![half]!, own))
    const stability = first && second ? adjustedRand(labelsOf(first), labelsOf(second)) : null
    const loose = stability !== null && stability < leastStability
    const found = (loose ? undefined : clustering(v => v.all, own)?.clusters) ?? [
      { members: layers.map((_, i) => i), silhouette: 0 },
    ]
    const groups = found
      .map(({ members, silhouette }) => ({ members: members.filter(i => !common.includes(i)), silhouette }))
      .filter(({ members }) => members.length > 0)
    const clusterOf = (members: readonly number[]) => {
      const own = members.map(i => costs.get(capability)![i]!)
      return { capability, layers: numbersOf(members), costs: own, lossIncrease: meanOf(own) }
    }
    const clusters = groups.map(({ members, silhouette }): LayerCluster => {
      const { costs: each, ...measured } = clusterOf(members)
      const compared = comparisonOf(capability, members, costs, common)
      const role = roleOf(measured.lossIncrease, compared)
      const said = () => clusterLabel({ ...measured, ...compared, role, costs: each, someForAll: common.length > 0 })
      const several = vectors.size > 1
      const label = loose
        ? looseLabel(capability, stability, leastStability)
        : several && groups.length === 1
          ? singleLabel(capability)
          : said() + (several && stability === null ? unchecked(leastSamples) : '')
      return { ...measured, silhouette, stability, role, label }
    })
    if (common.length === 0) return clusters
    const { costs: _, ...everywhere } = clusterOf(common)
    const label = commonLabel(everywhere.layers, losses)
    return [{ ...everywhere, silhouette: 0, stability: null, role: 'CARRIES' as const, label }, ...clusters]
  })
}

const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length

function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2
}
