// What error feedback needs of the Gram matrix of a layer's inputs: its Cholesky factor, panel of columns by panel of columns. The blocks on the
// diagonal are factored here in float64, all else is matrix products in float32 (docs/decisions/0071).
import { setImmediate } from 'node:timers/promises'
import { DomainError } from '../../lib/errors.js'
import { graphBuilder } from '../graph/builder.js'
import { apply } from '../ops/apply.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import { createSession, floats, type RunOptions, type RuntimeTensor, type SessionOptions } from '../runtime/session.js'

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

export interface FactorOptions {
  /** Added to the diagonal, times its mean: keeps columns that calibration never moved from being free. Absent: 0.01. */
  damping?: number
  signal?: AbortSignal | undefined
  /** Called after each panel of columns with the share of the work that is done, 0 to 1. */
  progress?: ((share: number) => void) | undefined
}

export interface Factoring {
  /**
   * Factor of H + damping * mean diagonal of H. What is read of H is its lower triangle.
   * @param gram [K, K] = XᵀX over the calibration tokens
   * @throws NOT_A_NUMBER where the sums hold NaN or infinity; CANCELLED
   */
  factor(gram: Float32Array, size: number, options?: FactorOptions): Promise<FeedbackFactor>
  dispose(): Promise<void>
}

/** Columns of a panel. With more the blocks on the diagonal take longer here than the products do: at 4,096, 0.8 s for 128 and 256, 1.5 for 512. */
const panelColumns = 128

/** Processors compute products of float32 as such; CUDA's may round factors to 10 bits (TF32), which is too few for a factor. */
const device = { provider: 'cpu', index: 0 } as const

/** Sessions that factor any number of matrices, of any size. */
export async function openFactoring(options: SessionOptions): Promise<Factoring> {
  const multiply = await createSession(productGraph(false), { ...options, device })
  const subtract = await createSession(productGraph(true), { ...options, device })
  const products: Products = {
    multiply: async (a, b, run) => (await multiply.run({ a, b }, ['product'], run)).product!.data as Float32Array,
    subtract: async (c, a, b, run) => {
      await subtract.run({ a, b, c }, ['product'], { ...run, into: { product: c } })
    },
  }
  return {
    factor: (gram, size, more = {}) => feedbackFactor(gram, size, products, more),
    dispose: async () => {
      await Promise.all([multiply.dispose(), subtract.dispose()])
    },
  }
}

interface Products {
  /** a [m, k] times bᵀ, where b is [n, k]. */
  multiply(a: RuntimeTensor, b: RuntimeTensor, run: RunOptions): Promise<Float32Array>
  /** c [m, n] less a [m, k] times bᵀ, where b is [n, k], in place. */
  subtract(c: RuntimeTensor, a: RuntimeTensor, b: RuntimeTensor, run: RunOptions): Promise<void>
}

function productGraph(subtracted: boolean) {
  const g = graphBuilder(subtracted ? 'subtract a product' : 'product')
  const a = g.input('a', 'float32', ['m', 'k'])
  const b = g.input('b', 'float32', ['n', 'k'])
  const inputs = subtracted ? [a, b, g.input('c', 'float32', ['m', 'n'])] : [a, b]
  g.output(apply(g, 'Gemm', inputs, subtracted ? { transB: 1, alpha: -1 } : { transB: 1 }), 'product')
  return g.build()
}

/** Columns [from, from + width) of the lower triangle, from their diagonal block on: [K - from, width]. */
interface Panel {
  from: number
  width: number
  values: Float32Array
}

async function feedbackFactor(
  gram: Float32Array,
  size: number,
  products: Products,
  { damping = 0.01, signal, progress }: FactorOptions,
): Promise<FeedbackFactor> {
  const added = dampingOf(gram, size, damping)
  const factor = { size, weights: new Float32Array(size), feedback: new Float32Array(size * size) }
  const turn = async () => {
    await setImmediate()
    throwIfCancelled(signal)
  }
  const panels: Panel[] = []
  for (let from = 0; from < size; from += panelColumns) {
    panels.push(panelOf(gram, size, from, added))
    await turn()
  }
  for (let panel = panels.shift(); panel; panel = panels.shift()) {
    await factorPanel(panel, panels, factor, added, products, { signal })
    progress?.(1 - ((size - panel.from - panel.width) / size) ** 3)
    await turn()
  }
  return factor
}

/** What is added to each element of the diagonal. */
function dampingOf(gram: Float32Array, size: number, damping: number): number {
  let trace = 0
  for (let i = 0; i < size; i++) trace += gram[i * size + i]!
  // All zeros: nothing is known of the inputs, and every column counts alike.
  return trace > 0 ? (damping * trace) / size : 1
}

function panelOf(gram: Float32Array, size: number, from: number, added: number): Panel {
  const width = Math.min(panelColumns, size - from)
  const values = new Float32Array((size - from) * width)
  for (let row = from; row < size; row++)
    values.set(gram.subarray(row * size + from, row * size + from + width), (row - from) * width)
  for (let i = 0; i < width; i++) values[i * width + i]! += added
  return { from, width, values }
}

/** Factors a panel from which all before it are taken already, and takes it from those after it. */
async function factorPanel(
  { from, width, values }: Panel,
  later: readonly Panel[],
  { size, weights, feedback }: FeedbackFactor,
  added: number,
  { multiply, subtract }: Products,
  run: RunOptions,
): Promise<void> {
  const block = factorBlock(values, width, from, added)
  for (let i = 0; i < width; i++) {
    const diagonal = block[i * width + i]!
    weights[from + i] = diagonal * diagonal
    for (let k = i + 1; k < width; k++) feedback[(from + i) * size + from + k] = block[k * width + i]! / diagonal
  }
  const next = from + width
  const rest = size - next
  if (rest === 0) return
  const below = floats(values.subarray(width * width), [rest, width])
  const inverse = inverseOf(block, width)
  // With B below the block: L = B (block⁻¹)ᵀ, and the feedback is Lᵀ with each row over its diagonal.
  const scaled = inverse.map((value, i) => value / block[Math.floor(i / width) * (width + 1)]!)
  const rows = await multiply(square(scaled, width), below, run)
  for (let i = 0; i < width; i++) feedback.set(rows.subarray(i * rest, (i + 1) * rest), (from + i) * size + next)
  const solved = await multiply(below, square(inverse, width), run)
  for (const panel of later) {
    const below = solved.subarray((panel.from - next) * width)
    const a = floats(below, [size - panel.from, width])
    const b = floats(below.subarray(0, panel.width * width), [panel.width, width])
    await subtract(floats(panel.values, [size - panel.from, panel.width]), a, b, run)
  }
}

const square = (values: Float64Array, size: number) => floats(Float32Array.from(values), [size, size])

/** L [width, width] with L Lᵀ = the first rows of the values, whose lower triangle is read; zeros above the diagonal. */
function factorBlock(values: Float32Array, width: number, from: number, added: number): Float64Array {
  const l = new Float64Array(width * width)
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = values[i * width + j]!
      for (let k = 0; k < j; k++) rest -= l[i * width + k]! * l[j * width + k]!
      if (!Number.isFinite(rest))
        throw new DomainError('NOT_A_NUMBER', `the sums of products of its inputs come to ${rest} at ${from + i}`)
      l[i * width + j] = i === j ? Math.sqrt(Math.max(rest, added * 1e-6)) : rest / l[j * width + j]!
    }
  }
  return l
}

/** The inverse of a lower triangle, itself one. */
function inverseOf(l: Float64Array, width: number): Float64Array {
  const inverse = new Float64Array(width * width)
  for (let i = 0; i < width; i++) {
    const diagonal = l[i * width + i]!
    // Row i of the inverse, from those before it, along memory.
    for (let k = 0; k < i; k++) {
      const share = l[i * width + k]! / diagonal
      for (let j = 0; j <= k; j++) inverse[i * width + j]! -= share * inverse[k * width + j]!
    }
    inverse[i * width + i] = 1 / diagonal
  }
  return inverse
}
