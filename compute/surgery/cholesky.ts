// What error feedback needs of the Gram matrix of a layer's inputs: its Cholesky factor, in float64.

export interface FeedbackFactor {
  /** K */
  size: number
  /** [K] squared diagonal of the factor: what an error in one column costs once all earlier columns may make up for it. */
  weights: Float32Array
  /**
   * [K, K], row-major, above the diagonal: with H = L Lᵀ, feedback[i][k] = L[k][i] / L[i][i]. An error e in column k moves the best value
   * of column i < k by feedback[i][k] * e.
   */
  feedback: Float32Array
}

/**
 * Factor of H + damping * mean diagonal of H. Small damping keeps columns that calibration never moved from being free.
 * @param gram [K, K] = XᵀX over the calibration tokens
 */
export function feedbackFactor(gram: Float32Array | Float64Array, size: number, damping = 0.01): FeedbackFactor {
  let trace = 0
  for (let i = 0; i < size; i++) trace += gram[i * size + i]!
  // All zeros: nothing is known of the inputs, and every column counts alike.
  const added = trace > 0 ? (damping * trace) / size : 1
  const l = Float64Array.from(gram)
  for (let i = 0; i < size; i++) {
    const row = i * size
    for (let j = 0; j <= i; j++) {
      const other = j * size
      // Four sums at once: they do not wait for each other.
      let [a, b, c, d] = [0, 0, 0, 0]
      let k = 0
      for (; k + 3 < j; k += 4) {
        a += l[row + k]! * l[other + k]!
        b += l[row + k + 1]! * l[other + k + 1]!
        c += l[row + k + 2]! * l[other + k + 2]!
        d += l[row + k + 3]! * l[other + k + 3]!
      }
      for (; k < j; k++) a += l[row + k]! * l[other + k]!
      const rest = l[row + j]! + (i === j ? added : 0) - (a + b + c + d)
      l[row + j] = i === j ? Math.sqrt(Math.max(rest, added * 1e-6)) : rest / l[other + j]!
    }
  }
  const weights = new Float32Array(size)
  const feedback = new Float32Array(size * size)
  for (let i = 0; i < size; i++) {
    const diagonal = l[i * size + i]!
    weights[i] = diagonal * diagonal
    for (let k = i + 1; k < size; k++) feedback[i * size + k] = l[k * size + i]! / diagonal
  }
  return { size, weights, feedback }
}
