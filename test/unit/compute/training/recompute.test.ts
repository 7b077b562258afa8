// Whether layers are computed anew, by numbers that are counted by hand.
import { expect, test } from 'vitest'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { activationBytes } from '../../../../compute/training/activation-bytes.js'
import { heldBytes, needsRecompute, type RunSize } from '../../../../compute/training/recompute.js'
import { picoManifest } from '../surgery/pico-manifest.js'

const model = checkBuildable(picoManifest({ layerCount: 4 }))
const weights = [...model.tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
const run = (changes: Partial<RunSize> = {}): RunSize => ({
  trained: [...model.tensors.keys()],
  batchRows: 2,
  accumulation: 1,
  sequence: 64,
  ...changes,
})

test('a run holds weight, gradient and moments of what is trained, and reads what is not and the teacher', () => {
  expect(heldBytes(model, run())).toBe(16 * weights)
  expect(heldBytes(model, run({ accumulation: 2, teacher: model }))).toBe(20 * weights + 4 * weights)
  const [outputs, inputs] = model.tensors.get('layers.0.up')!.shape
  const lora = { rank: 3, alpha: 1, targets: ['layers.0.up'] }
  const lowRank = 16 * 3 * (outputs! + inputs!) + 4 * weights
  expect(heldBytes(model, run({ trained: [], lora }))).toBe(lowRank)
  // While it writes rows itself, its weights once more, and the merged ones.
  expect(heldBytes(model, run({ onPolicy: 0.5 }))).toBe(20 * weights)
  expect(heldBytes(model, run({ trained: [], lora, onPolicy: 0.5 }))).toBe(lowRank + 4 * (weights + outputs! * inputs!))
})

test('layers are computed anew where activations take more than half of what that leaves free', () => {
  const least = 2 * activationBytes(model.dimensions, 2, 64) + 16 * weights
  expect(needsRecompute(model, run(), least)).toBe(false)
  expect(needsRecompute(model, run(), least - 2)).toBe(true)
  expect(needsRecompute(model, run({ teacher: model }), least)).toBe(true)
})
