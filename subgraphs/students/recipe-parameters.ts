// The exact number of parameters a recipe's student has, from the shapes of its parents' tensors: pruning included, before anything is built.
import { type BuildStages, countOf, type HeadPruning } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import type { Dimensions } from '../../lib/manifest.js'
import type { LayerRangeValue } from './recipe-layers.js'

/** A parent as its rows describe it. */
export interface CountedModel {
  name: string
  parameterCount: number
  dimensions: Dimensions
  tensors: readonly { layerIndex: number | null; role: string | null; shape: readonly number[] }[]
}

const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

/** Elements by role within each layer. */
function byLayer({ tensors }: CountedModel): Map<number, { role: string; elements: number }[]> {
  const layers = new Map<number, { role: string; elements: number }[]>()
  for (const { layerIndex, role, shape } of tensors) {
    if (layerIndex === null) continue
    const within = role?.replace(/^layers\.\d+\./, '') ?? ''
    layers.set(layerIndex, [...(layers.get(layerIndex) ?? []), { role: within, elements: elements(shape) }])
  }
  return layers
}

interface Sizes {
  queryHeads: number
  keyValueHeads: number
  neurons: number
}

/** @throws INVALID_RECIPE where the model does not say its sizes */
function sizesOf({ name, dimensions: d }: CountedModel, layer: number): Sizes {
  const own = d.perLayer?.[layer] ?? d
  const queryHeads = own.attentionHeadCount
  const neurons = own.intermediateSize
  if (queryHeads === undefined || neurons === undefined)
    throw new DomainError(
      'INVALID_RECIPE',
      `Model "${name}" does not state its heads or its feed-forward width: it cannot be pruned`,
    )
  return { queryHeads, keyValueHeads: own.keyValueHeadCount ?? queryHeads, neurons }
}

/** Shares of heads that go from a layer of the student. @throws INVALID_RECIPE naming the layer and the numbers */
function removedHeads(pruning: HeadPruning, layer: number, sizes: Sizes): { query: number; keyValue: number } {
  const perGroup = sizes.queryHeads / sizes.keyValueHeads
  const given = pruning.metric === 'GIVEN' ? (pruning.heads?.[layer] ?? []).length : undefined
  if (pruning.unit === 'KEY_VALUE_GROUP') {
    const count = given ?? countOf(pruning.remove ?? 0, layer)
    refuseAll(layer, count, sizes.keyValueHeads, 'key/value heads')
    return { query: count / sizes.keyValueHeads, keyValue: count / sizes.keyValueHeads }
  }
  if (given === undefined) {
    const count = countOf(pruning.remove ?? 0, layer)
    refuseAll(layer, count, perGroup, 'query heads of each key/value head')
    return { query: count / perGroup, keyValue: 0 }
  }
  refuseAll(layer, given, sizes.queryHeads, 'query heads')
  return { query: given / sizes.queryHeads, keyValue: 0 }
}

function refuseAll(layer: number, count: number, there: number, what: string) {
  if (count < there) return
  throw new DomainError(
    'INVALID_RECIPE',
    `layer ${layer}: ${count} of ${there} ${what} would be removed; at least one must stay`,
    { field: ['input', 'headPruning'] },
  )
}

const queryRoles = new Set(['q', 'q_bias', 'o'])
const keyValueRoles = new Set(['k', 'k_bias', 'v', 'v_bias'])
const neuronRoles = new Set(['gate', 'gate_bias', 'up', 'up_bias', 'down'])

/**
 * What lies outside layers (embedding, norm, head) as the parent counts it, and every layer as often as it is used, less what is pruned.
 * @param others by row id
 * @throws INVALID_RECIPE where pruning leaves nothing of a layer, names more than there is, or the layers' number differs
 */
export function countStudentParameters(
  parent: CountedModel,
  layers: readonly LayerRangeValue[],
  stages: BuildStages | null,
  others: ReadonlyMap<string, CountedModel> = new Map(),
): number {
  const own = new Map([parent, ...others.values()].map(model => [model, byLayer(model)]))
  const sum = (parts: readonly { elements: number }[]) => parts.reduce((total, part) => total + part.elements, 0)
  let count = parent.parameterCount
  for (const parts of own.get(parent)!.values()) count -= sum(parts)
  const used = layers.flatMap(({ from, to, modelId }) => {
    const model = (modelId !== undefined && others.get(modelId)) || parent
    return Array.from({ length: to - from }, (_, i) => ({ model, layer: from + i }))
  })
  const { headPruning, feedForwardPruning } = stages ?? {}
  const checkLength = (what: string, list: unknown) => {
    if (Array.isArray(list) && list.length !== used.length)
      throw new DomainError('INVALID_RECIPE', `${what} names ${list.length} layers, the student has ${used.length}`, {
        field: ['input', what],
      })
  }
  checkLength('headPruning', headPruning?.metric === 'GIVEN' ? (headPruning.heads ?? []) : headPruning?.remove)
  checkLength('feedForwardPruning', feedForwardPruning?.keep)
  used.forEach(({ model, layer }, index) => {
    const parts = own.get(model)!.get(layer) ?? []
    count += sum(parts)
    if (!headPruning && !feedForwardPruning) return
    const sizes = sizesOf(model, layer)
    const heads = headPruning ? removedHeads(headPruning, index, sizes) : { query: 0, keyValue: 0 }
    const keep = feedForwardPruning ? countOf(feedForwardPruning.keep, index) : sizes.neurons
    if (keep < 1 || keep > sizes.neurons)
      throw new DomainError(
        'INVALID_RECIPE',
        `layer ${index}: ${keep} hidden units of its feed-forward block are to stay, expected 1 to ${sizes.neurons}`,
        { field: ['input', 'feedForwardPruning'] },
      )
    for (const part of parts) {
      const share = queryRoles.has(part.role)
        ? heads.query
        : keyValueRoles.has(part.role)
          ? heads.keyValue
          : neuronRoles.has(part.role)
            ? 1 - keep / sizes.neurons
            : 0
      count -= Math.round(part.elements * share)
    }
  })
  return count
}
