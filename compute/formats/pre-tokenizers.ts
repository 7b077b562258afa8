// GGUF's `tokenizer.ggml.pre` names a rule that splits text before BPE; the file holds only the name, so the rules are here.

type Json = Record<string, unknown>

export interface PreTokenizerRule {
  preTokenizer: Json
  normalizer?: Json
  /** A whole piece that is in the vocabulary is taken as it is, without merging. */
  ignoreMerges?: boolean
}

const byteLevel = (useRegex: boolean): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})
const split = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
})
const sequence = (...pretokenizers: Json[]): Json => ({ type: 'Sequence', pretokenizers })

/** GPT-2's own expression lies inside ByteLevel. */
const gpt2: PreTokenizerRule = { preTokenizer: byteLevel(true) }

/** Every number character alone, then GPT-2's expression. */
const digitsFirst: PreTokenizerRule = {
  preTokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)),
}

/** Words, numbers of at most `digits` digits, punctuation with its line breaks, white space (tiktoken's cl100k form). */
const cl100k = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

const qwen2: PreTokenizerRule = {
  normalizer: { type: 'NFC' },
  preTokenizer: sequence(split(cl100k('\\p{N}')), byteLevel(false)),
}
const llama3: PreTokenizerRule = {
  preTokenizer: sequence(split(cl100k('\\p{N}{1,3}')), byteLevel(false)),
  ignoreMerges: true,
}

/** llama.cpp's rule for files that name none. */
const unnamed: PreTokenizerRule = {
  preTokenizer: sequence(
    split('[\\p{P}\\$\\+<=>\\^~\\|]+'),
    split("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
    split('\\p{N}+'),
    split('[0-9][0-9][0-9]'),
    byteLevel(false),
  ),
}

/** Names as in llama.cpp's src/llama-vocab.cpp. */
export const preTokenizers: Readonly<Record<string, PreTokenizerRule>> = {
  default: unnamed,
  'gpt-2': gpt2,
  'phi-2': gpt2,
  mpt: gpt2,
  olmo: gpt2,
  'roberta-bpe': gpt2,
  smollm: digitsFirst,
  starcoder: digitsFirst,
  refact: digitsFirst,
  'command-r': digitsFirst,
  codeshell: digitsFirst,
  qwen2,
  stablelm2: qwen2,
  'deepseek-r1-qwen': qwen2,
  'llama-bpe': llama3,
  llama3,
  'llama-v3': llama3,
  'smaug-bpe': llama3,
  dbrx: llama3,
  falcon3: llama3,
}
