// Hugging Face tokenizer files -> what a manifest says about the tokenizer.
import type { ManifestTokenizer } from '../../lib/manifest.js'
import { flagField, maximumDimension, objectField, textField } from './read-fields.js'
import { describeValue, invalid } from './tensor-file.js'

type Json = Record<string, unknown>

export interface HfTokenizerFiles {
  tokenizer: Json
  tokenizerConfig?: Json
  config?: Json
  generationConfig?: Json
}

export type TokenizerFacts = Omit<ManifestTokenizer, 'tokenizerJson' | 'tokenizerConfig'>

const isId = (value: unknown): value is number => typeof value === 'number' && Number.isInteger(value) && value >= 0

/** Ids bound the vocabulary, whose size is a dimension like others. */
const checkedId = (id: number): number => {
  if (id < maximumDimension) return id
  throw invalid(`tokenizer.json: token id ${describeValue(id)}, at most ${maximumDimension - 1}`)
}

interface AddedToken {
  id: number
  content: string
}

const addedTokens = (tokenizer: Json): AddedToken[] =>
  (Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : []).filter(
    (t): t is AddedToken => typeof t === 'object' && t !== null && isId(t.id) && typeof t.content === 'string',
  )

/** Token -> id over the vocabulary of any tokenizers model: an object, or Unigram's list of [token, score]. */
function vocabularyOf(tokenizer: Json): { size: number; idOf(token: string): number | undefined } {
  const vocab = objectField(tokenizer, 'model')?.vocab
  const added = addedTokens(tokenizer)
  let greatest = -1
  for (const { id } of added) greatest = Math.max(greatest, checkedId(id))
  const fromAdded = (token: string) => added.find(t => t.content === token)?.id
  if (Array.isArray(vocab)) {
    const indexOf = (token: string) => {
      const index = vocab.findIndex(entry => Array.isArray(entry) && entry[0] === token)
      return index < 0 ? undefined : index
    }
    return { size: Math.max(greatest + 1, vocab.length), idOf: token => fromAdded(token) ?? indexOf(token) }
  }
  const ids = (typeof vocab === 'object' && vocab !== null ? vocab : {}) as Json
  for (const id of Object.values(ids)) if (isId(id)) greatest = Math.max(greatest, checkedId(id))
  const idIn = (token: string) => {
    const id = Object.hasOwn(ids, token) ? ids[token] : undefined
    return isId(id) ? id : undefined
  }
  return { size: greatest + 1, idOf: token => fromAdded(token) ?? idIn(token) }
}

/** A special token of tokenizer_config.json: a text, or an object with `content`. */
const tokenText = (config: Json | undefined, key: string): string | undefined =>
  config && (textField(config, [key]) ?? textField(objectField(config, key) ?? {}, ['content']))

/** Whether the post-processor puts the BOS token before a single text. */
function templateBegins(
  processor: unknown,
  bos: number | undefined,
  idOf: (token: string) => number | undefined,
): boolean {
  if (typeof processor !== 'object' || processor === null) return false
  const { type, processors, single } = processor as Json
  if (type === 'Sequence' && Array.isArray(processors)) return processors.some(p => templateBegins(p, bos, idOf))
  if (type !== 'TemplateProcessing' || !Array.isArray(single)) return false
  const first = objectField(single[0] ?? {}, 'SpecialToken')
  const token = first && textField(first, ['id'])
  return token !== undefined && bos !== undefined && idOf(token) === bos
}

/** Facts of the tokenizer, or undefined where tokenizer.json has no vocabulary. */
export function hfTokenizer(files: HfTokenizerFiles): TokenizerFacts | undefined {
  const { tokenizer, tokenizerConfig, config, generationConfig } = files
  const { size, idOf } = vocabularyOf(tokenizer)
  if (size === 0) return undefined
  const idsOf = (key: string): number[] => {
    const ids = new Set<number>()
    for (const source of [generationConfig, config]) {
      const value = source?.[`${key}_id`]
      for (const id of Array.isArray(value) ? value : [value]) if (isId(id) && id < size) ids.add(id)
    }
    const text = tokenText(tokenizerConfig, key)
    const id = text === undefined ? undefined : idOf(text)
    if (id !== undefined) ids.add(id)
    return [...ids]
  }
  const model = objectField(tokenizer, 'model') ?? {}
  const [bosTokenId] = idsOf('bos_token')
  const unknown = textField(model, ['unk_token'])
  const pieces = model.type === 'Unigram' || flagField(model, 'byte_fallback') === true
  return {
    kind: pieces ? 'SentencePiece' : (textField(model, ['type']) ?? 'BPE'),
    vocabularySize: size,
    bosTokenId,
    // Every end that any of the files names stops a generation: chat models often name the end of turn in one place only.
    eosTokenIds: idsOf('eos_token'),
    padTokenId: idsOf('pad_token')[0],
    unknownTokenId: unknown === undefined ? undefined : idOf(unknown),
    addBos:
      templateBegins(tokenizer.post_processor, bosTokenId, idOf) ||
      (bosTokenId !== undefined &&
        tokenizerConfig !== undefined &&
        flagField(tokenizerConfig, 'add_bos_token') === true),
  }
}

/** chat_template.jinja first, else tokenizer_config.json's `chat_template`: a text, or a list with one named `default`. */
export function hfChatTemplate(tokenizerConfig: Json | undefined, jinja: string | undefined): string | undefined {
  if (jinja) return jinja
  const value = tokenizerConfig?.chat_template
  if (typeof value === 'string' && value !== '') return value
  if (!Array.isArray(value)) return undefined
  const named = value.find(t => typeof t === 'object' && t !== null && t.name === 'default') ?? value[0]
  return textField((named ?? {}) as Json, ['template'])
}
