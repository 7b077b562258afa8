// Layers whose outputs on a capability's samples point the same way, with what they carry.
import { decodeVector } from './activations.js'
import { cluster, unit } from './clustering.js'
import type { LayerAnalysis } from './layer-influence.js'
import type { SampleRecord } from './sample-records.js'

/** More clusters than these name nothing any more. */
const mostClusters = 6
/** Share of the capability's mean loss increase per layer from which on a cluster's layers carry it, and below which they are idle. */
const carries = 1.25
const idle = 0.35

export type ClusterRole = 'CARRIES' | 'SUPPORTS' | 'IDLE'

export interface LayerCluster {
  capability: string
  layers: number[]
  silhouette: number
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

/**
 * Clusters of every capability, by the direction of its layers' mean outputs (k-means on unit vectors, which is by cosine). A model whose
 * layers do not differ, or that has fewer than three, has one cluster.
 * @param centroids per capability, as `meanCentroids` gives them
 */
export function layerClusters(
  layers: readonly LayerAnalysis[],
  centroids: ReadonlyMap<string, Float32Array>,
  seed = 0,
): LayerCluster[] {
  return [...centroids].flatMap(([capability, vectors]) => {
    const size = vectors.length / layers.length
    const directions = layers.map((_, layer) => unit(vectors.subarray(layer * size, (layer + 1) * size)))
    const found = cluster(directions, mostClusters, seed)?.clusters ?? [
      { members: layers.map((_, i) => i), silhouette: 0 },
    ]
    const increases = layers.map(layer => layer.capabilities.find(c => c.capability === capability)?.lossIncrease ?? 0)
    const typical = meanOf(increases)
    return found.map(({ members, silhouette }) => {
      const lossIncrease = meanOf(members.map(i => increases[i]!))
      const own = members.map(i => layers[i]!.layerIndex)
      const role = roleOf(lossIncrease, typical)
      return {
        capability,
        layers: own,
        silhouette,
        lossIncrease,
        role,
        label: labelOf(role, capability, own, lossIncrease, typical),
      }
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
  layers: readonly number[],
  lossIncrease: number,
  typical: number,
): string {
  const times = typical > 0 ? `, ${(lossIncrease / typical).toFixed(1)} times the mean of all layers` : ''
  const subject = layers.length === 1 ? `layer ${layers[0]}` : `layers ${rangesOf(layers)}`
  const verb =
    layers.length === 1
      ? verbs[role].replace('carry', 'carries').replace('support', 'supports').replace('are', 'is')
      : verbs[role]
  return `${subject} ${verb} ${capability}: ${lossIncrease.toFixed(2)} nats per token lost without ${layers.length === 1 ? 'it' : 'one of them'}${times}`
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
