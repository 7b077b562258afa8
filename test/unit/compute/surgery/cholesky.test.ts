// The blocked factor against Cholesky's decomposition in float64, on sums that are hard for float32: few directions and outlying columns.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dequantize } from '../../../../compute/formats/dequantize.js'
import { intDtype, intSchemes } from '../../../../compute/formats/int-blocks.js'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { type Factoring, type FeedbackFactor, openFactoring } from '../../../../compute/surgery/cholesky.js'
import { multiplyAddSession, quantiseMatrix } from '../../../../compute/surgery/quantise-matrix.js'
import { DomainError } from '../../../../lib/errors.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

const directions = 12
const normals = (seed: number) => {
  const random = seededRandom(seed)
  return (length: number) =>
    Float64Array.from({ length }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()))
}

/** Vectors that inputs are made of, [directions, size]: every 50th column is ten times the others. */
const directionsOf = (size: number) =>
  normals(3)(directions * size).map((value, at) => value * ((at % size) % 50 === 7 ? 10 : 1))

/** XᵀX of inputs that lie in these directions alone: of rank 12, in float32 as calibration gives it. */
function gramOf(size: number): Float32Array {
  const vectors = directionsOf(size)
  return Float32Array.from({ length: size * size }, (_, at) => {
    const [i, j] = [Math.floor(at / size), at % size]
    let sum = 0
    for (let d = 0; d < directions; d++) sum += vectors[d * size + i]! * vectors[d * size + j]!
    return sum * 1000
  })
}

/** The same in float64, one element after the other. */
function plainFactor(gram: Float32Array, size: number, damping = 0.01): FeedbackFactor {
  let trace = 0
  for (let i = 0; i < size; i++) trace += gram[i * size + i]!
  const l = Float64Array.from(gram)
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) {
      let rest = l[i * size + j]! + (i === j ? (damping * trace) / size : 0)
      for (let k = 0; k < j; k++) rest -= l[i * size + k]! * l[j * size + k]!
      l[i * size + j] = i === j ? Math.sqrt(rest) : rest / l[j * size + j]!
    }
  const at = (i: number, k: number) => (k > i ? l[k * size + i]! / l[i * size + i]! : 0)
  return {
    size,
    weights: Float32Array.from({ length: size }, (_, i) => l[i * size + i]! ** 2),
    feedback: Float32Array.from({ length: size * size }, (_, n) => at(Math.floor(n / size), n % size)),
  }
}

let context: TestHandlerContext
let factoring: Factoring
beforeAll(async () => {
  context = await handlerContext()
  factoring = await openFactoring({ weightsFolder: context.dataFolder, threads: 1 })
})
afterAll(async () => {
  await factoring.dispose()
  await context.dispose()
})

// Less than a panel, whole panels, and a narrow one behind them.
test.each([40, 256, 300])('the factor of %i columns is that of float64, as near as float32 sums tell', async size => {
  const gram = gramOf(size)
  const [found, expected] = [await factoring.factor(gram, size), plainFactor(gram, size)]
  // Changing each sum by its own rounding to float32, 6e-8, changes what the damping leaves of a pivot by some thousand times that.
  found.weights.forEach((value, i) => {
    expect(Math.abs(value / expected.weights[i]! - 1), `pivot ${i}`).toBeLessThan(5e-4)
  })
  let [error, whole] = [0, 0]
  found.feedback.forEach((value, i) => {
    error += (value - expected.feedback[i]!) ** 2
    whole += expected.feedback[i]! ** 2
  })
  expect(Math.sqrt(error / whole)).toBeLessThan(1e-4)
  for (let i = 0; i < size; i++)
    expect(found.feedback.subarray(i * size, i * size + i + 1).every(value => value === 0)).toBe(true)
})

describe('a matrix quantised with it', () => {
  const [rows, size] = [96, 384]
  const gram = gramOf(size)
  const weights = Float32Array.from(normals(8)(rows * size))

  /** Squared error of the outputs on the inputs that the sums are of. */
  const outputError = (dtype: string, bytes: Uint8Array) => {
    const values = new Float32Array(weights.length)
    dequantize(dtype, bytes, values)
    const vectors = directionsOf(size)
    let sum = 0
    for (let row = 0; row < rows; row++)
      for (let d = 0; d < directions; d++) {
        let output = 0
        for (let c = 0; c < size; c++)
          output += (weights[row * size + c]! - values[row * size + c]!) * vectors[d * size + c]!
        sum += output * output
      }
    return sum
  }

  test('errs no more than with the float64 factor, in whatever codes', async () => {
    const product = await multiplyAddSession({ weightsFolder: context.dataFolder, threads: 1 })
    try {
      const none = { size, weights: new Float32Array(size).fill(1), feedback: new Float32Array(size * size) }
      const [found, plain] = [await factoring.factor(gram, size), plainFactor(gram, size)]
      let logRatio = 0
      for (const scheme of intSchemes) {
        const errorWith = async (factor: FeedbackFactor) =>
          outputError(intDtype(scheme), await quantiseMatrix(weights, rows, scheme, factor, product.multiplyAdd))
        const error = await errorWith(found)
        expect(error, intDtype(scheme)).toBeLessThan(0.3 * (await errorWith(none)))
        logRatio += Math.log(error / (await errorWith(plain)))
      }
      // Where a value is halfway between two codes the last bit says which it takes, so that each error moves by some 3 % either way, as it
      // does where the sums change in their last bit: the mean over 12 codes by 1 %, of which this is three times as much.
      expect(Math.exp(logRatio / intSchemes.length)).toBeLessThan(1.03)
    } finally {
      await product.dispose()
    }
  })
})

test('leaves the event loop its turns, says how far it is, and stops where it is told to', async () => {
  const size = 1200
  const gram = new Float32Array(size * size).fill(1)
  const shares: number[] = []
  const controller = new AbortController()
  let [turns, over] = [0, false]
  const count = () => {
    turns++
    if (!over) setImmediate(count)
  }
  count()
  const factor = (signal?: AbortSignal) =>
    factoring.factor(gram, size, { signal, progress: share => void shares.push(share) })
  await factor()
  over = true
  expect(turns).toBeGreaterThanOrEqual(shares.length)
  expect(shares).toHaveLength(10)
  expect(shares).toEqual(shares.toSorted((a, b) => a - b))
  expect(shares.at(-1)).toBe(1)
  setTimeout(() => controller.abort(new DomainError('CANCELLED', 'told to')), 0)
  await expect(factor(controller.signal)).rejects.toThrow('told to')
  expect(shares.length).toBeLessThan(20)
})

test.each([Number.NaN, Number.POSITIVE_INFINITY])('refuses sums that hold %s', async value => {
  const size = 200
  const gram = gramOf(size)
  gram[150 * size + 20] = value
  await expect(factoring.factor(gram, size)).rejects.toMatchObject({
    code: 'NOT_A_NUMBER',
    message: expect.stringMatching(/at 1\d\d$/),
  })
})
