// Which of several fits is kept, and that nothing of the others is left open.
import { expect, test } from 'vitest'
import { bestTrial, fittableTensor, type Trial } from '../../../../compute/handlers/stages/judged-fits.js'
import type { LayerRunner } from '../../../../compute/inference/layer-runner.js'
import { picoManifest } from '../surgery/pico-manifest.js'

/** Trials of these losses (undefined: judging fails), and the indices of those that were disposed of. */
function trialsOf(losses: readonly (number | undefined)[]) {
  const closed: number[] = []
  async function* trials(): AsyncGenerator<Trial> {
    for (const [i, loss] of losses.entries()) {
      const model = { loss } as unknown as LayerRunner
      yield { values: new Map(), model, dispose: async () => void closed.push(i) }
    }
  }
  const judge = async (model: LayerRunner) => {
    const { loss } = model as unknown as { loss?: number }
    if (loss === undefined) throw new Error('judging failed')
    return loss
  }
  return { closed, best: (before: number) => bestTrial(trials(), before, judge) }
}

test('the one with the least loss is kept, where that is below the loss before', async () => {
  const better = trialsOf([4, 2, 1, 3])
  expect((await better.best(3))?.after).toBe(1)
  expect(better.closed).toEqual([0, 1, 3])
  const worse = trialsOf([4, 3])
  expect(await worse.best(3)).toBeUndefined()
  expect(worse.closed).toEqual([0, 1])
})

test('where judging fails, the best so far is disposed of too', async () => {
  const failing = trialsOf([2, undefined, 1])
  await expect(failing.best(3)).rejects.toThrow('judging failed')
  expect(failing.closed.toSorted()).toEqual([0, 1])
})

test('projections of too many inputs are left out with a note', () => {
  const notes: string[] = []
  const wide = picoManifest({ layerCount: 1, intermediateSize: 8193 })
  expect(fittableTensor(wide, 'layers.0.down', notes)).toBeUndefined()
  expect(notes).toEqual([expect.stringMatching(/down_proj.weight: not fitted, 8193 inputs, at most 8192/)])
  expect(fittableTensor(wide, 'layers.0.o', notes)?.role).toBe('layers.0.o')
})
