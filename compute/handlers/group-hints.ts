// What a search over key/value groups begins with: how many there are, what the analysis says of each, and the layers to cut them from.
import { isDomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { layerDimensions } from '../architectures/architecture.js'
import { checkBuildable } from '../architectures/registry.js'
import type { HeadImportanceOutput } from '../pool/job-types.js'
import { type Objective, weightedMean } from '../probing/objective.js'
import type { MeasuredCut } from '../probing/search-cuts.js'
import { type Stack, stackWithout } from '../probing/stacks.js'
import { plannedStudent } from '../surgery/planned-student.js'

/** All layers, and the best sets of the sizes that are asked for: what lies between is near one of them. */
export const groupStarts = (cuts: readonly MeasuredCut[], layerCount: number, sizes: readonly number[]): Stack[] => [
  stackWithout(layerCount),
  ...sizes.flatMap(size => {
    const own = cuts.filter(cut => cut.kept.length === size).sort((a, b) => a.loss - b.loss)
    return own[0] ? [own[0].kept] : []
  }),
]

/** [layer] key/value heads; none where the architecture's heads cannot be cut. */
export function groupCountsOf(manifest: Manifest, hash: string): number[] {
  const { dimensions: d } = checkBuildable(manifest)
  const counts = Array.from({ length: d.layerCount }, (_, layer) => layerDimensions(d, layer).keyValueHeadCount)
  const layer = counts.findIndex(count => count > 1)
  if (layer < 0) return []
  try {
    plannedStudent(manifest, hash, [layer], [[0]])
    return counts
  } catch (error) {
    if (isDomainError(error)) return []
    throw error
  }
}

/** [layer][key/value head] what the analysis says of it for an objective; undefined where it did not measure that. */
export function groupImportance(
  heads: readonly HeadImportanceOutput[] | undefined,
  manifest: Manifest,
  objective: Objective,
): number[][] | undefined {
  const { dimensions: d } = checkBuildable(manifest)
  const byCapability = new Map(heads?.map(own => [own.capability, own.layers]))
  const complete = (layers: number[][] | undefined) =>
    layers?.length === d.layerCount &&
    layers.every((own, layer) => own.length === layerDimensions(d, layer).attentionHeadCount)
  if (!objective.weights.every(({ capability }) => complete(byCapability.get(capability)))) return undefined
  return Array.from({ length: d.layerCount }, (_, layer) => {
    const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
    const perGroup = attentionHeadCount / keyValueHeadCount
    return Array.from({ length: keyValueHeadCount }, (_, group) =>
      weightedMean(objective, capability =>
        byCapability
          .get(capability)!
          [layer]!.slice(group * perGroup, (group + 1) * perGroup)
          .reduce((sum, head) => sum + head, 0),
      ),
    )
  })
}
