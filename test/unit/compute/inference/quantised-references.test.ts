import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { greatest } from '../../../../compute/inference/sampling.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { referenceNumbers } from '../../../testkit/reference-probes.js'
import { sharedFile } from '../../../testkit/shared-files.js'

const present = existsSync(sharedFile('reference'))
if (!present) console.warn(`Quantised references skipped: ${sharedFile('reference')} is not there`)

interface GenerationPrompt {
  ids: number[]
  newIds: number[]
  /** Best logit minus the second, per new token. */
  margins: number[]
}
/** Bound of what rounding activations to 8 bits moves the likely tokens' logits by, against each other. */
const tolerance = 1.5
/** Reference margin from which on the best token stays the best. */
const decisiveMargin = 0.5

/** How far the logits of the ten best tokens are moved against each other: greatest move minus least. */
function spread(expected: Float32Array, given: Float32Array): number {
  const top = expected[greatest(expected)]!
  const likely = [...expected.keys()].filter(id => expected[id]! > top - 10)
  const best = likely.sort((i, j) => expected[j]! - expected[i]!).slice(0, 10)
  const moves = best.map(id => given[id]! - expected[id]!)
  return Math.max(...moves) - Math.min(...moves)
}

describe.runIf(present)('SmolLM2-135M-Instruct, Q4_1 GGUF, on quantised kernels', () => {
  let context: TestHandlerContext
  let exact: LoadedModel
  let quantised: LoadedModel
  let prompts: GenerationPrompt[]
  beforeAll(async () => {
    context = await handlerContext()
    const source = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const manifest = await readManifest(context.payloads, (await ingestModel({ source }, context)).manifest)
    exact = await openModel(manifest, context)
    quantised = await openModel(manifest, { ...context, env: { ...context.env, HARTONOMOUS_KERNELS: 'quantised' } })
    prompts = (await referenceNumbers<{ prompts: GenerationPrompt[] }>('generation_smollm2.json')).prompts
  }, 120_000)
  afterAll(async () => {
    await exact.dispose()
    await quantised.dispose()
    await context.dispose()
  })

  test('likely tokens’ logits agree with float32 within 1.5, the best token wherever the reference margin is over 0.5', async () => {
    const differences: number[] = []
    const changed: number[] = []
    for (const { ids, newIds, margins } of [prompts[1]!, prompts.at(-1)!]) {
      const [a, b] = [exact.startSequence(), quantised.startSequence()]
      for (const [step, id] of newIds.entries()) {
        const next = step === 0 ? ids : [newIds[step - 1]!]
        const [expected, given] = [await a.append(next), await b.append(next)]
        differences.push(spread(expected, given))
        if (greatest(given) !== id) changed.push(margins[step]!)
      }
    }
    expect(Math.max(...differences)).toBeLessThan(tolerance)
    expect(Math.max(0, ...changed)).toBeLessThan(decisiveMargin)
  }, 120_000)
})
