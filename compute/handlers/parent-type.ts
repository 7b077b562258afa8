// Plain number types of exports, and the one that a model's ancestor was published in: training leaves float32 behind.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { commonType } from '../formats/common-type.js'
import { readManifest } from '../formats/manifest.js'
import { converted, type TensorStream } from './tensor-streams.js'

const floatTypes = ['F32', 'F16', 'BF16'] as const
export type FloatType = (typeof floatTypes)[number]
export const isFloatType = (type: string): type is FloatType => (floatTypes as readonly string[]).includes(type)

/** Rounded to nearest, ties to even; whole numbers and flags stay what they are. */
export const inFloatType = (tensor: TensorStream, type: FloatType): TensorStream =>
  isFloatType(tensor.dtype) || tensor.dtype === 'F64' ? converted(tensor, type) : tensor

/**
 * The type that most weights have of the model that this one descends from, through all its ancestors.
 * @throws DomainError UNSUPPORTED_FORMAT where it has no ancestor, or one in blocks of codes; PAYLOAD_MISSING where its manifest is gone
 */
export async function parentType(manifest: Manifest, name: string, payloads: PayloadStore): Promise<FloatType> {
  const refuse = (message: string) =>
    new DomainError('UNSUPPORTED_FORMAT', `${name}: ${message}`, { field: ['input', 'quantization'] })
  if (!manifest.parent) throw refuse('it comes from no other model whose type it could be written in; name one')
  let above = manifest
  while (above.parent) above = await readManifest(payloads, above.parent.manifest)
  const most = commonType(above.tensors) ?? 'none'
  if (!isFloatType(most))
    throw refuse(
      `most weights of the model it descends from are stored as ${most}, which is no plain float type; name one`,
    )
  return most
}
