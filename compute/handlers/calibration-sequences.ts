// Texts of a probe set as token sequences of one length: what activations are measured on where nothing needs padding or completions.
import { DomainError } from '../../lib/errors.js'
import { inTurns } from '../../lib/in-turns.js'
import type { ModelTokenizer } from '../formats/tokenizer.js'
import { parseProbeSet } from '../probing/probe-set.js'

/** As long as scored samples are cut to. */
const sequenceTokens = 256

/**
 * Samples of the probe split (never of the validation split, which says how good the result is), one of each capability after the other,
 * joined and cut into sequences of one length until there are `tokens` of them.
 * @throws INVALID_PROBE_DATASET where there is no text
 */
export async function calibrationSequences(
  probeSet: Uint8Array,
  tokenizer: Pick<ModelTokenizer, 'encode' | 'addBos' | 'bosTokenId'>,
  contextLength: number,
  tokens: number,
): Promise<number[][]> {
  const samples = inTurns(
    (await parseProbeSet(probeSet)).filter(sample => sample.split === 'probe'),
    sample => sample.capability,
  )
  const begin = tokenizer.addBos && tokenizer.bosTokenId !== undefined ? [tokenizer.bosTokenId] : []
  const length = Math.min(sequenceTokens, contextLength)
  const sequences: number[][] = []
  const current: number[] = []
  for (const { prompt, completion } of samples) {
    current.push(...begin, ...tokenizer.encode(prompt), ...tokenizer.encode(completion))
    while (current.length >= length && sequences.length * length < tokens) sequences.push(current.splice(0, length))
    if (sequences.length * length >= tokens) return sequences
  }
  if (sequences.length > 0) return sequences
  if (current.length < 2)
    throw new DomainError('INVALID_PROBE_DATASET', 'The probe split has no text to calibrate with')
  return [current]
}
