import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { type PicoOptions, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

const samples = [
  { ids: [1, 5, 17, 40, 40, 3, 22, 63, 9], completionStart: 4 },
  { ids: [1, 30, 8, 12], completionStart: 2 },
]
const shapes: [string, PicoOptions][] = [
  ['head size 8, tied', { heads: 4, keyValueHeads: 2, layers: 3 }],
  ['head size 16, untied, biases', { heads: 2, keyValueHeads: 1, layers: 3, tied: false, bias: true }],
]

describe.each(shapes)('the pieces of a pico Llama, %s', (name, options) => {
  let model: LoadedModel
  beforeAll(async () => {
    const folder = join(context.dataFolder, name.replaceAll(/\W+/g, '-'))
    await writePicoLlama(folder, options)
    const { manifest } = await ingestModel({ source: folder }, context)
    model = await openModel(await readManifest(context.payloads, manifest), context)
  })
  afterAll(() => model.dispose())

  test.each([
    ['all layers', [0, 1, 2]],
    ['the first layer left out', [1, 2]],
    ['the middle layer left out', [0, 2]],
    ['the last layer left out', [0, 1]],
    ['no layer at all', []],
  ])('give the losses of the gated graph with %s', async (_, stack) => {
    let hidden = await model.pieces.embed(samples)
    expect(hidden).toHaveLength(2 * 9 * 32)
    for (const layer of stack) hidden = await model.pieces.layer(layer, hidden, samples)
    const scores = await model.pieces.losses(hidden, samples)
    const gates = Float32Array.from([0, 1, 2], layer => (stack.includes(layer) ? 1 : 0))
    const expected = await model.score(samples, { gates })
    scores.forEach((score, i) => {
      const { nll, completionTokens, hits } = expected[i]!
      expect(Math.abs(score.nll / nll - 1)).toBeLessThan(1e-6)
      expect(score).toMatchObject({ completionTokens, hits })
    })
  })

  test('refuse tokens that the vocabulary lacks', async () => {
    await expect(model.pieces.embed([{ ids: [1, 64], completionStart: 1 }])).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
    })
  })
})
