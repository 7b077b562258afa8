// Numbers with a shape, as they go into and come out of a run, and short ways to make them.
import { DomainError } from '../../lib/errors.js'
import type { ElementType } from '../graph/ir.js'

export type TensorData = Float32Array | BigInt64Array | Int32Array | Uint8Array | Uint16Array

/** Row-major numbers with a shape. */
export interface RuntimeTensor {
  readonly type: ElementType
  readonly data: TensorData
  readonly shape: readonly number[]
}

export const floats = (data: Float32Array, shape: readonly number[]): RuntimeTensor => ({
  type: 'float32',
  data,
  shape,
})
export const int64s = (values: readonly number[], shape: readonly number[] = [values.length]): RuntimeTensor => ({
  type: 'int64',
  data: BigInt64Array.from(values, BigInt),
  shape,
})
export const int32s = (values: readonly number[], shape: readonly number[] = [values.length]): RuntimeTensor => ({
  type: 'int32',
  data: Int32Array.from(values),
  shape,
})

export const elementsOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

/** The float values of a result. Throws NOT_A_NUMBER where one is NaN or infinite, naming the result. */
export function finiteFloats(tensor: RuntimeTensor, name: string): Float32Array {
  const data = tensor.data as Float32Array
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i])) throw new DomainError('NOT_A_NUMBER', `${name} is ${data[i]} at index ${i}`)
  }
  return data
}
