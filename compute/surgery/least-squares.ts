// Ridge regression from sums of products: the linear map nearest to another one that best gives targets from inputs.
import { DomainError } from '../../lib/errors.js'

/**
 * W [out, in] that minimises sum |W x - y|^2 + lambda |W - prior|^2, where `gram` [in, in] is the sum of x x' and `cross` [in, out] the sum
 * of x y'; lambda is `ridge` times the mean of gram's diagonal. By Cholesky's decomposition in float64.
 * @throws NOT_A_NUMBER where the sums hold NaN or gram is not positive definite
 */
export function ridgeFrom(
  gram: Float64Array,
  cross: Float64Array,
  prior: ArrayLike<number>,
  { inputs, outputs, ridge }: { inputs: number; outputs: number; ridge: number },
): Float32Array {
  let trace = 0
  for (let i = 0; i < inputs; i++) trace += gram[i * inputs + i]!
  const lambda = ridge * (trace / inputs)
  const a = gram.slice()
  for (let i = 0; i < inputs; i++) a[i * inputs + i]! += lambda
  choleskyInPlace(a, inputs)
  // Right-hand sides as rows, so that the inner loops run along memory: [out, in].
  const x = new Float64Array(outputs * inputs)
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++) x[o * inputs + i] = cross[i * outputs + o]! + lambda * prior[o * inputs + i]!
  const columns = transposed(a, inputs)
  for (let o = 0; o < outputs; o++) {
    const row = x.subarray(o * inputs, (o + 1) * inputs)
    for (let i = 0; i < inputs; i++) {
      let sum = row[i]!
      const at = i * inputs
      for (let k = 0; k < i; k++) sum -= a[at + k]! * row[k]!
      row[i] = sum / a[at + i]!
    }
    for (let i = inputs - 1; i >= 0; i--) {
      let sum = row[i]!
      const at = i * inputs
      for (let k = i + 1; k < inputs; k++) sum -= columns[at + k]! * row[k]!
      row[i] = sum / a[at + i]!
    }
  }
  return Float32Array.from(x)
}

/** Lower triangle L with a = L L'. */
function choleskyInPlace(a: Float64Array, n: number): void {
  for (let i = 0; i < n; i++) {
    const rowI = i * n
    for (let j = 0; j <= i; j++) {
      const rowJ = j * n
      let sum = a[rowI + j]!
      for (let k = 0; k < j; k++) sum -= a[rowI + k]! * a[rowJ + k]!
      if (i !== j) a[rowI + j] = sum / a[rowJ + j]!
      else if (sum > 0) a[rowI + i] = Math.sqrt(sum)
      else throw new DomainError('NOT_A_NUMBER', `The sums of products are not positive definite (${sum} at ${i})`)
    }
  }
}

/** Columns of the lower triangle as rows. */
function transposed(a: Float64Array, n: number): Float64Array {
  const result = new Float64Array(n * n)
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) result[j * n + i] = a[i * n + j]!
  return result
}
