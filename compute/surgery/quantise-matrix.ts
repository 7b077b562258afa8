// One matrix to whole-number blocks with error feedback: columns are rounded one after the other, and what rounding a column did to the
// layer's output on the calibration inputs is made up for by the columns not yet rounded (GPTQ, arXiv 2210.17323, in the form of Babai's
// nearest plane, which needs the Cholesky factor of XᵀX instead of that of its inverse: columns go from the last to the first).
import { DomainError } from '../../lib/errors.js'
import { halfToFloat } from '../formats/dequantize.js'
import { type IntScheme, packIntBlocks } from '../formats/int-blocks.js'
import { graphBuilder } from '../graph/builder.js'
import { apply } from '../ops/apply.js'
import { createSession, floats, type Session } from '../runtime/session.js'
import { blockScale } from './block-scale.js'
import type { FeedbackFactor } from './cholesky.js'

/** a [m, k] times b [k, n] plus c [m, n]. */
export type MultiplyAdd = (
  a: Float32Array,
  b: Float32Array,
  c: Float32Array,
  shape: { m: number; k: number; n: number },
) => Promise<Float32Array>

/** The product as a session of its own. */
export async function multiplyAddSession(options: { weightsFolder: string; threads?: number }) {
  const g = graphBuilder('multiply and add')
  const a = g.input('a', 'float32', ['m', 'k'])
  const b = g.input('b', 'float32', ['k', 'n'])
  const c = g.input('c', 'float32', ['m', 'n'])
  g.output(apply(g, 'Gemm', [a, b, c], {}, { name: 'sum' }))
  const session: Session = await createSession(g.build(), options)
  const multiplyAdd: MultiplyAdd = async (x, y, z, { m, k, n }) => {
    const feeds = { a: floats(x, [m, k]), b: floats(y, [k, n]), c: floats(z, [m, n]) }
    return (await session.run(feeds, ['sum'])).sum!.data as Float32Array
  }
  return { multiplyAdd, dispose: () => session.dispose() }
}

/** Elements worked on at once: rows do not depend on each other. */
const stepElements = 8 * 1024 * 1024

/**
 * The blocks of a matrix as stored bytes, all rows after each other.
 * @param weights [rows, columns], columns a multiple of the block size
 * @throws DomainError NOT_A_NUMBER with the element's place
 */
export async function quantiseMatrix(
  weights: Float32Array,
  rows: number,
  scheme: IntScheme,
  factor: FeedbackFactor,
  multiplyAdd: MultiplyAdd,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const columns = factor.size
  const parts: Uint8Array[] = []
  const perStep = Math.max(1, Math.floor(stepElements / columns))
  for (let row = 0; row < rows; row += perStep) {
    const count = Math.min(perStep, rows - row)
    const part = weights.subarray(row * columns, (row + count) * columns)
    parts.push(await quantiseRows(part, count, scheme, factor, multiplyAdd, signal))
  }
  return Buffer.concat(parts)
}

async function quantiseRows(
  weights: Float32Array,
  rows: number,
  scheme: IntScheme,
  { size: columns, weights: costs, feedback }: FeedbackFactor,
  multiplyAdd: MultiplyAdd,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const { bits, symmetric, blockSize } = scheme
  const perRow = columns / blockSize
  const zero = bits === 4 && symmetric ? 8 : 0
  const [least, most] = symmetric ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1]
  // Turned round, [columns, rows]: a column's work is on numbers that follow each other.
  const wanted = new Float32Array(weights.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = weights[row * columns + column]!
      if (!Number.isFinite(value)) throw new DomainError('NOT_A_NUMBER', `[${row}, ${column}] is ${value}`)
      wanted[column * rows + row] = value
    }
  }
  let moved: Float32Array = wanted.slice()
  const codes = new Uint8Array(weights.length)
  const scales = new Uint16Array(rows * perRow)
  const minima = new Uint16Array(symmetric ? 0 : rows * perRow)
  const scale = new Float32Array(rows)
  const inverse = new Float32Array(rows)
  const minimum = new Float32Array(rows)
  for (let block = perRow - 1; block >= 0; block--) {
    signal?.throwIfAborted()
    const from = block * blockSize
    for (let row = 0; row < rows; row++) {
      const found = blockScale(moved, from * rows + row, rows, costs, from, scheme)
      scales[row * perRow + block] = found.scale
      if (!symmetric) minima[row * perRow + block] = found.minimum
      scale[row] = halfToFloat(found.scale)
      inverse[row] = scale[row] === 0 ? 0 : 1 / scale[row]!
      minimum[row] = symmetric ? 0 : halfToFloat(found.minimum)
    }
    const errors = new Float32Array(blockSize * rows)
    for (let k = blockSize - 1; k >= 0; k--) {
      const at = (from + k) * rows
      const own = errors.subarray(k * rows, (k + 1) * rows)
      for (let row = 0; row < rows; row++) {
        const code = Math.max(least, Math.min(most, Math.round((moved[at + row]! - minimum[row]!) * inverse[row]!)))
        codes[row * columns + from + k] = code + zero
        own[row] = wanted[at + row]! - (code * scale[row]! + minimum[row]!)
      }
      for (let i = 0; i < k; i++) {
        const factor = feedback[(from + i) * columns + from + k]!
        const target = (from + i) * rows
        for (let row = 0; row < rows; row++) moved[target + row]! += factor * own[row]!
      }
    }
    if (from === 0) break
    const panel = new Float32Array(from * blockSize)
    for (let i = 0; i < from; i++)
      panel.set(feedback.subarray(i * columns + from, i * columns + from + blockSize), i * blockSize)
    moved = await multiplyAdd(panel, errors, moved.subarray(0, from * rows), { m: from, k: blockSize, n: rows })
  }
  return packIntBlocks(scheme, { codes, scales, minima })
}
