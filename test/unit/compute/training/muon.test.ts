import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { trainedTensor } from '../../../../compute/training/adamw.js'
import { createMuon } from '../../../../compute/training/muon.js'

type Matrix = number[][]
const product = (a: Matrix, b: Matrix): Matrix =>
  a.map(row => b[0]!.map((_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)))
const transposed = (a: Matrix): Matrix => a[0]!.map((_, j) => a.map(row => row[j]!))
const combined = (a: Matrix, x: number, b: Matrix, y: number): Matrix =>
  a.map((row, i) => row.map((value, j) => x * value + y * b[i]![j]!))

/** The authors' five turns in float64, on matrices that are not taller than wide. */
function newtonSchulz(g: Matrix): Matrix {
  const norm = Math.sqrt(g.flat().reduce((sum, x) => sum + x * x, 0)) + 1e-7
  let x = g.map(row => row.map(value => value / norm))
  for (let turn = 0; turn < 5; turn++) {
    const square = product(x, transposed(x))
    const polynomial = combined(square, -4.775, product(square, square), 2.0315)
    x = combined(x, 3.4445, product(polynomial, x), 1)
  }
  return x
}

const matrix = (values: Float32Array, columns: number): Matrix =>
  Array.from({ length: values.length / columns }, (_, i) => [...values.subarray(i * columns, (i + 1) * columns)])

test.each([
  ['wide', 6, 10],
  ['tall', 10, 6],
])('three updates of a %s matrix are those of the formula in float64', async (_, rows, columns) => {
  const random = seededRandom(5)
  const numbers = () => Float32Array.from({ length: rows * columns }, () => random() - 0.5)
  const tensor = trainedTensor('w', [rows, columns], numbers(), false)
  const muon = await createMuon([tensor], { momentum: 0.9, weightDecay: 0.1 }, { threads: 1, weightsFolder: tmpdir() })
  let weight = matrix(tensor.weight, columns)
  let first = weight.map(row => row.map(() => 0))
  for (const rate of [0.02, 0.01, 0.03]) {
    tensor.gradient.set(numbers())
    const gradient = matrix(tensor.gradient, columns).map(row => row.map(x => 0.5 * x))
    first = combined(first, 0.9, gradient, 0.1)
    const update = combined(first, 0.9, gradient, 0.1)
    const orthogonal = rows > columns ? transposed(newtonSchulz(transposed(update))) : newtonSchulz(update)
    weight = combined(weight, 1 - rate * 0.1, orthogonal, -rate * Math.sqrt(Math.max(1, rows / columns)))
    await muon.update(rate, 0.5)
    // Five turns multiply float32's rounding (6e-8) by a few tens.
    const worst = Math.max(
      ...matrix(tensor.weight, columns).flatMap((row, i) => row.map((x, j) => Math.abs(x - weight[i]![j]!))),
    )
    expect(worst).toBeLessThan(1e-6)
  }
  await muon.dispose()
})

test('an update has singular values near 1 whatever the gradient’s size', async () => {
  const random = seededRandom(6)
  const tensor = trainedTensor('w', [4, 8], new Float32Array(32), false)
  tensor.gradient.set(Float32Array.from({ length: 32 }, () => 1e-4 * (random() - 0.5)))
  const muon = await createMuon([tensor], { momentum: 0, weightDecay: 0 }, { threads: 1, weightsFolder: tmpdir() })
  await muon.update(1, 1)
  const update = matrix(tensor.weight, 8)
  const gram = product(update, transposed(update))
  gram.forEach((row, i) => {
    // The quintic leaves singular values between about 0.7 and 1.2.
    expect(row[i]).toBeGreaterThan(0.4)
    expect(row[i]).toBeLessThan(1.6)
  })
  await muon.dispose()
})
