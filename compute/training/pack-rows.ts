// Training texts as rows of tokens: in an order that a seed decides, one behind the other, with a mask of what counts.
import { DomainError } from '../../lib/errors.js'
import { seededRandom } from '../inference/sampling.js'

export interface TrainingText {
  /** Groups texts for balancing. */
  group: string
  /** Tokens, BOS included where the tokenizer adds one. */
  prompt: readonly number[]
  completion: readonly number[]
}

export interface PackedRow {
  /** Exactly as many as the sequence. */
  ids: number[]
  /** Per position what the prediction of the token after it counts, 0 to 1; the last position's is as its own token's. */
  counts: Float32Array
  /** Written by the student itself: there is a teacher's word on it, but no text to be like. */
  own?: boolean
}

export interface PackOptions {
  /** Tokens of a row. */
  sequence: number
  /** Tokens of all rows together, at most; less where the texts are fewer. */
  tokens: number
  seed: number
  /** What a prompt's token counts beside a completion's, which counts 1. */
  promptWeight: number
  /** Whether groups take turns so that they have equally many completion tokens; else texts come as shuffled. */
  balanced: boolean
  /** Put behind every text; absent: nothing. */
  separator?: number | undefined
  /** Whether texts beyond `tokens` are taken again from the first on when they run out. */
  repeat?: boolean
}

/** Fisher and Yates, by the seed. */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const result = [...items]
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[result[i], result[j]] = [result[j]!, result[i]!]
  }
  return result
}

/**
 * The rows, the same for the same texts and options. Texts are cut to `sequence` tokens.
 * @throws BAD_USER_INPUT where there are no texts, fewer tokens than one row, or where nothing counts
 */
export function packRows(texts: readonly TrainingText[], options: PackOptions): PackedRow[] {
  const { sequence, tokens, seed, promptWeight, balanced, separator, repeat = false } = options
  const refuse = (message: string): never => {
    throw new DomainError('BAD_USER_INPUT', message, { field: ['input', 'data'] })
  }
  if (texts.length === 0) refuse('The training data holds no texts')
  const random = seededRandom(seed)
  const wanted = Math.floor(tokens / sequence) * sequence
  if (wanted === 0) refuse(`${tokens} tokens are less than one row of ${sequence}`)
  // The last text may reach beyond what is wanted.
  const ids = new Int32Array(wanted + sequence)
  const own = new Float32Array(wanted + sequence)
  let length = 0
  const take = ({ prompt, completion }: TrainingText) => {
    const end = separator === undefined ? [] : [separator]
    const all = [...prompt, ...completion, ...end].slice(0, sequence)
    for (const [i, id] of all.entries()) {
      ids[length] = id
      own[length++] = i < prompt.length ? promptWeight : 1
    }
  }
  do {
    const before = length
    for (const text of ordered(texts, sequence, balanced, wanted - length, random)) {
      take(text)
      if (length >= wanted) break
    }
    if (length === before) break
  } while (repeat && length < wanted)
  const rows = Math.floor(Math.min(length, wanted) / sequence)
  if (rows === 0) refuse(`The training data has ${length} tokens, a row takes ${sequence}`)
  const packed = Array.from({ length: rows }, (_, row) => {
    const begin = row * sequence
    const counts = Float32Array.from({ length: sequence }, (_, i) =>
      i < sequence - 1 ? own[begin + i + 1]! : own[begin + i]!,
    )
    return { ids: [...ids.subarray(begin, begin + sequence)], counts }
  })
  if (!packed.some(({ counts }) => counts.some(count => count > 0)))
    refuse('Every token of the training data is masked: nothing is left to learn from')
  return packed
}

/** All texts as shuffled, or as many as are needed of each group in turn, then shuffled again so that groups mix. */
function ordered(
  texts: readonly TrainingText[],
  sequence: number,
  balanced: boolean,
  tokens: number,
  random: () => number,
): TrainingText[] {
  const all = shuffled(texts, random)
  if (!balanced) return all
  const groups = new Map<string, { queue: TrainingText[]; used: number }>()
  for (const text of all) {
    const group = groups.get(text.group) ?? { queue: [], used: 0 }
    group.queue.push(text)
    groups.set(text.group, group)
  }
  const chosen: TrainingText[] = []
  let total = 0
  // A text too many, so that cutting the last row loses nothing.
  while (total < tokens + 2 * sequence) {
    const open = [...groups.values()].filter(({ queue }) => queue.length > 0)
    const next = open.sort((a, b) => a.used - b.used)[0]
    if (!next) break
    const text = next.queue.shift()!
    const length = Math.min(sequence, text.prompt.length + text.completion.length + 1)
    next.used += Math.max(1, length - text.prompt.length)
    total += length
    chosen.push(text)
  }
  return shuffled(chosen, random)
}
