// Which heads go: by importance scores, by chance, or as named. What is measured with the model running is in choose-by-loss.ts.
import { type Counts, countOf, type HeadPruning } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { type LayerKept, withoutGroups, withoutQueryHeads } from './prune.js'

type Unit = HeadPruning['unit']

/** How many units of a layer there are to choose from: groups, or query heads of each group. */
export function unitCount(d: ResolvedDimensions, layer: number, unit: Unit): number {
  const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
  return unit === 'KEY_VALUE_GROUP' ? keyValueHeadCount : attentionHeadCount / keyValueHeadCount
}

/**
 * How many go from each layer, checked against what each one has.
 * @throws INVALID_RECIPE naming the layer and the numbers
 */
export function removalCounts(d: ResolvedDimensions, unit: Unit, remove: Counts): number[] {
  if (typeof remove !== 'number' && remove.length !== d.layerCount)
    throw new DomainError(
      'INVALID_RECIPE',
      `headPruning names ${remove.length} layers, the student has ${d.layerCount} layers`,
    )
  return Array.from({ length: d.layerCount }, (_, layer) => {
    const count = countOf(remove, layer)
    const there = unitCount(d, layer, unit)
    if (count >= there) {
      const what = unit === 'KEY_VALUE_GROUP' ? 'key/value heads' : 'query heads of each key/value head'
      throw new DomainError(
        'INVALID_RECIPE',
        `layer ${layer}: ${count} of ${there} ${what} would be removed; at least one must stay`,
      )
    }
    return count
  })
}

/** What stays of a layer where these units go. */
export const keptOf = (d: ResolvedDimensions, layer: number, unit: Unit, removed: readonly number[]): LayerKept =>
  unit === 'KEY_VALUE_GROUP' ? withoutGroups(d, layer, removed) : withoutQueryHeads(d, layer, removed)

/** Indices of the `count` least scores, ascending; of equal ones the first. */
export function leastOf(scores: readonly number[], count: number): number[] {
  const order = scores.map((_, i) => i).sort((a, b) => scores[a]! - scores[b]! || a - b)
  return order.slice(0, count).sort((a, b) => a - b)
}

/**
 * The units with the least importance of each layer. A group's importance is the sum over its query heads.
 * @param importance [layer][query head]
 * @returns per layer the removed groups or query heads
 */
export function leastImportant(
  d: ResolvedDimensions,
  unit: Unit,
  counts: readonly number[],
  importance: readonly (readonly number[])[],
): number[][] {
  return counts.map((count, layer) => {
    const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
    const perGroup = attentionHeadCount / keyValueHeadCount
    const groups = Array.from({ length: keyValueHeadCount }, (_, group) =>
      importance[layer]!.slice(group * perGroup, (group + 1) * perGroup),
    )
    if (unit === 'KEY_VALUE_GROUP')
      return leastOf(
        groups.map(heads => heads.reduce((sum, head) => sum + head, 0)),
        count,
      )
    return groups.flatMap((heads, group) => leastOf(heads, count).map(head => group * perGroup + head))
  })
}

/** Units by chance. @param random numbers in [0, 1) */
export const randomUnits = (
  d: ResolvedDimensions,
  unit: Unit,
  counts: readonly number[],
  random: () => number,
): number[][] =>
  leastImportant(
    d,
    unit,
    counts,
    counts.map((_, layer) => Array.from({ length: layerDimensions(d, layer).attentionHeadCount }, () => random())),
  )
