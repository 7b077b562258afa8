// Which weight is to blame where a model gives no numbers: looked for only then, tensor by tensor, streamed.
import type { Manifest } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { readFloat32 } from '../formats/float-weights.js'

export interface BrokenTensor {
  name: string
  /** Of its first value that is not a number. */
  index: number[]
  value: number
}

/** The first tensor, in the manifest's order, with a value that is NaN or infinite; undefined where all are numbers. */
export async function findBrokenTensor(
  payloads: PayloadStore,
  { tensors }: Pick<Manifest, 'tensors'>,
  signal?: AbortSignal,
): Promise<BrokenTensor | undefined> {
  for (const tensor of tensors) {
    throwIfAborted(signal)
    let before = 0
    for await (const values of readFloat32(payloads, tensor, signal)) {
      const at = values.findIndex(value => !Number.isFinite(value))
      if (at >= 0) return { name: tensor.name, index: placeOf(before + at, tensor.shape), value: values[at]! }
      before += values.length
    }
  }
  return undefined
}

/** The index in every axis of a position in row-major order. */
function placeOf(position: number, shape: readonly number[]): number[] {
  let rest = position
  return [...shape]
    .reverse()
    .map(size => {
      const index = rest % size
      rest = Math.floor(rest / size)
      return index
    })
    .reverse()
}
