import { describe, expect, it } from 'vitest'
import { summarise } from '../../../../compute/probing/evaluate.js'
import {
  createScorer,
  encodeSample,
  encodeSamples,
  type ScoreRow,
  type ScoringModel,
} from '../../../../compute/probing/scoring.js'
import { numberModel } from './number-model.js'

/** A language model by formula: every completion token costs its id in nats, halved per skipped layer. */
const formulaModel = (
  batches: ScoreRow[][],
  nll = (row: ScoreRow) => row.ids.slice(row.completionStart).reduce((a, b) => a + b, 0),
): ScoringModel => ({
  name: 'formula',
  layerCount: 2,
  contextLength: 64,
  encode: text => [...text].map(c => c.charCodeAt(0) - 96),
  bosTokenId: undefined,
  score: async rows => {
    batches.push([...rows])
    return rows.map(row => ({ nll: nll(row), exact: row.ids.length % 2 === 0 }))
  },
  layerwise: numberModel(),
})
const row = (length: number): ScoreRow => ({ ids: Array.from({ length }, () => 1), completionStart: 1 })
const never = new AbortController().signal

describe('encodeSample', () => {
  const sample = { capability: 'c', prompt: 'ab', completion: 'cde' }
  const model = formulaModel([])
  it.each([
    ['joins prompt and completion', model, 256, { ids: [1, 2, 3, 4, 5], completionStart: 2, completionTokens: 3 }],
    ['cuts from the right', model, 4, { ids: [1, 2, 3, 4], completionStart: 2, completionTokens: 2 }],
    ['cuts to the context length', { ...model, contextLength: 3 }, 256, { ids: [1, 2, 3], completionTokens: 1 }],
    ['puts BOS first', { ...model, bosTokenId: 99 }, 5, { ids: [99, 1, 2, 3, 4], completionStart: 3 }],
  ])('%s', (_, m, maxTokens, expected) => expect(encodeSample(m, sample, maxTokens)).toMatchObject(expected))

  it('leaves out a sample whose completion is cut away', () => {
    expect(encodeSample(model, sample, 2)).toBeUndefined()
  })

  it('never scores a token that nothing precedes', () => {
    expect(encodeSample(model, { ...sample, prompt: '' }, 9)).toMatchObject({ completionStart: 1, completionTokens: 2 })
  })
})

describe('encodeSamples', () => {
  it('can be cancelled in the middle of a large set', async () => {
    const controller = new AbortController()
    const slow = {
      ...formulaModel([]),
      encode: (text: string) => {
        const end = performance.now() + 5
        while (performance.now() < end);
        return [text.length]
      },
    }
    const sample = { capability: 'c', subtask: 's', split: 'probe' as const, prompt: 'a', completion: 'b' }
    setTimeout(() => controller.abort(), 20)
    const started = performance.now()
    const error = await encodeSamples(slow, new Array(1000).fill(sample), 256, controller.signal).catch(e => e)
    expect(error.code).toBe('CANCELLED')
    expect(performance.now() - started).toBeLessThan(5000)
  })
})

describe('createScorer', () => {
  it('gives scores in the order of the rows, whatever the batches', async () => {
    const rows = [3, 60, 7, 60, 2, 31].map(row)
    const scores = await createScorer(formulaModel([]), never).scoreRows(rows)
    expect(scores.map(s => s.nll)).toEqual([2, 59, 6, 59, 1, 30])
  })

  it('batches rows of similar length', async () => {
    const batches: ScoreRow[][] = []
    const rows = Array.from({ length: 200 }, (_, i) => row(2 + ((i * 37) % 60)))
    await createScorer(formulaModel(batches), never).scoreRows(rows)
    expect(batches.length).toBeLessThan(10)
    const padded = batches.reduce((sum, b) => sum + b.length * Math.max(...b.map(r => r.ids.length)), 0)
    const own = rows.reduce((sum, r) => sum + r.ids.length, 0)
    expect(padded / own).toBeLessThan(1.35)
  })

  it('stops between two batches when cancelled', async () => {
    const controller = new AbortController()
    const batches: ScoreRow[][] = []
    const model = formulaModel(batches)
    const slow: ScoringModel = {
      ...model,
      score: async (rows, options) => {
        controller.abort()
        return model.score(rows, options)
      },
    }
    const error = await createScorer(slow, controller.signal)
      .scoreRows(Array.from({ length: 50 }, () => row(60)))
      .catch(e => e)
    expect(error.code).toBe('CANCELLED')
    expect(batches).toHaveLength(1)
  })

  it('names the model and the skipped layer where a loss is not a number', async () => {
    const model = formulaModel([], () => Number.NaN)
    const error = await createScorer(model, never)
      .scoreRows([{ ...row(4), gates: [1, 0] }])
      .catch(e => e)
    expect(error.code).toBe('NOT_A_NUMBER')
    expect(error.message).toBe('formula: the loss with layer 1 skipped is NaN')
  })

  it('names the layer whose output is not a number', async () => {
    const model: ScoringModel = {
      ...formulaModel([]),
      score: async rows => rows.map(() => ({ nll: 1, exact: true, layers: { cosine: [1, 1], norm: [1, Number.NaN] } })),
    }
    const error = await createScorer(model, never)
      .scoreRows([row(4)], { layerSums: true })
      .catch(e => e)
    expect(error.message).toContain('layer 1')
  })
})

describe('summarise', () => {
  const encoded = (capability: string, completionTokens: number) => ({
    capability,
    ids: [],
    completionStart: 1,
    completionTokens,
  })
  it('weighs samples by their completion tokens', () => {
    const samples = [encoded('a', 1), encoded('a', 3), encoded('b', 2)]
    const scores = [
      { nll: 4, exact: true },
      { nll: 4, exact: false },
      { nll: 1, exact: true },
    ]
    expect(summarise(samples, scores, ['a', 'b'])).toEqual([
      { capability: 'a', loss: 2, perplexity: Math.exp(2), accuracy: 0.5, sampleCount: 2, completionTokens: 4 },
      { capability: 'b', loss: 0.5, perplexity: Math.exp(0.5), accuracy: 1, sampleCount: 1, completionTokens: 2 },
    ])
  })

  it('refuses a capability with nothing left to score', () => {
    expect(() => summarise([encoded('a', 1)], [{ nll: 1, exact: true }], ['a', 'b'])).toThrow(
      'b: no sample has completion tokens',
    )
  })
})
