// A model's tokenizer: Hugging Face tokenizer.json behind the few calls that inference and probing need.
import { Tokenizer } from '@huggingface/tokenizers'
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { runBounded, TookTooLong } from './run-bounded.js'

export interface ModelTokenizer {
  /** Whether a prompt begins with the BOS token. */
  readonly addBos: boolean
  readonly bosTokenId: number | undefined
  /** Generation stops at any of these. */
  readonly eosTokenIds: readonly number[]
  /** Text of named special tokens, as chat templates use them: `bos_token`, `eos_token`, … */
  readonly specialTokens: Readonly<Record<string, string>>
  /**
   * Ids of a text, without BOS. Special tokens written in the text become their ids, or with `specialAsText` those of the characters they are
   * written with, as in any other word.
   */
  encode(text: string, options?: { specialAsText?: boolean }): number[]
  /** The same with BOS in front where the tokenizer adds one, unless the text already begins with it. */
  encodePrompt(text: string): number[]
  /** Text of ids. Bytes that are no whole character become U+FFFD. */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string
}

type Json = Record<string, unknown>

/** A megabyte of text takes some three seconds; a regular expression that backtracks for ever stops here. */
const maximumMilliseconds = (characters: number) => 1000 + Math.ceil(characters / 50)

export interface TokenizerIds {
  addBos: boolean
  bosTokenId?: number | undefined
  eosTokenIds: readonly number[]
  padTokenId?: number | undefined
  unknownTokenId?: number | undefined
}

/** Builds a tokenizer from the files' JSON. Throws NO_TOKENIZER where the files describe something that is not read here. */
export function createTokenizer(tokenizerJson: Json, tokenizerConfig: Json, ids: TokenizerIds): ModelTokenizer {
  const tokenizer = parse(tokenizerJson, tokenizerConfig)
  const named = {
    bos_token: ids.bosTokenId,
    eos_token: ids.eosTokenIds[0],
    pad_token: ids.padTokenId,
    unk_token: ids.unknownTokenId,
  }
  const specialTokens: Record<string, string> = {}
  for (const [name, id] of Object.entries(named)) {
    const text = id === undefined ? undefined : tokenizer.id_to_token(id)
    if (text !== undefined) specialTokens[name] = text
  }
  // A vocabulary takes a while to be read: only for those who ask.
  let plain: Tokenizer | undefined
  const encode = (text: string, { specialAsText = false } = {}) => {
    if (specialAsText) plain ??= parse(withoutSpecial(tokenizerJson), tokenizerConfig)
    const own = (specialAsText && plain) || tokenizer
    return bounded(
      text.length,
      `a text of ${text.length} characters`,
      () => own.encode(text, { add_special_tokens: false }).ids,
    )
  }
  return {
    addBos: ids.addBos,
    bosTokenId: ids.bosTokenId,
    eosTokenIds: ids.eosTokenIds,
    specialTokens,
    encode,
    encodePrompt(text) {
      const encoded = encode(text)
      if (!ids.addBos || ids.bosTokenId === undefined || encoded[0] === ids.bosTokenId) return encoded
      return [ids.bosTokenId, ...encoded]
    },
    decode(tokenIds, { skipSpecialTokens = true } = {}) {
      if (tokenIds.length === 0) return ''
      // No clean-up of spaces before punctuation: what was generated is what people see.
      const options = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: false }
      return bounded(tokenIds.length, `${tokenIds.length} tokens`, () => tokenizer.decode([...tokenIds], options))
    },
  }
}

/** Patterns come from the model's files. Throws NO_TOKENIZER where they run away. */
function bounded<T>(length: number, what: string, work: () => T): T {
  try {
    return runBounded(work, maximumMilliseconds(length))
  } catch (cause) {
    if (!(cause instanceof TookTooLong)) throw cause
    throw new DomainError('NO_TOKENIZER', `The tokenizer did not come to an end with ${what}: ${cause.message}`, {
      cause,
    })
  }
}

/** tokenizer.json may leave these out or null; the library wants them named. */
const optionalParts = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null }

/** The same tokenizer without its special tokens; other added tokens are still found whole. */
function withoutSpecial(tokenizerJson: Json): Json {
  const added = Array.isArray(tokenizerJson.added_tokens) ? (tokenizerJson.added_tokens as Json[]) : []
  return { ...tokenizerJson, added_tokens: added.filter(token => token.special !== true) }
}

function parse(tokenizerJson: Json, tokenizerConfig: Json): Tokenizer {
  try {
    const preTokenizer = withUnicodeDigits(tokenizerJson.pre_tokenizer)
    return new Tokenizer({ ...optionalParts, ...tokenizerJson, pre_tokenizer: preTokenizer }, tokenizerConfig)
  } catch (cause) {
    throw new DomainError('NO_TOKENIZER', `tokenizer.json is not read here: ${(cause as Error).message}`, { cause })
  }
}

/** `Digits` means every Unicode number in the Rust library but 0-9 in this one (0.2.0); the same rule as a Split means it here too. */
function withUnicodeDigits(preTokenizer: unknown): unknown {
  if (typeof preTokenizer !== 'object' || preTokenizer === null) return null
  const rule = preTokenizer as Json
  if (rule.type === 'Sequence' && Array.isArray(rule.pretokenizers)) {
    return { ...rule, pretokenizers: rule.pretokenizers.map(withUnicodeDigits) }
  }
  if (rule.type !== 'Digits') return rule
  const regex = rule.individual_digits ? '\\p{N}' : '\\p{N}+'
  return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }
}

/** The tokenizer of a manifest. Throws NO_TOKENIZER where it has none or one that is not read here, PAYLOAD_MISSING. */
export async function loadTokenizer(
  manifest: Pick<Manifest, 'tokenizer' | 'sourceName'>,
  payloads: Pick<PayloadStore, 'get'>,
): Promise<ModelTokenizer> {
  const { tokenizer } = manifest
  if (!tokenizer) {
    throw new DomainError('NO_TOKENIZER', `Model ${manifest.sourceName ?? '(unnamed)'} came without a tokenizer`)
  }
  const read = async (hash: string, name: string): Promise<Json> => {
    try {
      return JSON.parse(Buffer.from(await payloads.get(hash)).toString('utf8')) as Json
    } catch (cause) {
      if (cause instanceof DomainError) throw cause
      throw new DomainError('NO_TOKENIZER', `${name} is not JSON: ${(cause as Error).message}`, { cause })
    }
  }
  const json = await read(tokenizer.tokenizerJson, 'tokenizer.json')
  const config = tokenizer.tokenizerConfig ? await read(tokenizer.tokenizerConfig, 'tokenizer_config.json') : {}
  return createTokenizer(json, config, tokenizer)
}
