import { expect, test } from 'vitest'
import { type PackOptions, packRows, type TrainingText } from '../../../../compute/training/pack-rows.js'
import { learningRateAt } from '../../../../compute/training/schedule.js'

const text = (group: string, first: number, prompt: number, completion: number): TrainingText => ({
  group,
  prompt: Array.from({ length: prompt }, (_, i) => first + i),
  completion: Array.from({ length: completion }, (_, i) => first + prompt + i),
})
const options: PackOptions = { sequence: 8, tokens: 1000, seed: 1, promptWeight: 0, balanced: false, separator: 0 }

test('texts follow each other with the separator between them, and prompts count what they are told to', () => {
  const [row] = packRows([text('a', 10, 3, 4)], options)
  expect(row!.ids).toEqual([10, 11, 12, 13, 14, 15, 16, 0])
  // The prediction of the token after each position; the last position as its own token.
  expect([...row!.counts]).toEqual([0, 0, 1, 1, 1, 1, 1, 1])
  const [half] = packRows([text('a', 10, 3, 4)], { ...options, promptWeight: 0.5 })
  expect([...half!.counts]).toEqual([0.5, 0.5, 1, 1, 1, 1, 1, 1])
})

test('the same seed packs the same rows, another one others', () => {
  const texts = Array.from({ length: 20 }, (_, i) => text('a', 100 * i, 2, 5))
  const rows = packRows(texts, options)
  expect(rows).toHaveLength(20)
  expect(packRows(texts, options)).toEqual(rows)
  expect(packRows(texts, { ...options, seed: 2 })).not.toEqual(rows)
})

test('balanced, a rare group has as many completion tokens as a frequent one as long as it lasts', () => {
  const texts = [
    ...Array.from({ length: 90 }, (_, i) => text('many', 1000 + 10 * i, 2, 5)),
    ...Array.from({ length: 10 }, (_, i) => text('few', 10 * i, 2, 5)),
  ]
  const rows = packRows(texts, { ...options, tokens: 120, balanced: true })
  const few = rows.flatMap(row => row.ids).filter(id => id > 0 && id < 1000).length
  expect(few).toBeGreaterThan(40)
  expect(few).toBeLessThan(70)
})

test('texts longer than a row are cut, and taken again only where that is asked for', () => {
  const rows = packRows([text('a', 10, 3, 100)], { ...options, promptWeight: 1 })
  expect(rows).toHaveLength(1)
  expect(packRows([text('a', 10, 3, 100)], { ...options, tokens: 40, repeat: true })).toHaveLength(5)
})

test.each<[string, TrainingText[], Partial<PackOptions>, string]>([
  ['no texts', [], {}, 'The training data holds no texts'],
  ['too little', [text('a', 1, 1, 3)], {}, 'The training data has 5 tokens, a row takes 8'],
  ['a budget below a row', [text('a', 1, 1, 30)], { tokens: 7 }, '7 tokens are less than one row of 8'],
  ['all masked', [text('a', 1, 30, 0)], {}, 'Every token of the training data is masked'],
])('%s is refused by name', (_name, texts, changes, message) => {
  expect(() => packRows(texts, { ...options, ...changes })).toThrow(message)
})

test('learning rates rise to the peak and fall to nothing', () => {
  const cosine = { kind: 'COSINE', peak: 1, steps: 40, warmup: 4 } as const
  expect([1, 2, 4].map(step => learningRateAt(cosine, step))).toEqual([0.25, 0.5, 1])
  expect(learningRateAt(cosine, 5)).toBe(1)
  expect(learningRateAt(cosine, 23)).toBeCloseTo(0.5, 12)
  expect(learningRateAt(cosine, 40)).toBeCloseTo((1 + Math.cos((Math.PI * 35) / 36)) / 2, 12)
  expect(learningRateAt({ ...cosine, kind: 'LINEAR' }, 23)).toBeCloseTo(0.5, 12)
  expect(learningRateAt({ ...cosine, kind: 'LINEAR' }, 40)).toBeCloseTo(1 / 36, 12)
  expect(learningRateAt({ ...cosine, kind: 'CONSTANT' }, 40)).toBe(1)
})
