// Hugging Face tokenizer.json -> GGUF tokenizer metadata: the inverse of gguf-tokenizer.ts.
import { isDeepStrictEqual } from 'node:util'
import { DomainError } from '../../lib/errors.js'
import type { ManifestTokenizer } from '../../lib/manifest.js'
import { sentencePieceMerges, tokenType } from './gguf-tokenizer.js'
import type { GgufEntry } from './gguf-writer.js'
import { preTokenizers } from './pre-tokenizers.js'
import { objectField, textField } from './read-fields.js'

type Json = Record<string, unknown>
type Facts = Omit<ManifestTokenizer, 'tokenizerJson' | 'tokenizerConfig'>

const unsupported = (message: string) =>
  new DomainError('UNSUPPORTED_FORMAT', `${message}; export the model as SAFETENSORS`)

interface AddedToken {
  id: number
  content: string
  special?: boolean
}

/**
 * `tokenizer.ggml.*` without the chat template.
 * @param rows of the embedding: llama.cpp wants a token for each; those that the tokenizer lacks are called `[PAD<id>]`
 * @param rule `tokenizer.ggml.pre` where the source named it
 * @throws DomainError UNSUPPORTED_FORMAT saying what GGUF cannot hold, SHAPE_MISMATCH where the tokenizer has more tokens than the model
 */
export function ggufTokenizerEntries(
  tokenizer: Json,
  facts: Facts,
  rows: number,
  rule?: string,
): [string, GgufEntry][] {
  const model = objectField(tokenizer, 'model') ?? {}
  const type = textField(model, ['type']) ?? 'BPE'
  if (type !== 'BPE') throw unsupported(`A tokenizer of the type ${type} is not written to GGUF`)
  if (facts.vocabularySize > rows)
    throw new DomainError(
      'SHAPE_MISMATCH',
      `The tokenizer has ${facts.vocabularySize} tokens, the model's embedding ${rows} rows; GGUF needs a row for each token`,
    )
  const pieces = isSentencePiece(tokenizer)
  const { tokens, types } = vocabularyOf(tokenizer, model, rows, facts, pieces)
  const merges = mergesOf(model)
  const kind: [string, GgufEntry][] = pieces
    ? [
        ['tokenizer.ggml.model', { text: 'llama' }],
        ['tokenizer.ggml.scores', { f32s: scoresOf(tokens, types, merges) }],
        ['tokenizer.ggml.add_space_prefix', { bool: hasPrefix(tokenizer) }],
      ]
    : [
        ['tokenizer.ggml.model', { text: 'gpt2' }],
        ['tokenizer.ggml.pre', { text: rule ?? preTokenizerName(tokenizer, model) }],
        ['tokenizer.ggml.merges', { texts: merges.map(([left, right]) => `${left} ${right}`) }],
      ]
  const [eos, eot, eom] = facts.eosTokenIds
  const ids = {
    bos: facts.bosTokenId,
    eos,
    eot,
    eom,
    padding: facts.padTokenId,
    unknown: facts.unknownTokenId,
  }
  return [
    ...kind,
    ['tokenizer.ggml.tokens', { texts: tokens }],
    ['tokenizer.ggml.token_type', { i32s: types }],
    ...Object.entries(ids).flatMap(([name, id]): [string, GgufEntry][] =>
      id === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, { u32: id }]],
    ),
    ['tokenizer.ggml.add_bos_token', { bool: facts.addBos }],
    ['tokenizer.ggml.add_eos_token', { bool: false }],
  ]
}

const wordMark = '▁'

/** A part of tokenizer.json and, where it is a sequence, the parts of that, each alone. */
function partsOf(part: unknown, list: 'normalizers' | 'pretokenizers'): Json[] {
  if (typeof part !== 'object' || part === null) return []
  const inner = (part as Json)[list]
  return Array.isArray(inner) ? inner.flatMap(p => partsOf(p, list)) : [part as Json]
}

const metaspace = (tokenizer: Json) =>
  partsOf(tokenizer.pre_tokenizer, 'pretokenizers').find(p => p.type === 'Metaspace')

/** Whether spaces become word marks, which is what SentencePiece vocabularies are made of. */
function isSentencePiece(tokenizer: Json): boolean {
  const replaces = partsOf(tokenizer.normalizer, 'normalizers').some(
    n => n.type === 'Replace' && n.content === wordMark,
  )
  return replaces || metaspace(tokenizer) !== undefined
}

/** Whether a text is read as if it began with a space. */
function hasPrefix(tokenizer: Json): boolean {
  if (partsOf(tokenizer.normalizer, 'normalizers').some(n => n.type === 'Prepend' && n.prepend === wordMark))
    return true
  const marks = metaspace(tokenizer)
  return (
    marks !== undefined && (marks.prepend_scheme ?? (marks.add_prefix_space === false ? 'never' : 'always')) !== 'never'
  )
}

const bytePiece = /^<0x[0-9A-F]{2}>$/

function vocabularyOf(tokenizer: Json, model: Json, rows: number, facts: Facts, pieces: boolean) {
  const tokens = Array.from({ length: rows }, (_, id) => `[PAD${id}]`)
  const types = new Array<number>(rows).fill(tokenType.unused)
  for (const [token, id] of Object.entries((model.vocab ?? {}) as Record<string, number>)) {
    tokens[id] = token
    types[id] = pieces && bytePiece.test(token) ? tokenType.byte : tokenType.normal
  }
  for (const { id, content, special } of (tokenizer.added_tokens ?? []) as AddedToken[]) {
    tokens[id] = content
    const isUnknown = pieces && id === facts.unknownTokenId
    types[id] = special ? (isUnknown ? tokenType.unknown : tokenType.control) : tokenType.userDefined
  }
  return { tokens, types }
}

/** Merges come as pairs or, in older files, as `left right`. */
function mergesOf(model: Json): [string, string][] {
  const merges = Array.isArray(model.merges) ? model.merges : []
  return merges.map((merge): [string, string] => {
    if (Array.isArray(merge)) return [String(merge[0]), String(merge[1])]
    const text = String(merge)
    const space = text.indexOf(' ', 1)
    return [text.slice(0, space), text.slice(space + 1)]
  })
}

/**
 * Scores that rank pieces as the merges do: a piece's is minus the rank of the first merge that makes it.
 * @throws where llama.cpp, which joins any two pieces whose whole is a piece, would know other merges, or another order of them
 */
function scoresOf(tokens: readonly string[], types: readonly number[], merges: readonly [string, string][]): number[] {
  const rank = new Map<string, number>()
  let before: string | undefined
  for (const [i, [left, right]] of merges.entries()) {
    const piece = left + right
    if (rank.has(piece) && piece !== before)
      throw unsupported(
        `The tokenizer's merges of "${piece}" do not follow each other, which SentencePiece scores cannot say`,
      )
    if (!rank.has(piece)) rank.set(piece, i)
    before = piece
  }
  const scores = tokens.map((token, id) => {
    if (types[id] !== tokenType.normal && types[id] !== tokenType.userDefined) return 0
    return -(rank.get(token) ?? merges.length + id)
  })
  const known = new Set(merges.map(pair => pair.join(' ')))
  const implied = sentencePieceMerges({ tokens, typeOf: id => types[id]! }, scores).map(pair => pair.join(' '))
  const other = implied.find(pair => !known.has(pair))
  if (other !== undefined || implied.length !== known.size)
    throw unsupported(
      `The tokenizer has ${known.size} merges, its pieces allow ${implied.length}${other ? ` (as "${other}")` : ''}, which GGUF cannot tell apart`,
    )
  return scores
}

/** What of a pre-tokenizer decides where text is split: without offsets, which are for people. */
function essence(part: Json): Json {
  const { trim_offsets: _offsets, ...rest } = part
  if (rest.type === 'ByteLevel')
    return { ...rest, add_prefix_space: rest.add_prefix_space ?? true, use_regex: rest.use_regex ?? true }
  return { invert: false, ...rest }
}

const essences = (preTokenizer: unknown) => partsOf(preTokenizer, 'pretokenizers').map(essence)

/** llama.cpp's name of the rule. */
function preTokenizerName(tokenizer: Json, model: Json): string {
  const own = essences(tokenizer.pre_tokenizer)
  const ignoresMerges = model.ignore_merges === true
  const composes = partsOf(tokenizer.normalizer, 'normalizers').some(n => n.type === 'NFC')
  const others = partsOf(tokenizer.normalizer, 'normalizers').filter(n => n.type !== 'NFC')
  const found = Object.entries(preTokenizers).find(
    ([, rule]) =>
      isDeepStrictEqual(essences(rule.preTokenizer), own) &&
      (rule.ignoreMerges ?? false) === ignoresMerges &&
      (rule.normalizer !== undefined) === composes,
  )
  if (found && others.length === 0) return found[0]
  const said = JSON.stringify({ normalizer: tokenizer.normalizer, pre_tokenizer: tokenizer.pre_tokenizer }).slice(
    0,
    300,
  )
  throw unsupported(`llama.cpp has no name for how this tokenizer splits text (${said})`)
}
