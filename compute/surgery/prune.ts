// Width pruning as a plan: which rows and columns of which tensors go with the heads and neurons that are removed. No tensor byte is touched.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { type LayerSizes, layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { checkBuildable, parseRole } from '../architectures/registry.js'
import { type Kept, keptCount, toIntervals } from '../formats/slice-tensor.js'

/** What stays of one layer; absent: all. Indices ascend. */
export interface LayerKept {
  /** Query heads. Each key/value head that stays keeps as many of its query heads as every other. */
  queryHeads?: readonly number[]
  keyValueHeads?: readonly number[]
  /** Hidden units of the feed-forward block. */
  neurons?: readonly number[]
}

export interface PruningPlan {
  /** By index of the manifest's tensors: what is kept along each of its axes. */
  cuts: Map<number, Kept[]>
  dimensions: Manifest['dimensions']
}

const refuse = (message: string): never => {
  throw new DomainError('INVALID_RECIPE', message)
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i)

/**
 * Heads that stay in a layer where these are removed: whole key/value heads with the query heads that share them.
 * @throws INVALID_RECIPE naming the layer and the numbers
 */
export function withoutGroups(d: ResolvedDimensions, layer: number, removed: readonly number[]): LayerKept {
  const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
  checkIndices(removed, keyValueHeadCount, `layer ${layer}: key/value head`)
  if (removed.length >= keyValueHeadCount)
    refuse(`layer ${layer}: all ${keyValueHeadCount} key/value heads would be removed; at least one must stay`)
  const perGroup = attentionHeadCount / keyValueHeadCount
  const keyValueHeads = range(keyValueHeadCount).filter(head => !removed.includes(head))
  return { keyValueHeads, queryHeads: keyValueHeads.flatMap(head => range(perGroup).map(i => head * perGroup + i)) }
}

/**
 * Heads that stay where these query heads are removed, the same number from every key/value head.
 * @throws INVALID_RECIPE naming the layer and the numbers
 */
export function withoutQueryHeads(d: ResolvedDimensions, layer: number, removed: readonly number[]): LayerKept {
  const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
  checkIndices(removed, attentionHeadCount, `layer ${layer}: query head`)
  if (removed.length >= attentionHeadCount)
    refuse(
      `layer ${layer}: all ${attentionHeadCount} query heads would be removed; at least one of each group must stay`,
    )
  const perGroup = attentionHeadCount / keyValueHeadCount
  const perGroupRemoved = range(keyValueHeadCount).map(
    group => removed.filter(head => Math.floor(head / perGroup) === group).length,
  )
  if (new Set(perGroupRemoved).size > 1)
    refuse(
      `layer ${layer}: ${perGroupRemoved.join(', ')} query heads would be removed from its ${keyValueHeadCount} key/value groups; the same number must go from each`,
    )
  return { queryHeads: range(attentionHeadCount).filter(head => !removed.includes(head)) }
}

function checkIndices(indices: readonly number[], count: number, what: string) {
  for (const [i, index] of indices.entries()) {
    if (!Number.isInteger(index) || index < 0 || index >= count)
      refuse(`${what} ${index} does not exist; there are ${count}, 0 to ${count - 1}`)
    if (indices.indexOf(index) !== i) refuse(`${what} ${index} is named twice`)
  }
}

/** Rows or columns of whole heads. */
const headRanges = (heads: readonly number[], headSize: number): Kept =>
  toIntervals(heads).map(([from, to]) => [from * headSize, to * headSize])

/** Roles by what their outputs and inputs are made of; biases follow the outputs. */
const outputs: Record<string, keyof LayerKept> = {
  q: 'queryHeads',
  k: 'keyValueHeads',
  v: 'keyValueHeads',
  gate: 'neurons',
  up: 'neurons',
}
const inputs: Record<string, keyof LayerKept> = { o: 'queryHeads', down: 'neurons' }

/**
 * The cuts of all tensors and the dimensions of what is left.
 * @param kept by layer
 * @throws INVALID_RECIPE, UNSUPPORTED_ARCHITECTURE where q, k and v lie in one tensor; what `checkBuildable` throws
 */
export function planPruning(manifest: Manifest, kept: readonly LayerKept[]): PruningPlan {
  const { dimensions: d, inputFirst, tensors } = checkBuildable(manifest)
  if (kept.length !== d.layerCount) refuse(`${kept.length} layers are described, the model has ${d.layerCount}`)
  if (tensors.has('layers.0.qkv') && kept.some(k => k.queryHeads || k.keyValueHeads))
    throw new DomainError(
      'UNSUPPORTED_ARCHITECTURE',
      `${manifest.architecture} models keep q, k and v in one tensor whose width is the model's: their heads cannot be removed`,
    )
  const rangesOf = (layer: number, part: keyof LayerKept): Kept => {
    const own = kept[layer]![part]
    if (!own) return null
    if (own.length === 0) refuse(`layer ${layer}: nothing would be left of its ${part}`)
    return part === 'neurons' ? toIntervals(own) : headRanges(own, d.headSize)
  }
  const cuts = new Map<number, Kept[]>()
  manifest.tensors.forEach((tensor, index) => {
    if (tensor.role === undefined) return
    const { layerIndex, role } = parseRole(tensor.role)
    if (layerIndex === null) return
    const weight = role.replace(/_bias$/, '')
    const out = outputs[weight] ? rangesOf(layerIndex, outputs[weight]) : null
    const into = role === weight && inputs[weight] ? rangesOf(layerIndex, inputs[weight]) : null
    if (!out && !into) return
    const axes = tensor.shape.length === 1 ? [out] : inputFirst.has(tensor.role) ? [into, out] : [out, into]
    // Nothing goes where all of an axis is kept.
    const real = axes.map((ranges, axis) =>
      keptCount(ranges, tensor.shape[axis]!) === tensor.shape[axis] ? null : ranges,
    )
    if (real.some(ranges => ranges !== null)) cuts.set(index, real)
  })
  const sizes = kept.map((own, layer): LayerSizes => {
    const before = layerDimensions(d, layer)
    return {
      attentionHeadCount: own.queryHeads?.length ?? before.attentionHeadCount,
      keyValueHeadCount: own.keyValueHeads?.length ?? before.keyValueHeadCount,
      intermediateSize: own.neurons?.length ?? before.intermediateSize,
    }
  })
  return { cuts, dimensions: withSizes({ ...manifest.dimensions, headSize: d.headSize }, sizes) }
}

/** The dimensions with these sizes by layer: as numbers of the whole model where all layers agree. */
export function withSizes(dimensions: Manifest['dimensions'], sizes: readonly LayerSizes[]): Manifest['dimensions'] {
  const { perLayer: _before, ...rest } = dimensions
  const most = (pick: keyof LayerSizes) => Math.max(...sizes.map(size => size[pick]))
  const largest: LayerSizes = {
    attentionHeadCount: most('attentionHeadCount'),
    keyValueHeadCount: most('keyValueHeadCount'),
    intermediateSize: most('intermediateSize'),
  }
  const equal = sizes.every(size =>
    (Object.keys(largest) as (keyof LayerSizes)[]).every(key => size[key] === largest[key]),
  )
  return { ...rest, ...largest, ...(equal ? {} : { perLayer: sizes.map(size => ({ ...size })) }) }
}
