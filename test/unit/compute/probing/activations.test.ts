import { expect, test } from 'vitest'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import {
  activationStatistics,
  activationSums,
  decodeVector,
  encodeVector,
} from '../../../../compute/probing/activations.js'

test('statistics leave the first token out and are those of all other values together', () => {
  // Two samples of two hidden units; the huge first tokens count nothing.
  const hidden = Float32Array.from([1e6, 1e6, 1, 3, -2, 2, 5e5, 0, 4, 0])
  const centroids = [new Float32Array(2), new Float32Array(2)]
  const sums = [activationSums(hidden, 0, 3, 2, centroids[0]!), activationSums(hidden, 6, 2, 2, centroids[1]!)]
  const values = [1, 3, -2, 2, 4, 0]
  const mean = values.reduce((a, b) => a + b) / 6
  const square = values.reduce((a, b) => a + b * b, 0) / 6
  const found = activationStatistics(sums)
  expect(found.mean).toBeCloseTo(mean, 12)
  expect(found.rms).toBeCloseTo(Math.sqrt(square), 12)
  expect(found.standardDeviation).toBeCloseTo(Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / 6), 12)
  expect(found.maximum).toBe(4)
  // Per token mean(x^4) / mean(x^2)^2: (41 / 25), 1, and 2 where one of two units holds everything.
  expect(found.kurtosis).toBeCloseTo((41 / 25 + 1 + 2) / 3, 12)
  expect(centroids.map(c => [...c])).toEqual([
    [-0.5, 2.5],
    [4, 0],
  ])
})

test('a sample of one token counts that one, and zeros have no kurtosis', () => {
  const sums = activationSums(Float32Array.from([3, 4]), 0, 1, 2, new Float32Array(2))
  expect(activationStatistics([sums])).toMatchObject({ mean: 3.5, maximum: 4 })
  expect(activationSums(new Float32Array(4), 0, 2, 2, new Float32Array(2)).kurtosis).toBe(0)
})

test('normal values have a kurtosis of 3, one unit among many as much as there are units', () => {
  const random = seededRandom(7)
  const normal = Float32Array.from(
    { length: 64 * 512 },
    () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  )
  const of = (hidden: Float32Array, tokens: number) =>
    activationStatistics([activationSums(hidden, 0, tokens, 512, new Float32Array(512))]).kurtosis
  expect(of(normal, 64)).toBeCloseTo(3, 0)
  const single = new Float32Array(1024)
  single[700] = -9
  expect(of(single, 2)).toBe(512)
})

test('vectors keep their values within 2^-8, whatever their size, and other lengths are refused', () => {
  const random = seededRandom(3)
  const values = Float32Array.from({ length: 500 }, (_, i) => (random() - 0.5) * 10 ** ((i % 40) - 20))
  const back = decodeVector(encodeVector(values), 500)!
  values.forEach((value, i) => {
    expect(Math.abs(back[i]! / value - 1)).toBeLessThanOrEqual(2 ** -8)
  })
  expect(decodeVector(encodeVector(values), 499)).toBeUndefined()
  expect(decodeVector('no base64 of ours', 3)).toBeUndefined()
})
