// Ridge regression from sums of products: the linear map nearest to another one that best gives targets from inputs.
import { setImmediate } from 'node:timers/promises'
import { DomainError } from '../../lib/errors.js'
import { throwIfCancelled } from '../runtime/cancellation.js'

/** Rows worked on together: what they read of the triangle is read once for all, and the event loop has a turn after them (some two seconds at 8,192 inputs). */
const blockRows = 16

export interface RidgeOptions {
  inputs: number
  outputs: number
  ridge: number
  signal?: AbortSignal | undefined
  /** Called after each block with the share of the work that is done, 0 to 1. */
  progress?: ((share: number) => void) | undefined
}

/**
 * W [out, in] that minimises sum |W x - y|^2 + lambda |W - prior|^2, where `gram` [in, in] is the sum of x x' and `cross` [in, out] the sum
 * of x y'; lambda is `ridge` times the mean of gram's diagonal. By Cholesky's decomposition in float64.
 * @throws NOT_A_NUMBER where the sums hold NaN or gram is not positive definite; CANCELLED
 */
export async function ridgeFrom(
  gram: Float64Array,
  cross: Float64Array,
  prior: ArrayLike<number>,
  { inputs, outputs, ridge, signal, progress }: RidgeOptions,
): Promise<Float32Array> {
  let trace = 0
  for (let i = 0; i < inputs; i++) trace += gram[i * inputs + i]!
  const lambda = ridge * (trace / inputs)
  const a = gram.slice()
  for (let i = 0; i < inputs; i++) a[i * inputs + i]! += lambda
  // Products: n^3 / 6 for the triangle, n^2 for each output.
  const [triangle, solves] = [inputs / 6, outputs]
  const turn = async (done: number) => {
    progress?.(done / (triangle + solves))
    await setImmediate()
    throwIfCancelled(signal)
  }
  for (let from = 0; from < inputs; from += blockRows) {
    const to = Math.min(from + blockRows, inputs)
    decomposeRows(a, inputs, from, to)
    await turn(triangle * (to / inputs) ** 3)
  }
  const w = new Float32Array(outputs * inputs)
  for (let from = 0; from < outputs; from += blockRows) {
    const to = Math.min(from + blockRows, outputs)
    // Right-hand sides as rows, so that the inner loops run along memory: [out, in].
    const x = new Float64Array((to - from) * inputs)
    for (let o = from; o < to; o++)
      for (let i = 0; i < inputs; i++)
        x[(o - from) * inputs + i] = cross[i * outputs + o]! + lambda * prior[o * inputs + i]!
    solveRows(a, inputs, x, to - from)
    w.set(x, from * inputs)
    await turn(triangle + to)
  }
  return w
}

/** Rows [from, to) of the lower triangle L with a = L L', in place; those before are done. */
function decomposeRows(a: Float64Array, n: number, from: number, to: number): void {
  const element = (i: number, j: number) => {
    let sum = a[i * n + j]!
    for (let k = 0; k < j; k++) sum -= a[i * n + k]! * a[j * n + k]!
    return sum
  }
  for (let j = 0; j < from; j++) for (let i = from; i < to; i++) a[i * n + j] = element(i, j) / a[j * n + j]!
  for (let i = from; i < to; i++) {
    for (let j = from; j < i; j++) a[i * n + j] = element(i, j) / a[j * n + j]!
    const pivot = element(i, i)
    if (!(pivot > 0))
      throw new DomainError('NOT_A_NUMBER', `The sums of products are not positive definite (${pivot} at ${i})`)
    a[i * n + i] = Math.sqrt(pivot)
  }
}

/** Rows x become the solutions of L L' x = x. */
function solveRows(l: Float64Array, n: number, x: Float64Array, rows: number): void {
  for (let i = 0; i < n; i++) {
    const at = i * n
    for (let row = 0; row < rows * n; row += n) {
      let sum = x[row + i]!
      for (let k = 0; k < i; k++) sum -= l[at + k]! * x[row + k]!
      x[row + i] = sum / l[at + i]!
    }
  }
  // Back along L's rows, not its columns: what is found is taken from all that are left.
  for (let i = n - 1; i >= 0; i--) {
    const at = i * n
    for (let row = 0; row < rows * n; row += n) {
      const found = x[row + i]! / l[at + i]!
      x[row + i] = found
      for (let k = 0; k < i; k++) x[row + k]! -= l[at + k]! * found
    }
  }
}
