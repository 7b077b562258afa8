// SmolLM2 as people ingest it (GGUF, Q4_1): layer influence and a depth-cut student against reference numbers.
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildStudent } from '../../compute/handlers/build-student.js'
import { ingestModel } from '../../compute/handlers/ingest-model.js'
import { withScoringModel } from '../../compute/handlers/scoring-model.js'
import { layerInfluence } from '../../compute/probing/layer-influence.js'
import { encodeSample, encodeSamples } from '../../compute/probing/scoring.js'
import { handlerContext, type TestHandlerContext } from '../testkit/handler-context.js'
import { referenceNumbers, referenceProbes } from '../testkit/reference-probes.js'
import { sharedFile } from '../testkit/shared-files.js'

const file = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')

interface Influence {
  perTask: Record<
    string,
    { lines: number[]; blockInfluence: number[]; deltaNllPerToken: number[]; angular4: number[]; angular8: number[] }
  >
}
interface Edits {
  lines: number[]
  edits: Record<string, { keptLayers: number[]; nll: number[] }>
}

describe.skipIf(!existsSync(file))('SmolLM2 against the references in ../shared', () => {
  let context: TestHandlerContext
  let manifest: string
  beforeAll(async () => {
    context = await handlerContext()
    manifest = (await ingestModel({ source: file }, context)).manifest
  })
  afterAll(() => context.dispose())

  it('has the reference block influence, skip losses and angular distances', async () => {
    const task = 'question_answering'
    const reference = (await referenceNumbers<Influence>('layer_influence.json')).perTask[task]!
    const lines = await referenceProbes('probe')
    const only = [0, 11, 28]
    const found = await withScoringModel(manifest, context, async ({ model, scorer }) => {
      const samples = await encodeSamples(
        model,
        reference.lines.map(line => lines[line]!),
        192,
      )
      return layerInfluence(scorer, model.layerCount, samples, [task], { only })
    })
    expect(found.layers.map(l => l.layerIndex)).toEqual(only)
    for (const { layerIndex, blockInfluence, angularDistances, capabilities } of found.layers) {
      // Layer 28 has one layer after it: no block of four begins there.
      if (layerIndex < 28) {
        expect(Math.abs(angularDistances[3]! - reference.angular4[layerIndex]!)).toBeLessThan(1e-5)
        expect(Math.abs(angularDistances[7]! - reference.angular8[layerIndex]!)).toBeLessThan(1e-5)
      } else expect(angularDistances).toHaveLength(2)
      expect(Math.abs(blockInfluence - reference.blockInfluence[layerIndex]!)).toBeLessThan(1e-5)
      const expected = reference.deltaNllPerToken[layerIndex]!
      expect(Math.abs(capabilities[0]!.lossIncrease - expected)).toBeLessThan(1e-3 * Math.abs(expected) + 2e-4)
    }
  })

  it('cut to layers 0-20 and 29 has the losses of the reference cut', async () => {
    const { lines: numbers, edits } = await referenceNumbers<Edits>('structured_edits.json')
    const edit = edits.dropLast8KeepFinal!
    expect(edit.keptLayers).toEqual([...Array(21).keys(), 29])
    const layers = [
      { from: 0, to: 21 },
      { from: 29, to: 30 },
    ]
    const started = performance.now()
    const student = await buildStudent({ parent: manifest, layers }, context)
    expect(performance.now() - started).toBeLessThan(1000)
    expect(student).toMatchObject({ layerCount: 22, parameterCount: 134_515_008 - 8 * 3_540_096 })

    const lines = await referenceProbes('validation')
    // The shorter ones of every task: a few hundred tokens in all.
    const chosen = numbers.map((line, i) => ({ sample: lines[line]!, nll: edit.nll[i]! }))
    chosen.sort(
      (a, b) =>
        a.sample.prompt.length + a.sample.completion.length - (b.sample.prompt.length + b.sample.completion.length),
    )
    await withScoringModel(student.manifest, context, async ({ model, scorer }) => {
      const kept = chosen.slice(0, 12)
      const scores = await scorer.scoreRows(kept.map(({ sample }) => encodeSample(model, sample, 256)!))
      kept.forEach(({ nll }, i) => {
        expect(Math.abs(scores[i]!.nll / nll - 1)).toBeLessThan(5e-4)
      })
    })
  })
})
