// Held-out texts as batches whose losses add up to one number: the mean over groups of the loss per completion token.
import { DomainError } from '../../lib/errors.js'
import type { TrainingBatch, TrainingRow } from './batch-feeds.js'
import type { TrainingText } from './pack-rows.js'

/** Padded tokens of a batch: bounds activations. */
const maximumTokens = 2048

/**
 * Each text stands alone, as in evaluations, cut to `maximumLength` tokens; only completions count.
 * @throws BAD_USER_INPUT where no completion token is left
 */
export function heldOutBatches(texts: readonly TrainingText[], maximumLength: number): TrainingBatch[] {
  const cut = texts.flatMap(({ group, prompt, completion }) => {
    const ids = [...prompt, ...completion].slice(0, maximumLength)
    const from = Math.max(1, prompt.length)
    return ids.length > from ? [{ group, ids, from }] : []
  })
  if (cut.length === 0)
    throw new DomainError('BAD_USER_INPUT', `No held-out completion is left within ${maximumLength} tokens`, {
      field: ['input', 'data'],
    })
  const tokens = new Map<string, number>()
  for (const { group, ids, from } of cut) tokens.set(group, (tokens.get(group) ?? 0) + ids.length - from)
  const batches: TrainingBatch[] = []
  let rows: TrainingRow[] = []
  const flush = () => {
    if (rows.length > 0) batches.push({ rows, seq: Math.max(...rows.map(({ ids }) => ids.length)) })
    rows = []
  }
  for (const { group, ids, from } of cut.sort((a, b) => a.ids.length - b.ids.length)) {
    if ((rows.length + 1) * ids.length > maximumTokens) flush()
    const weight = 1 / (tokens.get(group)! * tokens.size)
    const weights = Float32Array.from(ids, (_, at) => (at >= from - 1 && at < ids.length - 1 ? weight : 0))
    rows.push({ ids, crossEntropyWeights: weights })
  }
  flush()
  return batches
}
