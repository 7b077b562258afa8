// Norm weights folded into the projections that read what the norm gives: W diag(g) x̂ instead of W (g ∘ x̂), with unit weights left in the norm.
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { BuildableModel } from '../architectures/registry.js'
import { readTensorFloat32 } from '../formats/float-weights.js'
import { isQuantized } from '../formats/ggml-types.js'
import type { HandlerContext } from './handler.js'

export interface FoldableNorm {
  norm: string
  /** Roles of everything that reads it. */
  projections: string[]
}

/** Norms whose readers are all matrices of plain numbers, [out, in]: codes would have to be rounded again. */
export function foldableNorms({ tensors, dimensions, inputFirst }: BuildableModel): FoldableNorm[] {
  const layers = Array.from({ length: dimensions.layerCount }, (_, layer) => [
    { norm: `layers.${layer}.attn_norm`, projections: ['q', 'k', 'v'].map(role => `layers.${layer}.${role}`) },
    {
      norm: `layers.${layer}.mlp_norm`,
      projections: ['gate', 'up'].map(role => `layers.${layer}.${role}`).filter(role => tensors.has(role)),
    },
  ])
  const head = dimensions.tiedEmbeddings ? [] : [{ norm: 'final_norm', projections: ['lm_head'] }]
  return [...layers.flat(), ...head].filter(
    ({ norm, projections }) =>
      tensors.has(norm) &&
      !tensors.has(`${norm}_bias`) &&
      projections.length > 0 &&
      projections.every(role => {
        const tensor = tensors.get(role)
        return tensor && !isQuantized(tensor.dtype) && !inputFirst.has(role)
      }),
  )
}

/**
 * The manifest with these norms' weights folded.
 * @param timing leaves the projections as they are: the same work for other numbers, which is all that timing needs
 */
export async function foldNorms(
  manifest: Manifest,
  { tensors, normOffset }: BuildableModel,
  norms: readonly FoldableNorm[],
  { payloads, signal, progress }: Pick<HandlerContext, 'payloads' | 'signal' | 'progress'>,
  timing = false,
): Promise<Manifest> {
  const changed = new Map<ManifestTensor, ManifestTensor>()
  const put = async (tensor: ManifestTensor, values: Float32Array) => {
    const { hash, bytes } = await payloads.put([new Uint8Array(values.buffer)], signal)
    const slice = tensor.slice && { ...tensor.slice, changed: true }
    changed.set(tensor, { ...tensor, dtype: 'F32', bytes, payload: hash, ...(slice ? { slice } : {}) })
  }
  for (const [i, { norm, projections }] of norms.entries()) {
    signal.throwIfAborted()
    const weight = tensors.get(norm)!
    const scale = (await readTensorFloat32(payloads, weight)).map(value => value + normOffset)
    await put(weight, new Float32Array(scale.length).fill(1 - normOffset))
    for (const role of timing ? [] : projections) {
      const tensor = tensors.get(role)!
      const values = await readTensorFloat32(payloads, tensor)
      for (let at = 0; at < values.length; at++) values[at]! *= scale[at % scale.length]!
      await put(tensor, values)
    }
    if (!timing) progress({ stage: 'fold', completed: i + 1, total: norms.length, unit: 'norms' })
  }
  const { sourceFiles: _ofTheSource, adapter: _ofOtherWeights, ...rest } = manifest
  return { ...rest, tensors: rest.tensors.map(tensor => changed.get(tensor) ?? tensor) }
}
