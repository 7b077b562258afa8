// What clusters of layers are said to do, in words and numbers.

export type ClusterRole = 'CARRIES' | 'SUPPORTS' | 'IDLE'

/** How many times the mean a cluster's layers cost, from which on they carry a capability, and below which they are idle. */
export const carries = 1.25
export const idle = 0.35
/** A group of more layers than these names those that it mostly consists of. */
const fewLayers = 3

/** What layers cost one capability, against what they cost the others. */
export interface Comparison {
  /** Loss increase without one of them, times the mean over the layers that do not carry every capability; undefined where that is not positive. */
  share: number | undefined
  /** The same of the other capabilities, their mean; undefined where there are none. */
  elsewhere: number | undefined
  /** How much each of them sets the capability apart. */
  apart: number[]
}

export interface DescribedCluster extends Comparison {
  role: ClusterRole
  capability: string
  layers: readonly number[]
  /** Of each layer, and their mean: nats per completion token. */
  costs: readonly number[]
  lossIncrease: number
  /** Whether there are layers that carry every capability, which are left out of the mean. */
  someForAll: boolean
}

/** To two decimals; what rounds to nothing has no sign. */
const nats = (value: number) => value.toFixed(2).replace('-0.00', '0.00')

export function clusterLabel(cluster: DescribedCluster): string {
  const { layers, lossIncrease, share, elsewhere, someForAll } = cluster
  const lost = `${nats(lossIncrease)} nats per token lost without ${layers.length === 1 ? 'it' : 'one of them'}`
  const mean = `the mean of ${someForAll ? 'layers that do not carry all' : 'all layers'}`
  const times = share === undefined ? '' : `, ${share.toPrecision(2)} times ${mean}`
  const others =
    share === undefined || elsewhere === undefined ? '' : ` (other capabilities: ${elsewhere.toPrecision(2)} times)`
  return `${claimOf(cluster)}: ${lost}${times}${others}${mostlyOf(cluster)}`
}

function claimOf({ role, capability, layers, share, elsewhere }: DescribedCluster): string {
  if (role === 'IDLE') return `${subjectOf(layers, 'are', 'is')} idle for ${capability}`
  const carry = subjectOf(layers, 'carry', 'carries')
  if (share === undefined || elsewhere === undefined)
    return `${role === 'CARRIES' ? carry : subjectOf(layers, 'support', 'supports')} ${capability}`
  if (role === 'CARRIES') return `${carry} ${capability} more than other capabilities`
  const how = share * carries <= elsewhere ? 'less than' : 'about as much as'
  return `${subjectOf(layers, 'matter', 'matters')} for ${capability} ${how} for other capabilities`
}

/** A mean over many layers may be the work of two. */
function mostlyOf({ role, layers, costs, share, elsewhere, apart }: DescribedCluster): string {
  const compared = share !== undefined && elsewhere !== undefined
  if (layers.length <= fewLayers || role === 'IDLE' || (compared && role !== 'CARRIES')) return ''
  const order = layers.map((_, i) => i).sort((a, b) => apart[b]! - apart[a]!)
  const named = order.slice(0, 2).map(i => `${layers[i]} (${nats(costs[i]!)})`)
  return `, ${compared ? 'most apart from them' : 'most'} without ${named.join(' and ')}`
}

/** The same for every capability. @param losses of each layer and capability */
export function commonLabel(layers: readonly number[], losses: readonly number[]): string {
  const [least, most] = [Math.min(...losses), Math.max(...losses)].map(nats)
  const without = layers.length === 1 ? 'it' : 'one of them'
  return `${subjectOf(layers, 'carry', 'carries')} every capability: ${least} to ${most} nats per token lost without ${without}`
}

export const looseLabel = (capability: string, agreement: number, asked: number): string =>
  `no groups of layers can be told for ${capability}: one half of its samples groups them differently than the other half (agreement ${agreement.toFixed(2)}; 1 is the same groups, 0 is chance, ${asked} is asked for)`

export const singleLabel = (capability: string): string =>
  `no group of layers stands out for ${capability}: compared with the other capabilities, all differ alike`

export const unchecked = (samples: number): string => `; fewer than ${samples} samples, so unchecked`

const subjectOf = (layers: readonly number[], plural: string, singular: string) =>
  layers.length === 1 ? `layer ${layers[0]} ${singular}` : `layers ${rangesOf(layers)} ${plural}`

/** `0–3, 7, 8 and 12` */
function rangesOf(layers: readonly number[]): string {
  const runs: number[][] = []
  for (const layer of layers) {
    const last = runs.at(-1)
    if (last && layer === last.at(-1)! + 1) last.push(layer)
    else runs.push([layer])
  }
  const texts = runs.flatMap(run => (run.length < 3 ? run.map(String) : [`${run[0]}–${run.at(-1)}`]))
  return texts.length > 1 ? `${texts.slice(0, -1).join(', ')} and ${texts.at(-1)}` : texts[0]!
}
