// What a recipe would build, known before it is built: the student's manifest with the shapes and sizes its tensors will have.
import type { Manifest } from '../../lib/manifest.js'
import { checkBuildable } from '../architectures/registry.js'
import { elementCount } from '../formats/float-weights.js'
import { sliceForm } from '../formats/slice-tensor.js'
import { extractLayers } from './extract-layers.js'
import { type LayerKept, planPruning, withoutGroups } from './prune.js'

/**
 * The manifest of the student of these layers without these heads. Payloads of cut tensors are still the parent's: it says what the student
 * weighs, and cannot be run.
 * @param groups by layer of the student the key/value heads that go
 * @throws what the build would throw: INVALID_RECIPE, UNSUPPORTED_ARCHITECTURE, MISSING_TENSOR, SHAPE_MISMATCH, UNSUPPORTED_FORMAT
 */
export function plannedStudent(
  parent: Manifest,
  parentHash: string,
  layers: readonly number[],
  groups: readonly (readonly number[])[] = [],
): Manifest {
  const student = extractLayers(parent, layers, parentHash)
  if (groups.every(own => own.length === 0)) return student
  const { dimensions: d } = checkBuildable(student)
  const kept = layers.map((_, layer): LayerKept => withoutGroups(d, layer, groups[layer] ?? []))
  const { cuts, dimensions } = planPruning(student, kept)
  let parameterCount = student.parameterCount
  const tensors = student.tensors.map((tensor, index) => {
    const axes = cuts.get(index)
    if (!axes) return tensor
    const { note: _, ...form } = sliceForm(tensor, axes)
    parameterCount -= elementCount(tensor.shape) - elementCount(form.shape)
    return { ...tensor, ...form }
  })
  return { ...student, dimensions, tensors, parameterCount }
}
