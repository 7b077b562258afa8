import { expect, test } from 'vitest'
import { analysisText, scoreTable } from '../../../cli/analysis-text.js'
import type { Analysis } from '../../../cli/results.js'

const analysis = (loss: number, interval: [number, number] | null): Analysis => ({
  id: 'a',
  model: { vocabularySize: 512 },
  probeDataset: { name: 'mine', version: 1 },
  device: null,
  baseline: [
    {
      capability: { slug: 'translation', name: 'Translation' },
      ...{ loss, perplexity: Math.exp(loss), accuracy: 0, sampleCount: 4, interval },
    },
  ],
  layers: [
    {
      ...{ layerIndex: 0, blockInfluence: 0.1, activationNorm: 1, activation: null, heads: [] },
      capabilities: [{ capability: { slug: 'translation' }, score: 1, lossIncrease: 0.2 }],
    },
  ],
  clusters: [],
  maskedGroups: [],
  droppedSamples: [],
})

test('capabilities that a model does worse than guessing are named', () => {
  const text = analysisText(analysis(9.7, [9.1, 10.4]))
  expect(text).toContain('Worse than guessing among its 512 tokens (6.24 nats): translation.')
  expect(text).toContain('9.10 – 10.40')
  expect(analysisText(analysis(6.2, null))).not.toContain('guessing')
})

test('the share of exact answers is left out where there is none', () => {
  const score = (accuracy: number | null) => ({ ...analysis(1, null).baseline[0]!, accuracy })
  expect(scoreTable([score(0), score(null)])).not.toMatch(/exact|%$/m)
  expect(scoreTable([score(0), score(0.25)])).toMatch(/exact[\s\S]*25%/)
})
