// Sampling against a plain reading of its definition: sort all, cut to k, cut to p, draw.
import { expect, test } from 'vitest'
import { greatest, penaliseRepetition, sampleToken, seededRandom } from '../../../../compute/inference/sampling.js'

function reference(
  logits: Float32Array,
  temperature: number,
  topK: number,
  topP: number,
  minP: number,
  random: () => number,
) {
  const top = Math.max(...logits)
  const all = [...logits].map((logit, id) => ({ id, weight: Math.fround(Math.exp((logit - top) / temperature)) }))
  const sorted = all.sort((a, b) => b.weight - a.weight || a.id - b.id).slice(0, topK)
  const mass = sorted.reduce((sum, t) => sum + t.weight, 0)
  let reached = 0
  const kept = sorted.filter(t => {
    const before = reached
    reached += t.weight
    return before < topP * mass && t.weight >= minP * sorted[0]!.weight
  })
  let rest = random() * kept.reduce((sum, t) => sum + t.weight, 0)
  return kept.find(t => {
    rest -= t.weight
    return rest < 0
  })!.id
}

const random = seededRandom(7)
// Steps of a quarter, so that many logits are equal.
const logits = Float32Array.from({ length: 1000 }, () => Math.round(random() * 40) / 4)

test.each([
  [1, 40, 1, 0],
  [1, 1, 1, 0],
  [0.7, 100, 0.9, 0],
  [2, 999, 0.5, 0],
  [1, 1000, 0.3, 0],
  [1, 5000, 0.95, 0],
  [1, 50, 1e-9, 0],
  [1, 1000, 1, 0.1],
  [2, 200, 1, 0.02],
  [3, 1000, 0.9, 0.05],
  [1.5, 50, 0.95, 1],
])('temperature %d, top-k %d, top-p %d, min-p %d draws as defined', (temperature, topK, topP, minP) => {
  const ours = seededRandom(3)
  const theirs = seededRandom(3)
  for (let i = 0; i < 50; i++) {
    const token = sampleToken(logits, { temperature, topK, topP, minP }, ours)
    expect(token).toBe(reference(logits, temperature, topK, topP, minP, theirs))
  }
})

test.each([1e-300, 5e-324, 1e-9])('temperature %d takes the greatest logit', temperature => {
  expect(sampleToken(Float32Array.of(1, 3, 2.999), { temperature }, seededRandom(1))).toBe(1)
})

test('temperature 0 takes the first of equals and draws nothing', () => {
  const never = () => expect.unreachable()
  expect(sampleToken(Float32Array.of(1, 3, 3), { temperature: 0, topK: 1 }, never as () => number)).toBe(1)
})

test('a repetition penalty divides positive logits of tokens that came before and multiplies negative ones', () => {
  const before = Float32Array.of(2, -2, 0, 3, -1)
  // transformers.RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 1, 2, 1]]), …) of the same logits.
  expect([...penaliseRepetition(before, new Set([0, 1, 2]), 1.5)]).toEqual([Math.fround(4 / 3), -3, 0, 3, -1])
  expect(penaliseRepetition(before, new Set([0]), 1)).toBe(before)
  expect(before[0]).toBe(2)
})

// Made with transformers' TemperatureLogitsWarper, TopK-, TopP- and MinPLogitsWarper in this order, on these logits.
test.each([
  [{ temperature: 1, minP: 0.3 }, [1, 4, 6]],
  [{ temperature: 1.5, topK: 5, topP: 0.8 }, [1, 2, 4, 6]],
  [{ temperature: 0.7, topP: 0.9, minP: 0.2 }, [1, 4, 6]],
  [{ temperature: 2, topK: 4, minP: 0.5 }, [1, 2, 4, 6]],
])('%j leaves the tokens that transformers leaves', (options, ids) => {
  const given = Float32Array.of(0, 2, 1, -1, 2.25, 0.5, 1.75)
  const draws = seededRandom(2)
  const drawn = new Set(Array.from({ length: 2000 }, () => sampleToken(given, options, draws)))
  expect([...drawn].sort()).toEqual(ids)
})

test('the greatest is found at every place of rows of any length, the first of equals', () => {
  for (let length = 1; length <= 9; length++) {
    for (let at = 0; at < length; at++) {
      const logits = Float32Array.from({ length }, (_, i) => (i === at ? -1 : -2 - i))
      expect(greatest(logits)).toBe(at)
      // Its equals later on change nothing.
      expect(greatest(logits.map((value, i) => (i > at ? -1 : value)))).toBe(at)
    }
  }
})
