// Sub-capabilities that nobody named: samples of a capability that the model's middle layer puts together.
import { createHash } from 'node:crypto'
import { mean, standardDeviation } from 'simple-statistics'
import { decodeVector } from './activations.js'
import { cluster, unit } from './clustering.js'
import { type CapabilityLoss, summariseWithIntervals } from './evaluate.js'
import type { ProbeSample } from './probe-set.js'
import type { SampleRecord } from './sample-records.js'
import type { ProbedSample } from './scoring.js'

/** Fewer samples than these of a capability are not clustered, and fewer of a cluster are no kind. */
const leastSamples = 8
const leastMembers = 3
const mostClusters = 6
/**
 * Clusters below this silhouette are no kind: on SmolLM2, samples of one sub-capability that lie together have 0.12 to 0.44, mixtures of unlike ones 0.02
 * to 0.09 (Kaufman and Rousseeuw 1990 call below 0.25 no structure, in few dimensions).
 */
const leastSilhouette = 0.1
/** A cluster that has this share of a sub-capability's samples and little else is that one, found again. */
const sameShare = 0.75
/** A cluster within one sub-capability is a part of it. */
const withinShare = 0.9
/** How much larger the share of its prompts with a word is than that of the others, for the word to name a cluster. */
const leastGain = 0.3
const exampleCount = 3
const exampleLength = 200

export interface Discovery {
  parent: string
  name: string
  words: string[]
  examples: string[]
  samples: string[]
  silhouette: number
  score: CapabilityLoss
}

/** Says which sample it is in every model and probe set: the first 16 hexadecimal digits of a SHA-256 of its texts. */
export const sampleKey = ({ prompt, completion }: Pick<ProbeSample, 'prompt' | 'completion'>): string =>
  createHash('sha256')
    .update(JSON.stringify([prompt, completion]))
    .digest('hex')
    .slice(0, 16)

/**
 * Clusters of each capability's samples by the mean output of the middle layer, less those that the probe set's own sub-capabilities name.
 * @param hiddenSize of the vectors in `records`
 */
export function discoverSubcapabilities(
  samples: readonly ProbedSample[],
  records: readonly SampleRecord[],
  capabilities: readonly string[],
  layerCount: number,
  hiddenSize: number,
  seed = 0,
): Discovery[] {
  const middle = Math.floor((layerCount - 1) / 2)
  return capabilities.flatMap(capability => {
    const own = samples.flatMap((sample, i) => (sample.capability === capability ? [i] : []))
    if (own.length < leastSamples) return []
    const vectors = own.map(i => middleVector(records[i]!, middle, layerCount, hiddenSize))
    const found = cluster(standardised(vectors), Math.min(mostClusters, Math.floor(own.length / leastMembers)), seed)
    return (found?.clusters ?? []).flatMap(({ members, byDistance, silhouette }) => {
      const inside = members.map(k => samples[own[k]!]!)
      const parent = parentOf(
        inside,
        own.map(i => samples[i]!),
      )
      if (members.length < leastMembers || silhouette < leastSilhouette || parent === undefined) return []
      const others = own.map(i => samples[i]!).filter(sample => !inside.includes(sample))
      const words = distinctiveWords(inside, others)
      const [score] = summariseWithIntervals(
        inside,
        members.map(k => records[own[k]!]!),
        [capability],
      )
      return [
        {
          parent,
          name: nameOf(words, inside),
          words,
          examples: byDistance.slice(0, exampleCount).map(k => shortened(samples[own[k]!]!.probe.prompt)),
          samples: inside.map(sample => sampleKey(sample.probe)).sort(),
          silhouette,
          score: { ...score!, capability: parent },
        },
      ]
    })
  })
}

function middleVector(record: SampleRecord, layer: number, layerCount: number, hiddenSize: number): Float32Array {
  const all = decodeVector(record.centroids, layerCount * hiddenSize)
  if (!all) throw new Error(`a record does not hold ${layerCount} vectors of ${hiddenSize}`)
  return all.slice(layer * hiddenSize, (layer + 1) * hiddenSize)
}

/** Each hidden unit with mean 0 and deviation 1 over the samples, so that none outweighs the others, then each sample with length 1. */
function standardised(vectors: readonly Float32Array[]): number[][] {
  const units = Array.from(vectors[0]!, (_, unitIndex) => {
    const values = vectors.map(vector => vector[unitIndex]!)
    return { middle: mean(values), spread: standardDeviation(values) }
  })
  return vectors.map(vector =>
    unit(units.map(({ middle, spread }, i) => (spread === 0 ? 0 : (vector[i]! - middle) / spread))),
  )
}

/** The node a cluster would be a part of; undefined where it is a sub-capability that has a name, or all there is. */
function parentOf(inside: readonly ProbedSample[], all: readonly ProbedSample[]): string | undefined {
  const counts = new Map<string, number>()
  for (const { probe } of inside) counts.set(probe.subtask, (counts.get(probe.subtask) ?? 0) + 1)
  const [subtask, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))
  const ofSubtask = all.filter(({ probe }) => probe.subtask === subtask).length
  if (inside.length === all.length) return undefined
  if (count >= sameShare * inside.length && count >= sameShare * ofSubtask) return undefined
  const { capability } = inside[0]!
  return count >= withinShare * inside.length ? `${capability}/${subtask}` : capability
}

const wordsOf = (text: string) => new Set(text.toLowerCase().match(/\p{L}{3,}/gu) ?? [])

/** Up to three words that most prompts of the cluster hold and few others do, best first. */
function distinctiveWords(inside: readonly ProbedSample[], others: readonly ProbedSample[]): string[] {
  const share = (samples: readonly ProbedSample[]) => {
    const counts = new Map<string, number>()
    for (const { probe } of samples)
      for (const word of wordsOf(probe.prompt)) counts.set(word, (counts.get(word) ?? 0) + 1 / samples.length)
    return counts
  }
  const [own, foreign] = [share(inside), share(others)]
  return [...own]
    .map(([word, part]) => ({ word, gain: part - (foreign.get(word) ?? 0) }))
    .filter(({ gain }) => gain >= leastGain)
    .sort((a, b) => b.gain - a.gain || (a.word < b.word ? -1 : 1))
    .slice(0, 3)
    .map(({ word }) => word)
}

/** `Like: select, table`, or from the sub-capabilities it joins where no word sets it apart. */
function nameOf(words: readonly string[], inside: readonly ProbedSample[]): string {
  if (words.length > 0) return `Like: ${words.join(', ')}`
  const subtasks = [...new Set(inside.map(({ probe }) => probe.subtask.replaceAll(/[_-]/g, ' ')))]
  return `Across ${subtasks.slice(0, 3).join(', ')}`
}

const shortened = (text: string) => {
  const line = text.replaceAll(/\s+/g, ' ').trim()
  const characters = [...line]
  return characters.length > exampleLength ? `${characters.slice(0, exampleLength - 1).join('')}…` : line
}
