// Error feedback against a plain float64 version of it, and what it is for: a smaller error of the layer's output than rounding to nearest.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dequantize, halfToFloat } from '../../../../compute/formats/dequantize.js'
import { type IntScheme, intDtype, intSchemes, unpackIntBlocks } from '../../../../compute/formats/int-blocks.js'
import { quantize } from '../../../../compute/formats/quantize.js'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { blockScale } from '../../../../compute/surgery/block-scale.js'
import { type Factoring, type FeedbackFactor, openFactoring } from '../../../../compute/surgery/cholesky.js'
import { multiplyAddSession, quantiseMatrix } from '../../../../compute/surgery/quantise-matrix.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

const rows = 5
const columns = 128
const random = seededRandom(3)
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
const weights = Float32Array.from({ length: rows * columns }, normal)
/** Inputs of few directions, as activations have: what one column does, others can nearly make up for. */
const gram = (() => {
  const tokens = 400
  const mix = Float64Array.from({ length: 24 * columns }, normal)
  const h = new Float64Array(columns * columns)
  for (let t = 0; t < tokens; t++) {
    const hidden = Array.from({ length: 24 }, normal)
    const x = Array.from({ length: columns }, (_, c) =>
      hidden.reduce((s, v, i) => s + v * mix[i * columns + c]!, normal() / 2),
    )
    for (let i = 0; i < columns; i++) for (let j = 0; j < columns; j++) h[i * columns + j]! += x[i]! * x[j]!
  }
  return Float32Array.from(h)
})()

/** tr((W - Q) H (W - Q)ᵀ): squared error of the outputs on the calibration inputs. */
function outputError(dtype: string, bytes: Uint8Array): number {
  const values = new Float32Array(weights.length)
  dequantize(dtype, bytes, values)
  let sum = 0
  for (let row = 0; row < rows; row++) {
    const e = Array.from({ length: columns }, (_, c) => weights[row * columns + c]! - values[row * columns + c]!)
    for (let i = 0; i < columns; i++) for (let j = 0; j < columns; j++) sum += e[i]! * gram[i * columns + j]! * e[j]!
  }
  return sum
}

let context: TestHandlerContext
let product: Awaited<ReturnType<typeof multiplyAddSession>>
let factoring: Factoring
let factor: FeedbackFactor
beforeAll(async () => {
  context = await handlerContext()
  const options = { weightsFolder: context.dataFolder, threads: 1 }
  product = await multiplyAddSession(options)
  factoring = await openFactoring(options)
  factor = await factoring.factor(gram, columns)
})
afterAll(async () => {
  await Promise.all([product.dispose(), factoring.dispose()])
  await context.dispose()
})

/** Column by column, from the last to the first, in float64 and without panels. */
function plainFeedback(scheme: IntScheme): number[][] {
  const { weights: costs, feedback } = factor
  const { bits, symmetric, blockSize } = scheme
  const [least, most] = symmetric ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1]
  return Array.from({ length: rows }, (_, row) => {
    const wanted = weights.subarray(row * columns, (row + 1) * columns)
    const errors = new Float64Array(columns)
    const codes = new Array<number>(columns)
    const moved = (column: number, known: number) => {
      let value = wanted[column]!
      for (let k = known; k < columns; k++) value += feedback[column * columns + k]! * errors[k]!
      return value
    }
    for (let from = columns - blockSize; from >= 0; from -= blockSize) {
      const block = Float32Array.from({ length: blockSize }, (_, k) => moved(from + k, from + blockSize))
      const found = blockScale(block, 0, 1, costs.subarray(from), 0, scheme)
      const [scale, minimum] = [halfToFloat(found.scale), symmetric ? 0 : halfToFloat(found.minimum)]
      for (let k = from + blockSize - 1; k >= from; k--) {
        const code = Math.max(least, Math.min(most, Math.round((moved(k, k + 1) - minimum) / scale)))
        codes[k] = code
        errors[k] = wanted[k]! - (code * scale + minimum)
      }
    }
    return codes
  })
}

describe.each(intSchemes.map(scheme => [intDtype(scheme), scheme] as const))('%s', (dtype, scheme) => {
  test('takes the codes of the plain computation, but for float32 rounding', async () => {
    const bytes = await quantiseMatrix(weights, rows, scheme, factor, product.multiplyAdd)
    const zero = scheme.symmetric && scheme.bits === 4 ? 8 : 0
    const found = [...unpackIntBlocks(scheme, bytes).codes].map(code =>
      scheme.symmetric && scheme.bits === 8 ? (code << 24) >> 24 : code - zero,
    )
    const expected = plainFeedback(scheme).flat()
    const different = found.filter((code, i) => code !== expected[i]).length
    // A value halfway between two codes may fall to either side and moves those after it.
    expect(different / found.length).toBeLessThan(0.02)
  })

  test('errs less on the inputs than rounding to nearest', async () => {
    const bytes = await quantiseMatrix(weights, rows, scheme, factor, product.multiplyAdd)
    const nearest = quantize(dtype, weights)
    expect(bytes.length).toBe(nearest.length)
    expect(outputError(dtype, bytes)).toBeLessThan(outputError(dtype, nearest) * 0.6)
  })

  test('rounded to nearest, errs by at most half a step', () => {
    const values = new Float32Array(weights.length)
    dequantize(dtype, quantize(dtype, weights), values)
    const range = Math.max(...weights.map(Math.abs))
    // A symmetric range of 4 bits has its end at code -8 and the other at 7, which may be a whole step short.
    const step = (2 * range) / (2 ** scheme.bits - 1)
    const worst = Math.max(...weights.map((value, i) => Math.abs(value - values[i]!)))
    expect(worst).toBeLessThan(step * (scheme.symmetric && scheme.bits === 4 ? 1.1 : 0.55))
  })
})

test('a weight that is no number is named by its place', async () => {
  const broken = weights.slice()
  broken[2 * columns + 7] = Number.NaN
  const scheme = intSchemes[0]!
  await expect(quantiseMatrix(broken, rows, scheme, factor, product.multiplyAdd)).rejects.toMatchObject({
    code: 'NOT_A_NUMBER',
    message: '[2, 7] is NaN',
  })
})

test('inputs that were never seen leave rounding to nearest with the best scales', async () => {
  const scheme: IntScheme = { bits: 8, symmetric: true, blockSize: 32 }
  const nothing = await factoring.factor(new Float32Array(columns * columns), columns)
  expect(nothing.feedback.every(value => value === 0)).toBe(true)
  const bytes = await quantiseMatrix(weights, rows, scheme, nothing, product.multiplyAdd)
  const values = new Float32Array(weights.length)
  dequantize('Q8_0', bytes, values)
  expect(Math.max(...weights.map((value, i) => Math.abs(value - values[i]!)))).toBeLessThan(0.02)
})
