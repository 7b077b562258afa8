import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { evaluateModel } from '../../../../compute/handlers/evaluate-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { withScoringModel } from '../../../../compute/handlers/scoring-model.js'
import { canonicalProbeSet, type ProbeSample } from '../../../../compute/probing/probe-set.js'
import { encodeSample } from '../../../../compute/probing/scoring.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { referenceNumbers, referenceProbes } from '../../../testkit/reference-probes.js'
import { sharedFile, sharedPresent } from '../../../testkit/shared-files.js'

interface NllReference {
  models: {
    model: string
    perTask: Record<string, { completionTokens: number; examples: number; meanNll: number; perplexity: number }>
    examples: { index: number; promptTokens: number; completionTokens: number; nll: number }[]
  }[]
}

describe.runIf(sharedPresent('Evaluation references', 'reference'))(
  'evaluation against the references in ../shared',
  () => {
    let context: TestHandlerContext
    let lines: ProbeSample[]
    let reference: NllReference
    beforeAll(async () => {
      context = await handlerContext()
      lines = await referenceProbes('validation')
      reference = await referenceNumbers('nll_small.json')
    })
    afterAll(() => context.dispose())

    const ingest = async (name: string) => (await ingestModel({ source: sharedFile('models', name) }, context)).manifest
    const entry = (name: string) => reference.models.find(m => m.model === name)!

    it.each(['stories260K', 'babyllama-tok105'])('%s has the reference perplexity on every example', async name => {
      const { examples } = entry(name)
      await withScoringModel(await ingest(name), context, async ({ model, scorer }) => {
        const rows = examples.map(example => encodeSample(model, lines[example.index]!, 256)!)
        const scores = await scorer.scoreRows(rows)
        const deviations = examples.map(({ nll, completionTokens }, i) =>
          Math.abs(Math.exp((scores[i]!.nll - nll) / completionTokens) - 1),
        )
        expect(rows.map(r => r.completionStart)).toEqual(examples.map(e => e.promptTokens))
        expect(rows.map(r => r.completionTokens)).toEqual(examples.map(e => e.completionTokens))
        expect(Math.max(...deviations)).toBeLessThan(1e-3)
      })
    })

    it('model.evaluate gives the reference perplexity of every task, for the model and its reference model', async () => {
      const samples = entry('stories260K').examples.map(e => lines[e.index]!)
      const { hash: probeSet } = await context.payloads.put([canonicalProbeSet(samples)])
      const [manifest, other] = [await ingest('stories260K'), await ingest('babyllama-tok105')]
      const output = await evaluateModel(
        { manifest, reference: other, probeSet, split: 'validation', maxTokens: 256 },
        context,
      )
      for (const [name, scores] of [
        ['stories260K', output.scores],
        ['babyllama-tok105', output.reference ?? []],
      ] as const) {
        expect(scores).toHaveLength(7)
        for (const score of scores) {
          const expected = entry(name).perTask[score.capability]!
          expect(score).toMatchObject({ sampleCount: expected.examples, completionTokens: expected.completionTokens })
          expect(Math.abs(score.perplexity / expected.perplexity - 1)).toBeLessThan(1e-3)
        }
      }
      const last = context.reports.at(-1)
      expect(last).toMatchObject({ stage: 'reference', unit: 'tokens' })
      expect(last?.completed).toBe(last?.total)
    })
  },
)
