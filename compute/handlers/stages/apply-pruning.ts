// Carries a pruning plan out: slices go into the payload store, everything else is shared with the model they come from.
import type { Manifest, ManifestTensor } from '../../../lib/manifest.js'
import { elementCount } from '../../formats/float-weights.js'
import { recordSlice, sliceTensor } from '../../formats/slice-tensor.js'
import { type LayerKept, planPruning } from '../../surgery/prune.js'
import type { StageContext } from '../build-stages.js'
import { withFullPrecision } from '../full-precision.js'

export interface Pruned {
  manifest: Manifest
  /** Tensors that could not be cut byte for byte, and why. */
  notes: string[]
  slicedTensors: number
}

/** Tensors of the recipe's parents by payload: what slices are recorded relative to. */
export async function parentTensors({ input, payloads }: StageContext): Promise<Map<string, ManifestTensor>> {
  const hashes = new Set([input.parent, ...input.layers.flatMap(range => range.manifest ?? [])])
  const found = new Map<string, ManifestTensor>()
  for (const hash of hashes)
    for (const { manifest } of await withFullPrecision(hash, payloads))
      for (const tensor of manifest.tensors) if (!found.has(tensor.payload)) found.set(tensor.payload, tensor)
  return found
}

/**
 * The manifest with only these heads and neurons.
 * @throws what planning and slicing throw; CANCELLED, DISK_FULL
 */
export async function applyPruning(
  stage: string,
  manifest: Manifest,
  kept: readonly LayerKept[],
  context: StageContext,
): Promise<Pruned> {
  const { payloads, signal, progress } = context
  const { cuts, dimensions } = planPruning(manifest, kept)
  const parents = await parentTensors(context)
  const tensors = [...manifest.tensors]
  const notes: string[] = []
  const batch = payloads.batch(signal)
  try {
    let completed = 0
    for (const [index, axes] of cuts) {
      const tensor = tensors[index]!
      const { chunks, note, ...sliced } = sliceTensor(tensor, axes, payloads)
      const { hash } = await batch.put(chunks(signal))
      const slice = recordSlice(tensor, axes, parents.get(tensor.payload), false)
      tensors[index] = { ...tensor, ...sliced, payload: hash, slice }
      if (note) notes.push(note)
      progress({ stage, completed: ++completed, total: cuts.size, unit: 'tensors' })
    }
    await batch.commit()
  } catch (error) {
    await batch.rollback()
    throw error
  }
  const removed = [...cuts.keys()].reduce(
    (sum, index) => sum + elementCount(manifest.tensors[index]!.shape) - elementCount(tensors[index]!.shape),
    0,
  )
  const { quantisedFrom: _ofMore, fusedFrom: _wider, adapter: _ofOthers, ...rest } = manifest
  const pruned = { ...rest, dimensions, tensors, parameterCount: manifest.parameterCount - removed }
  return { manifest: pruned, notes, slicedTensors: cuts.size }
}
