import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { matrixForm } from '../../../../compute/formats/quantised-weights.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
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
interface LogitsPrompt {
  ids: number[]
  positions: { position: number; topIds: number[]; topLogits: number[] }[]
}
/**
 * Bound of what rounding activations to 8 bits moves the likely tokens' logits by, against each other. llama.cpp, which rounds alike, moves
 * them by up to 1.24 on these prompts (the same file as Q4_1 and as F32), and changes the best token at margins up to 0.22.
 */
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

const withKernels = (context: TestHandlerContext, kernels: 'float32' | 'quantised') => ({
  ...context,
  env: { ...context.env, HARTONOMOUS_KERNELS: kernels },
})

describe.runIf(present)('SmolLM2-135M-Instruct, Q4_1 GGUF, on quantised kernels', () => {
  let context: TestHandlerContext
  let exact: LoadedModel
  let quantised: LoadedModel
  let prompts: GenerationPrompt[]
  beforeAll(async () => {
    context = await handlerContext()
    const source = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const manifest = await readManifest(context.payloads, (await ingestModel({ source }, context)).manifest)
    exact = await openModel(manifest, withKernels(context, 'float32'))
    quantised = await openModel(manifest, withKernels(context, 'quantised'))
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

/**
 * Logits after each token, fed one by one, of a small model rounded to Q8_0, against the float32 reference. Rounding weights and activations to
 * 8 bits errs by 1/254 of a block's greatest value each, and these models' logits span some 20.
 */
const smallTolerance = 0.25

describe.runIf(present).each(['stories260K', 'babyllama-tok105', 'aidreams260K'])('%s as Q8_0 GGUF', name => {
  let context: TestHandlerContext
  let model: LoadedModel
  beforeAll(async () => {
    context = await handlerContext()
    const { manifest } = await ingestModel({ source: sharedFile('models', name) }, context)
    const exported = await exportModel({ manifest, name, format: 'GGUF', quantization: 'Q8_0' }, context)
    const source = join(context.dataFolder, 'exports', exported.files[0]!.path)
    const again = await readManifest(context.payloads, (await ingestModel({ source }, context)).manifest)
    expect(again.tensors.some(tensor => matrixForm(tensor))).toBe(true)
    model = await openModel(again, withKernels(context, 'quantised'))
  }, 60_000)
  afterAll(async () => {
    await model.dispose()
    await context.dispose()
  })

  test('logits of quantised steps within 0.25 of the reference', async () => {
    const file = 'logits_small.json'
    const { models } = await referenceNumbers<{ models: { model: string; prompts: LogitsPrompt[] }[] }>(file)
    const differences: number[] = []
    for (const { ids, positions } of models.find(m => m.model === name)!.prompts) {
      const sequence = model.startSequence()
      const all: Float32Array[] = []
      for (const id of ids) all.push(await sequence.append([id]))
      for (const { position, topIds, topLogits } of positions)
        topIds.forEach((id, i) => {
          differences.push(Math.abs(all[position]![id]! - topLogits[i]!))
        })
    }
    expect(Math.max(...differences)).toBeLessThan(smallTolerance)
  }, 60_000)

  test('the best token is the reference’s wherever its margin is over twice that', async () => {
    const { prompts } = await referenceNumbers<{ prompts: (GenerationPrompt & { model: string })[] }>(
      'generation_small.json',
    )
    const changed: number[] = []
    for (const { ids, newIds, margins } of prompts.filter(prompt => prompt.model === name)) {
      const sequence = model.startSequence()
      for (const [step, id] of newIds.entries()) {
        const logits = await sequence.append(step === 0 ? ids : [newIds[step - 1]!])
        if (greatest(logits) !== id) changed.push(margins[step]!)
      }
    }
    expect(Math.max(0, ...changed)).toBeLessThan(2 * smallTolerance)
  }, 60_000)
})
