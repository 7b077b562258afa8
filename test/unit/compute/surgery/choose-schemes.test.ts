// The greedy choice of codes, against tables of cases and against trying everything.
import { expect, test } from 'vitest'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { chooseSchemes, type SchemeGroup } from '../../../../compute/surgery/choose-schemes.js'

const scheme = { bits: 4, symmetric: true, blockSize: 32 } as const
const group = (...choices: [bytes: number, divergence: number][]): SchemeGroup => ({
  roles: ['layers.0.o'],
  choices: choices.map(([bytes, divergence]) => ({ scheme: divergence === 0 ? undefined : scheme, bytes, divergence })),
})

test('bytes go where they take most divergence away', () => {
  const groups = [group([10, 1], [20, 0.1], [80, 0]), group([10, 0.2], [20, 0.02], [80, 0])]
  const small = chooseSchemes(groups, { maximumBytes: 30 })
  expect(small.bytes).toBe(30)
  expect(small.divergence).toBeCloseTo(0.3, 12)
  expect(chooseSchemes(groups, { maximumBytes: 40 }).choices.map(c => c.bytes)).toEqual([20, 20])
  expect(chooseSchemes(groups, { maximumBytes: 1000 }).divergence).toBeCloseTo(0, 12)
  expect(chooseSchemes(groups, { divergence: 0.3 }).choices.map(c => c.bytes)).toEqual([20, 10])
  expect(chooseSchemes(groups, { divergence: 5 }).bytes).toBe(20)
})

test('what cannot be met is left to the caller: the fewest bytes, or the least divergence that fits', () => {
  const groups = [group([10, 1], [20, 0.1]), group([10, 1], [20, 0.1])]
  expect(chooseSchemes(groups, { maximumBytes: 5 }).bytes).toBe(20)
  const short = chooseSchemes(groups, { maximumBytes: 30, divergence: 0 })
  expect(short.bytes).toBe(30)
  expect(short.divergence).toBeCloseTo(1.1, 12)
})

test('is close to the best of all choices where each byte buys less than the one before', () => {
  const random = seededRandom(3)
  for (let trial = 0; trial < 20; trial++) {
    const groups = Array.from({ length: 6 }, () => {
      const size = 1 + Math.floor(random() * 4)
      const worst = random()
      return group([4 * size, worst], [5 * size, worst / 3], [8 * size, worst / 100], [16 * size, 0])
    })
    const maximumBytes = 100
    const found = chooseSchemes(groups, { maximumBytes })
    let best = Number.POSITIVE_INFINITY
    for (let code = 0; code < 4 ** 6; code++) {
      const picked = groups.map(({ choices }, i) => choices[Math.floor(code / 4 ** i) % 4]!)
      const bytes = picked.reduce((sum, c) => sum + c.bytes, 0)
      if (bytes <= maximumBytes)
        best = Math.min(
          best,
          picked.reduce((sum, c) => sum + c.divergence, 0),
        )
    }
    const smallest = groups.reduce((sum, { choices }) => sum + choices[0]!.bytes, 0)
    if (smallest > maximumBytes) continue
    expect(found.bytes).toBeLessThanOrEqual(maximumBytes)
    expect(found.divergence).toBeLessThanOrEqual(best * 1.5 + 1e-9)
  }
})
