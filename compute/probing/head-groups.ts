// Key/value groups that seem to matter little: which ones, and what their loss really is.
import { bootstrapInterval, type Interval } from './bootstrap.js'
import type { CapabilityHeads } from './head-importance.js'
import { type GroupLosses, groupKey, type HeadGroup, type SampleRecord } from './sample-records.js'
import type { EncodedSample } from './scoring.js'

/** Groups that were measured before stay chosen while they are among this many times as many of the least. */
const patience = 2

/**
 * The groups whose importance, mean over the capabilities, is least: a gradient says little about removing a head whole, and these are
 * the ones that one would remove. Ascending by layer.
 * @param measured how many samples have a group's loss on record
 */
export function doubtfulGroups(
  found: readonly CapabilityHeads[],
  count: number,
  measured: (group: HeadGroup) => number,
): HeadGroup[] {
  const [first] = found
  if (!first) return []
  const groups = first.layers.flatMap(({ layerIndex, keyValueGroups }) =>
    keyValueGroups.map((_, keyValueHeadIndex) => ({
      layerIndex,
      keyValueHeadIndex,
      importance: found.reduce((sum, { layers }) => sum + layers[layerIndex]!.keyValueGroups[keyValueHeadIndex]!, 0),
    })),
  )
  const least = groups.sort((a, b) => a.importance - b.importance).slice(0, patience * count)
  const known = least.filter(group => measured(group) > 0)
  const chosen = [...known, ...least.filter(group => measured(group) === 0)].slice(0, count)
  return chosen
    .map(({ layerIndex, keyValueHeadIndex }) => ({ layerIndex, keyValueHeadIndex }))
    .sort((a, b) => a.layerIndex - b.layerIndex || a.keyValueHeadIndex - b.keyValueHeadIndex)
}

export interface MaskedGroup extends HeadGroup {
  capabilities: {
    capability: string
    importance: number
    /** Nats per completion token added without the group. */
    lossIncrease: number
    interval: Interval | null
    /** Mean over samples of the change of the sample's mean completion loss, nats. */
    sampleLossIncrease: number
  }[]
}

/** Sums the measured losses to one line per group and capability, in the order of `found`. */
export function maskedGroups(
  samples: readonly EncodedSample[],
  records: readonly Pick<SampleRecord, 'nll'>[],
  losses: readonly GroupLosses[],
  groups: readonly HeadGroup[],
  found: readonly CapabilityHeads[],
): MaskedGroup[] {
  return groups.map(group => ({
    ...group,
    capabilities: found.map(({ capability, layers }) => {
      const own = samples.flatMap((sample, i) =>
        sample.capability === capability
          ? [{ added: losses[i]![groupKey(group)]! - records[i]!.nll, tokens: sample.completionTokens }]
          : [],
      )
      const increase = (indices: readonly number[]) =>
        indices.reduce((sum, i) => sum + own[i]!.added, 0) / indices.reduce((sum, i) => sum + own[i]!.tokens, 0)
      return {
        capability,
        importance: layers[group.layerIndex]!.keyValueGroups[group.keyValueHeadIndex]!,
        lossIncrease: increase(own.map((_, i) => i)),
        interval: bootstrapInterval(own.length, increase),
        sampleLossIncrease: own.reduce((sum, { added, tokens }) => sum + added / tokens, 0) / own.length,
      }
    }),
  }))
}
