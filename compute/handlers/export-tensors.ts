// Tensors of any model as SafeTensors bytes under Hugging Face names: what the exported model.safetensors holds.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { Format, TensorPlace } from '../architectures/architecture.js'
import { type BuildableModel, checkBuildable, isInputFirst, parseRole, tensorName } from '../architectures/registry.js'
import { isQuantized } from '../formats/ggml-types.js'
import { converted, reordered, shifted, storedStream, type TensorStream, transposed } from './tensor-streams.js'

/**
 * The tensors in the order in which they are written. HF sources keep names and plain types; GGUF sources get HF names and what the
 * converter changed goes back to how Hugging Face models have it. Quantised tensors become float32.
 * @throws DomainError UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_FORMAT naming the tensor
 */
export function exportTensors(manifest: Manifest, payloads: PayloadStore): TensorStream[] {
  const plain = (stream: TensorStream) => (isQuantized(stream.dtype) ? converted(stream, 'F32') : stream)
  if (manifest.format === 'safetensors') return manifest.tensors.map(t => plain(storedStream(t, t.name, payloads)))
  const model = checkBuildable(manifest)
  return manifest.tensors.map(tensor => {
    const place = placeOf(model, tensor)
    if (!place || place.names.safetensors.length === 0) {
      throw new DomainError(
        'UNSUPPORTED_FORMAT',
        `tensor ${tensor.name}: has no place in a Hugging Face ${model.architecture.name} model`,
      )
    }
    return plain(inConvention(manifest, model, tensor, place, 'safetensors', payloads))
  })
}

export const placeOf = ({ architecture }: BuildableModel, { role }: ManifestTensor): TensorPlace | undefined =>
  role === undefined ? undefined : architecture.tensors.find(place => place.role === parseRole(role).role)

/**
 * A tensor under the name and in the form that a format's models have it: order of q and k rows, Conv1D turned round, what is added to
 * norms. Types stay, but where arithmetic or turning makes float32 of them.
 */
export function inConvention(
  manifest: Manifest,
  { architecture, dimensions, normOffset }: BuildableModel,
  tensor: ManifestTensor,
  place: TensorPlace,
  format: Format,
  payloads: PayloadStore,
): TensorStream {
  let stream = storedStream(tensor, tensorName(manifest.architecture, format, tensor.role!), payloads)
  const layout = architecture.ropeLayout[format]
  if (place.rotated && dimensions.ropeLayout !== layout) stream = reordered(stream, dimensions.headSize, layout)
  if (isInputFirst(place, manifest.format) !== isInputFirst(place, format)) stream = transposed(stream)
  const offset = normOffset - (architecture.normOffset?.[format] ?? 0)
  const isScale = place.component === 'NORM' && !place.role.endsWith('_bias')
  if (offset !== 0 && isScale) stream = shifted(stream, offset)
  return stream
}
