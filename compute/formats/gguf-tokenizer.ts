// GGUF tokenizer metadata -> Hugging Face tokenizer.json and tokenizer_config.json, and what a manifest says about the tokenizer.
import { DomainError } from '../../lib/errors.js'
import type { ManifestTokenizer } from '../../lib/manifest.js'
import type { GgufMetadata, GgufValue } from './gguf.js'
import { preTokenizers } from './pre-tokenizers.js'

type Json = Record<string, unknown>

export interface GgufTokenizer {
  tokenizerJson: Json
  tokenizerConfig: Json
  facts: Omit<ManifestTokenizer, 'tokenizerJson' | 'tokenizerConfig'>
}

/** Four times the largest published vocabulary; each token costs some 200 bytes of tokenizer.json. */
const maximumTokens = 1_000_000
/** Characters times characters over all pieces: finding merges tries every split of a piece, each as long as the piece. Real vocabularies stay under 10^8. */
const maximumMergeWork = 2e9

/** llama.cpp's `llama_token_type`. */
export const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 }

/** Control tokens that end a turn or a text whatever the metadata names as EOS (llama.cpp adds the same ones). */
const endTexts = ['<|im_end|>', '<|eot_id|>', '<|endoftext|>', '<|end_of_text|>', '<end_of_turn>', '<|end|>', '</s>']

/**
 * The tokenizer of a GGUF file; undefined where the file has none.
 * Throws NO_TOKENIZER (kind or `pre` rule not known here) and INVALID_MODEL_FILE (lists that do not fit each other).
 */
export function ggufTokenizer(
  metadata: GgufMetadata,
  vocabOf: (tokens: readonly string[]) => unknown = vocabObject,
): GgufTokenizer | undefined {
  const model = metadata.get('tokenizer.ggml.model')
  const tokens = metadata.get('tokenizer.ggml.tokens')
  if (model === undefined || tokens === undefined) return undefined
  if (!isTexts(tokens) || tokens.length === 0) {
    throw new DomainError('INVALID_MODEL_FILE', 'tokenizer.ggml.tokens is not a list of texts')
  }
  if (tokens.length > maximumTokens) {
    throw new DomainError(
      'INVALID_MODEL_FILE',
      `tokenizer.ggml.tokens: ${tokens.length} tokens, at most ${maximumTokens}`,
    )
  }
  const types = numbersOf(metadata, 'tokenizer.ggml.token_type', tokens.length)
  const vocabulary: Vocabulary = { tokens, typeOf: id => types?.[id] ?? tokenType.normal }
  const facts = factsOf(metadata, vocabulary, model === 'llama' ? 'SentencePiece' : 'BPE')
  const parts = model === 'llama' ? sentencePiece(metadata, vocabulary, facts) : bytePairs(metadata, vocabulary, model)
  const body = { ...parts, model: { ...parts.model, vocab: vocabOf(tokens) } }
  const text = (id: number | undefined) => (id === undefined ? undefined : tokens[id])
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(vocabulary),
      post_processor: facts.addBos ? bosTemplate(tokens[facts.bosTokenId!]!, facts.bosTokenId!) : null,
      ...body,
    },
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      bos_token: text(facts.bosTokenId),
      eos_token: text(facts.eosTokenIds[0]),
      pad_token: text(facts.padTokenId),
      unk_token: text(facts.unknownTokenId),
      add_bos_token: facts.addBos,
      clean_up_tokenization_spaces: false,
      chat_template: metadata.get('tokenizer.chat_template'),
    },
    facts,
  }
}

/** What differs by kind; the vocabulary is added to `model`. */
type Body = Json & { model: Json }

interface Vocabulary {
  tokens: readonly string[]
  typeOf(id: number): number
}

const isTexts = (value: GgufValue | undefined): value is string[] =>
  Array.isArray(value) && value.every(item => typeof item === 'string')

/** A list of numbers as long as the vocabulary; undefined where the key is absent. */
function numbersOf(metadata: GgufMetadata, key: string, length: number): ArrayLike<number> | undefined {
  const value = metadata.get(key)
  if (value === undefined) return undefined
  const isNumbers = ArrayBuffer.isView(value) && !(value instanceof BigInt64Array) && !(value instanceof BigUint64Array)
  if (!isNumbers || value.length !== length) {
    const found = typeof value === 'object' ? `${value.length} entries` : typeof value
    throw new DomainError('INVALID_MODEL_FILE', `${key}: ${found}, expected ${length} numbers`)
  }
  return value
}

function factsOf(metadata: GgufMetadata, { tokens, typeOf }: Vocabulary, kind: string): GgufTokenizer['facts'] {
  const id = (name: string): number | undefined => {
    const value = metadata.get(`tokenizer.ggml.${name}_token_id`)
    return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < tokens.length
      ? value
      : undefined
  }
  const bosTokenId = id('bos')
  const declared = metadata.get('tokenizer.ggml.add_bos_token')
  // llama.cpp's defaults: SentencePiece models and the Llama 3 rule begin with BOS.
  const usual = kind === 'SentencePiece' || String(metadata.get('tokenizer.ggml.pre')).startsWith('llama')
  const ends = new Set([id('eos'), id('eot'), id('eom')].filter(value => value !== undefined))
  for (let index = 0; index < tokens.length; index++) {
    if (typeOf(index) === tokenType.control && endTexts.includes(tokens[index]!)) ends.add(index)
  }
  return {
    kind,
    vocabularySize: tokens.length,
    bosTokenId,
    eosTokenIds: [...ends],
    padTokenId: id('padding'),
    unknownTokenId: id('unknown'),
    addBos: bosTokenId !== undefined && (typeof declared === 'boolean' ? declared : usual),
  }
}

function addedTokens({ tokens, typeOf }: Vocabulary): Json[] {
  const added: Json[] = []
  for (let id = 0; id < tokens.length; id++) {
    const type = typeOf(id)
    const special = type === tokenType.control || type === tokenType.unknown
    if (!special && type !== tokenType.userDefined) continue
    added.push({
      id,
      content: tokens[id],
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special,
    })
  }
  return added
}

const bosTemplate = (token: string, id: number): Json => {
  const begin = (typeId: number) => ({ SpecialToken: { id: token, type_id: typeId } })
  const sequence = (name: string, typeId: number) => ({ Sequence: { id: name, type_id: typeId } })
  return {
    type: 'TemplateProcessing',
    single: [begin(0), sequence('A', 0)],
    pair: [begin(0), sequence('A', 0), begin(1), sequence('B', 1)],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  }
}

/** Stands where the vocabulary belongs until the rest is text: no token can hold this. */
const placeholder = '\u0000vocabulary\u0000'

/**
 * tokenizer.json as text, with the vocabulary written directly: an object of a hundred thousand keys takes five times as long to make as
 * the rest of the file.
 */
export function ggufTokenizerText(
  metadata: GgufMetadata,
): (Omit<GgufTokenizer, 'tokenizerJson'> & { tokenizerText: string }) | undefined {
  let vocab = '{}'
  const converted = ggufTokenizer(metadata, tokens => {
    vocab = vocabText(tokens)
    return placeholder
  })
  if (!converted) return undefined
  const { tokenizerJson, ...rest } = converted
  const [before, after] = JSON.stringify(tokenizerJson).split(JSON.stringify(placeholder)) as [string, string]
  return { ...rest, tokenizerText: `${before}${vocab}${after}` }
}

/** The vocabulary as the text of a JSON object: all tokens are escaped in one call, then taken apart and numbered. */
function vocabText(tokens: readonly string[]): string {
  // Not JSON.stringify(tokens) split at `","`: the token `",` is written `"\","`, which falls apart in the wrong place.
  const together = JSON.stringify(tokens.join('\u0000')).slice(1, -1).split('\\u0000')
  // A token that itself holds the separator gives more parts than tokens.
  const parts = together.length === tokens.length ? together : tokens.map(token => JSON.stringify(token).slice(1, -1))
  return `{${parts.map((part, id) => `"${part}":${id}`).join(',')}}`
}

/** Object.fromEntries makes own properties, whatever a token is called (`__proto__` is one). */
const vocabObject = (tokens: readonly string[]) => Object.fromEntries(tokens.map((token, id) => [token, id]))

/** `tokenizer.ggml.model` = gpt2: byte-level BPE; which text is split where is said by `pre` alone. */
function bytePairs(metadata: GgufMetadata, _vocabulary: Vocabulary, model: GgufValue): Body {
  if (model !== 'gpt2') {
    throw new DomainError('NO_TOKENIZER', `tokenizer.ggml.model "${model}" is not read here (known: gpt2, llama)`)
  }
  const merges = metadata.get('tokenizer.ggml.merges')
  if (!isTexts(merges)) {
    throw new DomainError('INVALID_MODEL_FILE', 'tokenizer.ggml.merges is not a list of texts')
  }
  const pre = metadata.get('tokenizer.ggml.pre') ?? 'default'
  const rule = typeof pre === 'string' && Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined
  if (!rule) {
    const known = Object.keys(preTokenizers).join(', ')
    throw new DomainError('NO_TOKENIZER', `tokenizer.ggml.pre "${pre}" is not read here (known: ${known})`)
  }
  return {
    normalizer: rule.normalizer ?? null,
    pre_tokenizer: rule.preTokenizer,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: rule.ignoreMerges ?? false,
      // A merge joins two tokens, neither of which holds a space except as its first character.
      merges: merges.map(merge => {
        const space = merge.indexOf(' ', 1)
        return [merge.slice(0, space), merge.slice(space + 1)]
      }),
    },
  }
}

const wordMark = '▁'

/** `tokenizer.ggml.model` = llama: SentencePiece, whose merges are all splits of a piece into two others, best score first. */
function sentencePiece(metadata: GgufMetadata, vocabulary: Vocabulary, facts: GgufTokenizer['facts']): Body {
  const { tokens } = vocabulary
  const scores = numbersOf(metadata, 'tokenizer.ggml.scores', tokens.length)
  if (!scores) throw new DomainError('NO_TOKENIZER', 'tokenizer.ggml.scores is missing; SentencePiece needs it')
  const prefix = metadata.get('tokenizer.ggml.add_space_prefix') !== false
  const unknown = facts.unknownTokenId ?? tokens.findIndex((_, id) => vocabulary.typeOf(id) === tokenType.unknown)
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: wordMark }
  const marks = { type: 'Replace', pattern: { String: wordMark }, content: ' ' }
  return {
    normalizer: prefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: wordMark }, spaces] } : spaces,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        marks,
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: tokens[unknown] ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: tokens.includes('<0x00>'),
      ignore_merges: false,
      merges: sentencePieceMerges(vocabulary, scores),
    },
  }
}

/** Merge list of a SentencePiece vocabulary (transformers' `generate_merges`): by the whole piece's score, then by the parts' ids. */
export function sentencePieceMerges({ tokens, typeOf }: Vocabulary, scores: ArrayLike<number>): [string, string][] {
  const mergeable = (id: number) => typeOf(id) === tokenType.normal || typeOf(id) === tokenType.userDefined
  const ids = new Map<string, number>()
  tokens.forEach((token, id) => {
    if (mergeable(id)) ids.set(token, id)
  })
  let work = 0
  for (const token of ids.keys()) work += token.length ** 2
  if (work > maximumMergeWork) {
    const longest = [...ids.keys()].reduce((most, token) => Math.max(most, token.length), 0)
    throw new DomainError(
      'INVALID_MODEL_FILE',
      `tokenizer.ggml.tokens: ${ids.size} pieces of up to ${longest} characters are more than merges can be derived from`,
    )
  }
  const found: { left: number; right: number; score: number }[] = []
  for (const [token, id] of ids) {
    const characters = [...token]
    const own: typeof found = []
    let left = ''
    for (const character of characters.slice(0, -1)) {
      left += character
      const leftId = ids.get(left)
      const rightId = ids.get(token.slice(left.length))
      if (leftId !== undefined && rightId !== undefined) own.push({ left: leftId, right: rightId, score: scores[id]! })
    }
    own.sort((a, b) => a.left - b.left || a.right - b.right)
    found.push(...own)
  }
  // Array.prototype.sort is stable: pieces of one score keep the vocabulary's order.
  found.sort((a, b) => b.score - a.score)
  return found.map(({ left, right }) => [tokens[left]!, tokens[right]!])
}
