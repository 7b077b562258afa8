// What a build made, as it is printed.
import { expect, test } from 'vitest'
import { builtText, bytesText, healedText, stageLines, storedText } from '../../../cli/built-text.js'
import type { ModelDetail } from '../../../cli/results.js'

test.each([
  [467_000_000, 467_000_000, 'All of its 467 MB are its own.'],
  [467_000_000, 0, "All of its 467 MB are its parent's."],
  [467_000_000, 2_000_000, "Of its 467 MB it added 2.00 MB; the rest is its parent's."],
])('of %d bytes %d are new', (sizeBytes, uniqueBytes, text) => {
  expect(bytesText({ sizeBytes, uniqueBytes })).toBe(text)
})

test('a build is timed in seconds and minutes', () => {
  const model = { name: 'a', layerCount: 22, parameterCount: 1e8, sizeBytes: 10, uniqueBytes: 10 } as ModelDetail
  expect(builtText(model, 112_081)).toContain('22 layers, 100 M parameters, built in 1 min 52 s.')
})

test('a student in float32 of a quantised parent is said to be one', () => {
  const parent = { id: 'p', name: 'small', dtype: 'Q4_1', quantization: 'Q4_1' }
  expect(storedText({ name: 'a', dtype: 'F32', parent })[0]).toMatch(
    /stored as float32; its parent small was Q4_1\. `hartonomous quantize a`/,
  )
  expect(storedText({ name: 'a', dtype: 'Q4_1', parent })).toEqual([])
  expect(storedText({ name: 'a', dtype: 'F32', parent: { ...parent, dtype: 'F32', quantization: 'NONE' } })).toEqual([])
  expect(storedText({ name: 'a', dtype: 'F32', parent: null })).toEqual([])
})

test('training says its held-out loss before and after', () => {
  const measurements = { improved: true, heldOutBefore: 3.21449, heldOutAfter: 2.9871 }
  expect(healedText(measurements)).toBe('Held-out loss 3.214, then 2.987.')
  expect(healedText({ ...measurements, improved: false })).toContain('3.214 did not fall')
  const stage = { stage: 'heal', seconds: 112.1, reused: false, measurements }
  expect(stageLines([stage])).toEqual(['Held-out loss 3.214, then 2.987.'])
  const extract = { stage: 'extract', seconds: 0.1, reused: true, measurements: null }
  expect(stageLines([extract, stage])).toEqual([
    '  extract: was there already',
    '  heal: 1 min 52 s',
    'Held-out loss 3.214, then 2.987.',
  ])
})
