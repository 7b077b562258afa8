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

  test.each([
    ['all layers', [0, 1, 2]],
    ['the last layer left out', [0, 1]],
  ])('give the same losses from only the rows that they need of the last layer, with %s', async (_, stack) => {
    const last = stack.at(-1)!
    let hidden = await model.pieces.embed(samples)
    for (const layer of stack.slice(0, -1)) hidden = await model.pieces.layer(layer, hidden, samples)
    const whole = await model.pieces.layer(last, hidden, samples)
    const tail = await model.pieces.tail(last, hidden, samples)
    // Completions of 5 and 2 tokens, each predicted from the position before: rows 3 to 7 and, of the second sample, 1 and 2.
    const rows = [3, 4, 5, 6, 7, 10, 11].flatMap(row => [...whole.subarray(row * 32, (row + 1) * 32)])
    expect(tail).toHaveLength(7 * 32)
    tail.forEach((value, i) => {
      expect(Math.abs(value - rows[i]!)).toBeLessThan(1e-5)
    })
    const [own, expected] = [await model.pieces.losses(tail, samples, true), await model.pieces.losses(whole, samples)]
    own.forEach((score, i) => {
      expect(Math.abs(score.nll / expected[i]!.nll - 1)).toBeLessThan(1e-6)
      // Without the predicted tokens, whose search nobody pays for here.
      expect(score.hits).toBeUndefined()
      expect(expected[i]!.hits).toBeGreaterThanOrEqual(0)
    })
  })

  test('refuse tokens that the vocabulary lacks', async () => {
    await expect(model.pieces.embed([{ ids: [1, 64], completionStart: 1 }])).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
    })
  })
})
