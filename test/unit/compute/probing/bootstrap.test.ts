import { describe, expect, it } from 'vitest'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { bootstrapInterval, lossInterval, qualityInterval } from '../../../../compute/probing/bootstrap.js'

const mean = (values: readonly number[]) => (indices: readonly number[]) =>
  indices.reduce((sum, i) => sum + values[i]!, 0) / indices.length

describe('bootstrapInterval', () => {
  it('of a mean is close to the normal interval where samples are many', () => {
    const values = Array.from({ length: 400 }, (_, i) => (i * 37) % 101)
    const average = values.reduce((a, b) => a + b, 0) / values.length
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - average) ** 2, 0) / values.length)
    const [low, high] = bootstrapInterval(400, mean(values))!
    const half = (1.96 * deviation) / 20
    expect(Math.abs(low - (average - half))).toBeLessThan(0.1 * half)
    expect(Math.abs(high - (average + half))).toBeLessThan(0.1 * half)
  })

  it('of five samples holds the true mean about as often as it says: plain percentiles do in 87 %', () => {
    const random = seededRandom(1)
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    const holds = Array.from({ length: 200 }, () => {
      const values = Array.from({ length: 5 }, normal)
      const [low, high] = bootstrapInterval(5, mean(values))!
      return low <= 0 && high >= 0
    })
    expect(holds.filter(Boolean).length / holds.length).toBeGreaterThanOrEqual(0.92)
  })

  it('is the same every time', () => {
    const values = [3, 1, 4, 1, 5, 9, 2, 6]
    expect(bootstrapInterval(8, mean(values))).toEqual(bootstrapInterval(8, mean(values)))
  })

  it('is null where one sample says nothing about the spread', () => {
    expect(bootstrapInterval(1, mean([3]))).toBeNull()
  })

  it('has no width where all samples agree', () => {
    expect(bootstrapInterval(5, mean([2, 2, 2, 2, 2]))).toEqual([2, 2])
  })
})

describe('intervals of measurements', () => {
  const parent = [1, 2, 3, 4].map(nll => ({ nll, completionTokens: 2 }))

  it('of a loss hold it between them', () => {
    const [low, high] = lossInterval(parent)!
    expect(low).toBeLessThan(1.25)
    expect(high).toBeGreaterThan(1.25)
  })

  it('of quality are paired: a student that loses the same on every sample has an exact quality', () => {
    const student = parent.map(({ nll, completionTokens }) => ({ nll: nll + 1, completionTokens }))
    const [low, high] = qualityInterval(student, parent)!
    expect(low).toBeCloseTo(Math.exp(-0.5), 12)
    expect(high).toBeCloseTo(Math.exp(-0.5), 12)
  })
})
