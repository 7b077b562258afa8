// Layers whose outputs on a capability's samples differ from those on others in the same way, with what they carry.
import { decodeVector } from './activations.js'
import { adjustedRand, cluster, labelsOf, unit } from './clustering.js'
import type { LayerAnalysis } from './layer-influence.js'
import type { SampleRecord } from './sample-records.js'

/** More clusters than these name nothing any more. */
const mostClusters = 6
/** With fewer samples of a capability nothing can be said of halves. */
const leastSamples = 4
/** Agreement of the halves' clusters below which there are none. */
const leastStability = 0.5
/** A group of more layers than these names those that it mostly consists of. */
const fewLayers = 3
/** Share of the capability's mean loss increase per layer from which on a cluster's layers carry it, and below which they are idle. */
const carries = 1.25
const idle = 0.35

export type ClusterRole = 'CARRIES' | 'SUPPORTS' | 'IDLE'

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

/**
 * Clusters of every capability's layers by their signatures (k-means on unit vectors, which is by cosine), kept only where two halves of the samples
 * give nearly the same ones. A model whose layers do not differ, or that has fewer than three, has one cluster.
 * @param vectors per capability, as `layerVectors` gives them
 */
export function layerClusters(
  layers: readonly LayerAnalysis[],
  vectors: ReadonlyMap<string, LayerVectors>,
  seed = 0,
): LayerCluster[] {
  const count = layers.length
  // A capability without halves would be the same in the reference of both, and make them agree.
  const clustering = (pick: (own: LayerVectors) => Float32Array, own: LayerVectors) => {
    const reference = [...vectors.values()].filter(other => other.halves || !own.halves)
    return cluster(signatures(pick(own), reference.map(pick), count), mostClusters, seed)
  }
  return [...vectors].flatMap(([capability, own]) => {
    const [first, second] = [0, 1].map(half => own.halves && clustering(v => v.halves![half]!, own))
    const stability = first && second ? adjustedRand(labelsOf(first), labelsOf(second)) : null
    const loose = stability !== null && stability < leastStability
    const found = (loose ? undefined : clustering(v => v.all, own)?.clusters) ?? [
      { members: layers.map((_, i) => i), silhouette: 0 },
    ]
    const increases = layers.map(layer => layer.capabilities.find(c => c.capability === capability)?.lossIncrease ?? 0)
    const typical = meanOf(increases)
    return found.map(({ members, silhouette }) => {
      const lossIncrease = meanOf(members.map(i => increases[i]!))
      const cost = members.map(i => ({ layer: layers[i]!.layerIndex, cost: increases[i]! }))
      const role = roleOf(lossIncrease, typical)
      const label = loose
        ? `the layers fall into no groups for ${capability} that two halves of its samples agree on (${stability.toFixed(2)} of 1)`
        : labelOf(role, capability, cost, lossIncrease, typical)
      return { capability, layers: cost.map(({ layer }) => layer), silhouette, stability, lossIncrease, role, label }
    })
  })
}

const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length

function roleOf(lossIncrease: number, typical: number): ClusterRole {
  if (lossIncrease <= 0 || lossIncrease < idle * typical) return 'IDLE'
  return lossIncrease >= carries * typical ? 'CARRIES' : 'SUPPORTS'
}

const verbs: Record<ClusterRole, string> = { CARRIES: 'carry', SUPPORTS: 'support', IDLE: 'are idle for' }

function labelOf(
  role: ClusterRole,
  capability: string,
  own: readonly { layer: number; cost: number }[],
  lossIncrease: number,
  typical: number,
): string {
  const times = typical > 0 ? `, ${(lossIncrease / typical).toFixed(1)} times the mean of all layers` : ''
  const single = own.length === 1
  const subject = single ? `layer ${own[0]!.layer}` : `layers ${rangesOf(own.map(({ layer }) => layer))}`
  const verb = single
    ? verbs[role].replace('carry', 'carries').replace('support', 'supports').replace('are', 'is')
    : verbs[role]
  // A mean over many layers may be the work of two.
  const most = [...own].sort((a, b) => b.cost - a.cost).slice(0, 2)
  const mostly =
    own.length > fewLayers && role !== 'IDLE'
      ? `, most without ${most.map(({ layer, cost }) => `${layer} (${cost.toFixed(2)})`).join(' and ')}`
      : ''
  return `${subject} ${verb} ${capability}: ${lossIncrease.toFixed(2)} nats per token lost without ${single ? 'it' : 'one of them'}${times}${mostly}`
}

/** `0–3, 7, 9–12` */
function rangesOf(layers: readonly number[]): string {
  const runs: [number, number][] = []
  for (const layer of layers) {
    const last = runs.at(-1)
    if (last && layer === last[1] + 1) last[1] = layer
    else runs.push([layer, layer])
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(', ')
}
