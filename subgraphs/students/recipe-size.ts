// The exact number of parameters a recipe's student has, and its bytes, from the shapes of its parents' tensors: pruning and quantisation
// included, before anything is built.
import { type BuildStages, countOf, type HeadPruning } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { loraDefaults } from '../../lib/healing.js'
import type { Dimensions } from '../../lib/manifest.js'
import { blockBytes, fittingScheme, leastScheme, wantedScheme } from '../../lib/quantization.js'
import type { LayerRangeValue } from './recipe-layers.js'

/** A parent as its rows describe it. */
export interface CountedModel {
  name: string
  parameterCount: number
  dimensions: Dimensions
  tensors: readonly CountedTensor[]
}

interface CountedTensor {
  layerIndex: number | null
  role: string | null
  shape: readonly number[]
  dtype: string
  sizeBytes: number
}

export interface StudentSize {
  parameters: number
  /** Of all tensors, as the student will hold them; what is trained or fitted, and what pruning cuts through blocks, as float32. */
  bytes: number
  /** At the fewest bits that a search for codes may choose, and with all layers' matrices as they are. */
  leastBytes: number
  mostBytes: number
  /** Roles of what becomes codes. */
  codes: Set<string>
}

const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

interface Part {
  /** Within the layer. */
  role: string
  tensor: CountedTensor
  elements: number
}

/** Tensors by role within each layer. */
function byLayer({ tensors }: CountedModel): Map<number, Part[]> {
  const layers = new Map<number, Part[]>()
  for (const tensor of tensors) {
    if (tensor.layerIndex === null) continue
    const role = tensor.role?.replace(/^layers\.\d+\./, '') ?? ''
    const part = { role, tensor, elements: elements(tensor.shape) }
    layers.set(tensor.layerIndex, [...(layers.get(tensor.layerIndex) ?? []), part])
  }
  return layers
}

/** Sizes of one layer. */
export interface StudentLayer {
  queryHeads: number
  keyValueHeads: number
  neurons: number
}

/** @throws INVALID_RECIPE where the model does not say its sizes */
function sizesOf({ name, dimensions: d }: CountedModel, layer: number): StudentLayer {
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
function removedHeads(pruning: HeadPruning, layer: number, sizes: StudentLayer): { query: number; keyValue: number } {
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

/** What pruning cuts along the columns of: their rows are whole numbers of blocks no longer. */
const columnRoles = new Set(['o', 'down'])

/** Whether training or fitting writes the tensor anew, in float32. Both keep what was there where that is better: this is the larger case. */
function isRewritten(role: string, layer: number | undefined, stages: BuildStages | null, fitted: number): boolean {
  const { headPruning, feedForwardPruning, healing } = stages ?? {}
  const within = role.replace(/^layers\.\d+\./, '')
  if (within === 'o' && (headPruning?.correct || (layer ?? -1) > fitted)) return true
  if (within === 'down' && (feedForwardPruning?.correct || (layer ?? -1) >= fitted)) return true
  if (!healing) return false
  if (healing.train === 'LORA') return (healing.lora ?? loraDefaults).targets.some(target => target === within)
  if (healing.train === 'NORMS') return /norm(_bias)?$/.test(within)
  if (healing.train === 'LAYERS') return layer !== undefined && (healing.layers ?? []).includes(layer)
  return within !== 'rope_factors'
}

type Bytes = Omit<StudentSize, 'parameters'>

/**
 * Adds the bytes of a tensor once a share of it is pruned.
 * @param role in the student, as `layers.3.q`
 * @param rewritten whether it becomes float32 on the way
 */
function addBytes(
  size: Bytes,
  { shape, dtype, sizeBytes }: CountedTensor,
  role: string,
  share: number,
  { stages, tied, rewritten }: { stages: BuildStages | null; tied: boolean; rewritten: boolean },
): void {
  const within = role.replace(/^layers\.\d+\./, '')
  const left = elements(shape) - Math.round(elements(shape) * share)
  const columns = columnRoles.has(within) ? Math.round((shape.at(-1) ?? 1) * (1 - share)) : (shape.at(-1) ?? 1)
  const plain = /^(F|BF)\d+$/.test(dtype)
  const stored = !plain && share > 0 && within === 'down' ? left * 4 : Math.round(sizeBytes * (1 - share))
  const kept = rewritten ? left * 4 : stored
  const options = shape.length === 2 && within !== 'position_embed' ? stages?.quantization : undefined
  const wanted = options && wantedScheme(role, tied, options)
  const scheme = wanted && fittingScheme(columns, wanted)
  const coded = scheme && (left / scheme.blockSize) * blockBytes(scheme)
  size.bytes += coded ?? kept
  if (!scheme) {
    size.leastBytes += Math.min(stored, kept)
    size.mostBytes += kept
    return
  }
  size.codes.add(role)
  const inLayer = role !== within
  const least = inLayer ? fittingScheme(columns, leastScheme(role, options!))! : scheme
  size.leastBytes += Math.min((left / least.blockSize) * blockBytes(least), inLayer ? stored : Number.POSITIVE_INFINITY)
  size.mostBytes += inLayer ? kept : coded!
}

/** The layers of the student in order, each of the model that it is of. */
const usedLayers = (
  parent: CountedModel,
  layers: readonly LayerRangeValue[],
  others: ReadonlyMap<string, CountedModel>,
) =>
  layers.flatMap(({ from, to, modelId }) => {
    const model = (modelId !== undefined && others.get(modelId)) || parent
    return Array.from({ length: to - from }, (_, i) => ({ model, layer: from + i }))
  })

/**
 * What pruning leaves of each layer of the student; undefined where a model does not say its sizes.
 * @throws INVALID_RECIPE as `studentSize`
 */
export function studentLayers(
  parent: CountedModel,
  layers: readonly LayerRangeValue[],
  stages: BuildStages | null,
  others: ReadonlyMap<string, CountedModel> = new Map(),
): StudentLayer[] | undefined {
  const used = usedLayers(parent, layers, others)
  const silent = used.some(({ model: { dimensions: d } }) => !d.attentionHeadCount || !d.intermediateSize)
  if (silent) return undefined
  return used.map(({ model, layer }, index) => {
    const { queryHeads, keyValueHeads, neurons } = sizesOf(model, layer)
    const share = prunedShares(model, layer, index, stages)
    const left = (count: number, role: string) => Math.round(count * (1 - share(role)))
    return {
      ...{ queryHeads: left(queryHeads, 'q'), keyValueHeads: left(keyValueHeads, 'k') },
      neurons: left(neurons, 'up'),
    }
  })
}

/**
 * What lies outside layers (embedding, norm, head) as the parent counts it, and every layer as often as it is used, less what is pruned.
 * @param others by row id
 * @throws INVALID_RECIPE where pruning leaves nothing of a layer, names more than there is, or the layers' number differs
 */
export function studentSize(
  parent: CountedModel,
  layers: readonly LayerRangeValue[],
  stages: BuildStages | null,
  others: ReadonlyMap<string, CountedModel> = new Map(),
): StudentSize {
  const own = new Map([parent, ...others.values()].map(model => [model, byLayer(model)]))
  const tied = parent.dimensions.tiedEmbeddings ?? !parent.tensors.some(({ role }) => role === 'lm_head')
  const size: StudentSize = {
    ...{ parameters: parent.parameterCount, bytes: 0, leastBytes: 0, mostBytes: 0 },
    codes: new Set(),
  }
  for (const parts of own.get(parent)!.values()) for (const part of parts) size.parameters -= part.elements
  for (const tensor of parent.tensors) {
    if (tensor.layerIndex !== null) continue
    const role = tensor.role ?? ''
    const rewritten = isRewritten(role, undefined, stages, Number.POSITIVE_INFINITY)
    addBytes(size, tensor, role, 0, { stages, tied, rewritten })
  }
  const used = usedLayers(parent, layers, others)
  // The layer before the first cut: fits begin there.
  const cut = used.findIndex(({ model, layer }, i) => {
    const next = used[i + 1]
    return next ? next.model === model && next.layer > layer + 1 : layer + 1 < (model.dimensions.layerCount ?? 0)
  })
  const fitted = stages?.correctCuts && cut >= 0 ? cut : Number.POSITIVE_INFINITY
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
    const share = prunedShares(model, layer, index, stages)
    for (const { role, tensor, elements: count } of own.get(model)!.get(layer) ?? []) {
      const gone = share(role)
      size.parameters += count - Math.round(count * gone)
      const rewritten = isRewritten(`layers.${index}.${role}`, index, stages, fitted)
      addBytes(size, tensor, `layers.${index}.${role}`, gone, { stages, tied, rewritten })
    }
  })
  return size
}

/**
 * Which share of a tensor, by its role, is pruned from a layer of the student.
 * @throws INVALID_RECIPE
 */
function prunedShares(model: CountedModel, layer: number, index: number, stages: BuildStages | null) {
  const { headPruning, feedForwardPruning } = stages ?? {}
  if (!headPruning && !feedForwardPruning) return () => 0
  const sizes = sizesOf(model, layer)
  const heads = headPruning ? removedHeads(headPruning, index, sizes) : { query: 0, keyValue: 0 }
  const keep = feedForwardPruning ? countOf(feedForwardPruning.keep, index) : sizes.neurons
  if (keep < 1 || keep > sizes.neurons)
    throw new DomainError(
      'INVALID_RECIPE',
      `layer ${index}: ${keep} hidden units of its feed-forward block are to stay, expected 1 to ${sizes.neurons}`,
      { field: ['input', 'feedForwardPruning'] },
    )
  return (role: string) =>
    queryRoles.has(role)
      ? heads.query
      : keyValueRoles.has(role)
        ? heads.keyValue
        : neuronRoles.has(role)
          ? 1 - keep / sizes.neurons
          : 0
}
