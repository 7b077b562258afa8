// How far one model's predictions are from another's on the same texts: what quantising, fusing and pruning must answer for.

import { graphBuilder } from '../graph/builder.js'
import { apply, reshape } from '../ops/apply.js'
import { createSession, floats, int64s, type Session } from '../runtime/session.js'
import type { LoadedModel, ScoredSample } from './model.js'

export interface Comparison {
  /** Positions compared: every token of a sample that predicts another. */
  positions: number
  /** Sum over them of KL(reference || other), nats. */
  divergence: number
  /** Positions where both hold the same token for the likeliest. */
  agreements: number
  completionTokens: number
  /** Summed negative log-likelihood of the completion's tokens, nats. */
  nll: number
  referenceNll: number
}

export const addComparisons = (a: Comparison, b: Comparison): Comparison => ({
  positions: a.positions + b.positions,
  divergence: a.divergence + b.divergence,
  agreements: a.agreements + b.agreements,
  completionTokens: a.completionTokens + b.completionTokens,
  nll: a.nll + b.nll,
  referenceNll: a.referenceNll + b.referenceNll,
})
export const noComparison: Comparison = {
  positions: 0,
  divergence: 0,
  agreements: 0,
  completionTokens: 0,
  nll: 0,
  referenceNll: 0,
}

/** Per position: KL divergence, both models' likeliest tokens and log-probabilities of the token that follows. */
function comparisonGraph() {
  const g = graphBuilder('comparison')
  const logits = (name: string) => g.input(name, 'float32', ['rows', 'vocabulary'])
  const [reference, other] = [logits('reference'), logits('other')]
  const targets = g.input('targets', 'int64', ['rows'])
  const column = reshape(g, targets, [-1, 1], ['rows', 1], 'target_column')
  const [p, q] = [reference, other].map(x => apply(g, 'LogSoftmax', [x], { axis: -1 }, { name: `${x.name}_log` }))
  const ratio = apply(g, 'Sub', [p!, q!], {}, { name: 'log_ratio' })
  const weighted = apply(
    g,
    'Mul',
    [apply(g, 'Exp', [p!], {}, { name: 'probability' }), ratio],
    {},
    { name: 'weighted' },
  )
  g.output(apply(g, 'ReduceSum', [weighted, g.int64s([-1])], { keepdims: 0 }, { name: 'divergence' }))
  for (const [x, log] of [
    [reference, p!],
    [other, q!],
  ] as const) {
    g.output(apply(g, 'ArgMax', [x], { axis: -1, keepdims: 0 }, { name: `${x.name}_best` }))
    g.output(apply(g, 'GatherElements', [log, column], { axis: 1 }, { name: `${x.name}_target` }))
  }
  return g.build()
}

/** Compares two open models of one vocabulary, sample by sample. */
export async function openComparison(
  reference: LoadedModel,
  other: LoadedModel,
  options: { weightsFolder: string; threads?: number; signal?: AbortSignal },
) {
  const { signal, ...session } = options
  const comparing: Session = await createSession(comparisonGraph(), { ...session, arena: false })
  const fetches = ['divergence', 'reference_best', 'reference_target', 'other_best', 'other_target']

  async function compare({ ids, completionStart }: ScoredSample): Promise<Comparison> {
    const rows = ids.length - 1
    if (rows < 1) return noComparison
    signal?.throwIfAborted()
    const logitsOf = async (model: LoadedModel) => {
      const [all] = (await model.forward({ ids: [ids], wantLogits: 'all' })).logits
      const { vocabularySize } = model.dimensions
      // The last token predicts nothing that is known.
      return floats(all!.subarray(0, rows * vocabularySize), [rows, vocabularySize])
    }
    const feeds = {
      reference: await logitsOf(reference),
      other: await logitsOf(other),
      targets: int64s(ids.slice(1)),
    }
    const results = await comparing.run(feeds, fetches, { signal })
    const numbers = (name: string) => results[name]!.data as Float32Array
    const tokens = (name: string) => results[name]!.data as BigInt64Array
    const sum = (values: Float32Array) => values.reduce((total, value) => total + value, 0)
    const best = tokens('other_best')
    const first = Math.max(1, completionStart) - 1
    return {
      positions: rows,
      divergence: sum(numbers('divergence')),
      agreements: tokens('reference_best').reduce((count, token, i) => count + (token === best[i] ? 1 : 0), 0),
      completionTokens: rows - first,
      nll: -sum(numbers('other_target').subarray(first)),
      referenceNll: -sum(numbers('reference_target').subarray(first)),
    }
  }

  return { compare, dispose: () => comparing.dispose() }
}
