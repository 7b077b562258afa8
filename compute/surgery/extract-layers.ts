// A student put together from layers, as a plan: manifests of its parents, re-indexed; no tensor byte is touched.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import { type LayerSizes, layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { checkBuildable, describeTensor, parseRole, roleInLayer } from '../architectures/registry.js'
import { withSizes } from './prune.js'

/** [from, to) */
export interface Range {
  from: number
  to: number
}

/** A layer of the parent, or of another model by its manifest's hash. */
export interface LayerSource {
  layer: number
  manifest?: string | undefined
}

const refuse = (message: string): never => {
  throw new DomainError('INVALID_RECIPE', message, { field: ['input', 'layers'] })
}

/**
 * The layers that ranges name, in the ranges' order; ranges may overlap and repeat.
 * @throws INVALID_RECIPE naming the range and the model's layer count where a range is empty or out of bounds
 */
export function expandRanges(ranges: readonly Range[], layerCount: number): number[] {
  if (ranges.length === 0) refuse(`The recipe keeps no layers; the model has ${layerCount}`)
  return ranges.flatMap(({ from, to }) => {
    const text = `Layer range [${from}, ${to})`
    if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0)
      refuse(`${text} must be whole numbers from 0; the model has ${layerCount} layers`)
    if (to <= from) refuse(`${text} is empty; the model has ${layerCount} layers`)
    if (to > layerCount) refuse(`${text} goes beyond the model's ${layerCount} layers`)
    return Array.from({ length: to - from }, (_, i) => from + i)
  })
}

/** The shortest list of ranges that names these layers in this order: the inverse of expandRanges. */
export function toRanges(layers: readonly number[]): Range[] {
  const ranges: Range[] = []
  for (const layer of layers) {
    const last = ranges.at(-1)
    if (last && last.to === layer) last.to++
    else ranges.push({ from: layer, to: layer + 1 })
  }
  return ranges
}

const elements = (tensor: ManifestTensor) => tensor.shape.reduce((product, n) => product * n, 1)

/** Exact number of parameters of a student of these layers: what lies outside layers as the parent counts it, each layer as often as it is used. */
export function parameterCountOf(manifest: Manifest, layers: readonly number[]): number {
  const perLayer = new Map<number, number>()
  let outside = manifest.parameterCount
  for (const tensor of manifest.tensors) {
    if (tensor.layerIndex === null) continue
    perLayer.set(tensor.layerIndex, (perLayer.get(tensor.layerIndex) ?? 0) + elements(tensor))
    outside -= elements(tensor)
  }
  return layers.reduce((count, layer) => count + (perLayer.get(layer) ?? 0), outside)
}

/** Bytes of all tensors of a student that keeps these layers, as its parent stores them. */
export function sizeBytesOf(manifest: Manifest, layers: readonly number[]): number {
  const kept = new Set(layers)
  return manifest.tensors.reduce((sum, t) => sum + (t.layerIndex === null || kept.has(t.layerIndex) ? t.bytes : 0), 0)
}

/** The part of a tensor name that says its layer: `model.layers.3.`, `layers.3.`, `blk.3.`. */
const layerPart = /(?<=\.)\d+(?=\.)/

/** The tensor in another layer; its name keeps the source's own convention (some checkpoints have no `model.` prefix). */
function moveTensor(manifest: Manifest, tensor: ManifestTensor, to: number): ManifestTensor {
  const name = tensor.name.replace(layerPart, String(to))
  const described = describeTensor(manifest.architecture, manifest.format, name)
  const role = tensor.role === undefined ? undefined : roleInLayer(tensor.role, to)
  if (described.layerIndex !== to || (role !== undefined && described.role !== role))
    refuse(`Tensor ${tensor.name} of layer ${tensor.layerIndex} has no name in layer ${to}`)
  return { ...tensor, name, ...(role === undefined ? {} : { role }), layerIndex: to }
}

/** What layers of two models must have in common to follow each other; sizes may differ from layer to layer. */
const sharedDimensions = [
  'hiddenSize',
  'headSize',
  'normEpsilon',
  'ropeTheta',
  'ropeLayout',
  'ropeScaling',
  'slidingWindow',
] as const

/** Payload of the tensor that RoPE frequencies are divided by (GGUF's `rope_freqs`); absent where there is none. */
const ropeFactorsOf = ({ tensors }: Manifest) => tensors.find(({ role }) => role === 'rope_factors')?.payload

/** @throws INVALID_RECIPE naming what differs and both values */
function checkFits(parent: Manifest, d: ResolvedDimensions, other: Manifest, theirs: ResolvedDimensions, hash: string) {
  const name = other.sourceName ?? hash.slice(0, 12)
  const differ = (what: string, ours: unknown, own: unknown) =>
    refuse(`Layers of ${name} do not fit: their ${what} is ${JSON.stringify(own)}, expected ${JSON.stringify(ours)}`)
  if (other.architecture !== parent.architecture) differ('architecture', parent.architecture, other.architecture)
  if (other.format !== parent.format) differ('file format', parent.format, other.format)
  for (const key of sharedDimensions)
    if (JSON.stringify(d[key]) !== JSON.stringify(theirs[key])) differ(key, d[key], theirs[key])
  const [ours, own] = [ropeFactorsOf(parent), ropeFactorsOf(other)]
  if (ours !== own) differ('tensor of RoPE factors', ours ?? 'absent', own ?? 'absent')
}

const layersOf = (manifest: Manifest): Map<number, ManifestTensor[]> => {
  const byLayer = new Map<number, ManifestTensor[]>()
  for (const tensor of manifest.tensors) {
    if (tensor.layerIndex === null) continue
    const tensors = byLayer.get(tensor.layerIndex)
    if (tensors) tensors.push(tensor)
    else byLayer.set(tensor.layerIndex, [tensor])
  }
  return byLayer
}

/**
 * The manifest of the student of `layers`, in any order and as often as they are named: names, roles and indices renumbered from 0, every
 * payload a parent's own. Tokenizer, chat template, licence and source configuration are the parent's, as is what lies outside layers; the
 * original files do not describe the student and go.
 * @param parentHash payload hash of the parent's manifest
 * @param others manifests of the other models that layers are of, by hash
 * @throws INVALID_RECIPE naming the layer and the layer count, or how another model differs; UNSUPPORTED_ARCHITECTURE, MISSING_TENSOR or
 *   SHAPE_MISMATCH where a parent cannot run
 */
export function extractLayers(
  manifest: Manifest,
  layers: readonly (number | LayerSource)[],
  parentHash: string,
  others: ReadonlyMap<string, Manifest> = new Map(),
): Manifest {
  const { dimensions: d } = checkBuildable(manifest)
  const open = (source: Manifest, dimensions: ResolvedDimensions) => ({
    source,
    dimensions,
    byLayer: layersOf(source),
  })
  const parent = open(manifest, d)
  const models = new Map([[parentHash, parent]])
  for (const [hash, other] of others) {
    const { dimensions } = checkBuildable(other)
    checkFits(manifest, d, other, dimensions, hash)
    if (!models.has(hash)) models.set(hash, open(other, dimensions))
  }
  const used = layers.map(source => {
    const { layer, manifest: hash = parentHash } = typeof source === 'number' ? { layer: source } : source
    const model = models.get(hash) ?? refuse(`No manifest ${hash} was given for layer ${layer}`)
    expandRanges([{ from: layer, to: layer + 1 }], model.dimensions.layerCount)
    return { layer, hash, model }
  })
  const firstLayer = manifest.tensors.findIndex(t => t.layerIndex !== null)
  const outside = (keep: (index: number) => boolean) =>
    manifest.tensors.filter((t, i) => t.layerIndex === null && keep(i))
  // Names of another model's layers follow the parent's convention.
  const conventional = new Map(
    manifest.tensors.flatMap(({ role, name, layerIndex }) =>
      role === undefined || layerIndex === null ? [] : [[parseRole(role).role, name] as const],
    ),
  )
  const named = (tensor: ManifestTensor): ManifestTensor => {
    const name = tensor.role === undefined ? undefined : conventional.get(parseRole(tensor.role).role)
    return name === undefined ? tensor : { ...tensor, name }
  }
  const kept = used.flatMap(({ layer, model }, index) =>
    (model.byLayer.get(layer) ?? []).map(t => moveTensor(manifest, model === parent ? t : named(t), index)),
  )
  const sizes = used.map(({ layer, model }): LayerSizes => {
    const { attentionHeadCount, keyValueHeadCount, intermediateSize } = layerDimensions(model.dimensions, layer)
    return { attentionHeadCount, keyValueHeadCount, intermediateSize }
  })
  const uniform = models.size === 1 && d.perLayer === undefined
  const dimensions = { ...manifest.dimensions, layerCount: layers.length }
  const { sourceFiles: _ofTheParent, quantisedFrom, fusedFrom: _whole, adapter, ...rest } = manifest
  const whole = uniform && used.length === d.layerCount && used.every(({ layer }, index) => layer === index)
  const sources = used.map(({ hash }) => hash)
  return {
    ...rest,
    dimensions: uniform ? dimensions : withSizes({ ...dimensions, headSize: d.headSize }, sizes),
    parameterCount: kept.reduce((count, t) => count + elements(t), parameterCountOf(manifest, [])),
    tensors: [...outside(i => i < firstLayer), ...kept, ...outside(i => i > firstLayer)],
    // Those are values of all the parent's layers in their order.
    ...(whole && quantisedFrom ? { quantisedFrom } : {}),
    ...(whole && adapter ? { adapter } : {}),
    parent: {
      manifest: parentHash,
      layers: used.map(({ layer }) => layer),
      ...(sources.every(hash => hash === parentHash) ? {} : { sources }),
    },
  }
}
