// A depth-cut student as a plan: the parent's manifest with some of its layers, re-indexed; no tensor byte is touched.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import { checkBuildable, describeTensor, roleInLayer } from '../architectures/registry.js'

/** [from, to) */
export interface Range {
  from: number
  to: number
}

const refuse = (message: string): never => {
  throw new DomainError('INVALID_RECIPE', message, { field: ['input', 'layers'] })
}

/**
 * The layers that ranges name, in the ranges' order.
 * @throws INVALID_RECIPE naming the range and the model's layer count where a range is empty, out of bounds or repeats a layer
 */
export function expandRanges(ranges: readonly Range[], layerCount: number): number[] {
  if (ranges.length === 0) refuse(`The recipe keeps no layers; the model has ${layerCount}`)
  const layers: number[] = []
  const seen = new Map<number, Range>()
  for (const range of ranges) {
    const text = `Layer range [${range.from}, ${range.to})`
    if (!Number.isInteger(range.from) || !Number.isInteger(range.to) || range.from < 0)
      refuse(`${text} must be whole numbers from 0; the model has ${layerCount} layers`)
    if (range.to <= range.from) refuse(`${text} is empty; the model has ${layerCount} layers`)
    if (range.to > layerCount) refuse(`${text} goes beyond the model's ${layerCount} layers`)
    for (let layer = range.from; layer < range.to; layer++) {
      const other = seen.get(layer)
      if (other)
        refuse(
          `${text} repeats layer ${layer} of [${other.from}, ${other.to}); each of the ${layerCount} layers may be kept once`,
        )
      seen.set(layer, range)
      layers.push(layer)
    }
  }
  return layers
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

/** Exact number of parameters of a student that keeps these layers (a tensor stored once counts once, as in the parent). */
export function parameterCountOf(manifest: Manifest, layers: readonly number[]): number {
  const kept = new Set(layers)
  return manifest.tensors
    .filter(t => t.layerIndex !== null && !kept.has(t.layerIndex))
    .reduce((count, t) => count - elements(t), manifest.parameterCount)
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

/**
 * The manifest of the student that keeps `layers` (any order, each once): names, roles and indices renumbered from 0, every payload the
 * parent's own. The tokenizer, chat template, licence and source configuration stay; the original files do not describe the student and go.
 * @param parentHash payload hash of the parent's manifest
 * @throws INVALID_RECIPE naming the layer and the layer count; UNSUPPORTED_ARCHITECTURE, MISSING_TENSOR or SHAPE_MISMATCH where the
 *   parent cannot run
 */
export function extractLayers(manifest: Manifest, layers: readonly number[], parentHash: string): Manifest {
  checkBuildable(manifest)
  const ranges = layers.map(layer => ({ from: layer, to: layer + 1 }))
  expandRanges(ranges, manifest.dimensions.layerCount)
  const firstLayer = manifest.tensors.findIndex(t => t.layerIndex !== null)
  const outside = (keep: (index: number) => boolean) =>
    manifest.tensors.filter((t, i) => t.layerIndex === null && keep(i))
  const byLayer = new Map<number, ManifestTensor[]>()
  for (const tensor of manifest.tensors) {
    if (tensor.layerIndex === null) continue
    const tensors = byLayer.get(tensor.layerIndex)
    if (tensors) tensors.push(tensor)
    else byLayer.set(tensor.layerIndex, [tensor])
  }
  const kept = layers.flatMap((layer, index) => (byLayer.get(layer) ?? []).map(t => moveTensor(manifest, t, index)))
  const { sourceFiles: _ofTheParent, ...rest } = manifest
  return {
    ...rest,
    dimensions: { ...manifest.dimensions, layerCount: layers.length },
    parameterCount: parameterCountOf(manifest, layers),
    tensors: [...outside(i => i < firstLayer), ...kept, ...outside(i => i > firstLayer)],
    parent: { manifest: parentHash, layers: [...layers] },
  }
}
