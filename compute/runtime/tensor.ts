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
  // 0 times a finite number is 0, times another NaN; in four sums, because additions would else wait for each other.
  let [a, b, c, d] = [0, 0, 0, 0]
  const whole = data.length & ~3
  for (let i = 0; i < whole; i += 4) {
    a += data[i]! * 0
    b += data[i + 1]! * 0
    c += data[i + 2]! * 0
    d += data[i + 3]! * 0
  }
  for (let i = whole; i < data.length; i++) a += data[i]! * 0
  if (a + b + c + d === 0) return data
  const i = data.findIndex(value => !Number.isFinite(value))
  throw new DomainError('NOT_A_NUMBER', `${name} is ${data[i]} at index ${i}`)
}
