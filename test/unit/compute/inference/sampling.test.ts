// Sampling against a plain reading of its definition: sort all, cut to k, cut to p, draw.
import { expect, test } from 'vitest'
import { sampleToken, seededRandom } from '../../../../compute/inference/sampling.js'

function reference(logits: Float32Array, temperature: number, topK: number, topP: number, random: () => number) {
  const top = Math.max(...logits)
  const all = [...logits].map((logit, id) => ({ id, weight: Math.fround(Math.exp((logit - top) / temperature)) }))
  const sorted = all.sort((a, b) => b.weight - a.weight || a.id - b.id).slice(0, topK)
  const mass = sorted.reduce((sum, t) => sum + t.weight, 0)
  let reached = 0
  const kept = sorted.filter(t => {
    const before = reached
    reached += t.weight
    return before < topP * mass
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
  [1, 40, 1],
  [1, 1, 1],
  [0.7, 100, 0.9],
  [2, 999, 0.5],
  [1, 1000, 0.3],
  [1, 5000, 0.95],
  [1, 50, 1e-9],
])('temperature %d, top-k %d, top-p %d draws as defined', (temperature, topK, topP) => {
  const ours = seededRandom(3)
  const theirs = seededRandom(3)
  for (let i = 0; i < 50; i++) {
    const token = sampleToken(logits, { temperature, topK, topP }, ours)
    expect(token).toBe(reference(logits, temperature, topK, topP, theirs))
  }
})

test.each([1e-300, 5e-324, 1e-9])('temperature %d takes the greatest logit', temperature => {
  expect(sampleToken(Float32Array.of(1, 3, 2.999), { temperature }, seededRandom(1))).toBe(1)
})

test('temperature 0 takes the first of equals and draws nothing', () => {
  const never = () => expect.unreachable()
  expect(sampleToken(Float32Array.of(1, 3, 3), { temperature: 0, topK: 1 }, never as () => number)).toBe(1)
})
