import { existsSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import { type GgufMetadata, readGguf } from '../../../../compute/formats/gguf.js'
import { ggufTokenizer } from '../../../../compute/formats/gguf-tokenizer.js'
import { fileAccess } from '../../../../compute/formats/random-access.js'
import { createTokenizer, loadTokenizer, type ModelTokenizer } from '../../../../compute/formats/tokenizer.js'
import { sharedFile } from '../../../testkit/shared-files.js'

const readJson = (path: string) => JSON.parse(readFileSync(path, 'utf8'))
const smollm2 = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
const small = ['stories260K', 'babyllama-tok105', 'aidreams260K']
const present = existsSync(smollm2)
if (!present) console.warn(`Tokenizer references skipped: ${smollm2} is not there`)

interface ReferenceString {
  text: string
  ids: number[]
  idsNoBos: number[]
  decoded: string
  decodedWithSpecial: string
  decodedSkipSpecial?: string
  idsSpecialAsText?: number[]
}

describe.runIf(present)('tokenizer.json of the small models', () => {
  test.each(small)('%s: ids and texts equal the reference on every string', name => {
    const tokenizer = createTokenizer(
      readJson(sharedFile('models', name, 'tokenizer.json')),
      {},
      {
        addBos: true,
        bosTokenId: 1,
        eosTokenIds: [2],
      },
    )
    const { strings } = readJson(sharedFile('reference', `tokenizer_${name}.json`)) as { strings: ReferenceString[] }
    expect(strings.map(s => tokenizer.encode(s.text))).toEqual(strings.map(s => s.idsNoBos))
    expect(strings.map(s => tokenizer.decode(s.ids))).toEqual(strings.map(s => s.decoded))
    expect(strings.map(s => tokenizer.decode(s.ids, { skipSpecialTokens: false }))).toEqual(
      strings.map(s => s.decodedWithSpecial),
    )
  })

  test('a prompt begins with one BOS, also where the text has it already', () => {
    const tokenizer = createTokenizer(
      readJson(sharedFile('models', 'stories260K', 'tokenizer.json')),
      {},
      {
        addBos: true,
        bosTokenId: 1,
        eosTokenIds: [2],
      },
    )
    expect(tokenizer.encodePrompt('Once upon a time')).toEqual([1, 403, 407, 261, 378])
    expect(tokenizer.encodePrompt('<s>Once upon a time')).toEqual([1, 403, 407, 261, 378])
    expect(tokenizer.specialTokens).toEqual({ bos_token: '<s>', eos_token: '</s>' })
  })
})

describe.runIf(present)('GGUF metadata', () => {
  let metadata: GgufMetadata
  let tokenizer: ModelTokenizer
  let built: NonNullable<ReturnType<typeof ggufTokenizer>>

  beforeAll(async () => {
    const file = await open(smollm2)
    metadata = (await readGguf(fileAccess(file, (await file.stat()).size, 'smollm2.gguf'))).metadata
    await file.close()
    built = ggufTokenizer(metadata)!
    // Through text, as it is stored.
    tokenizer = createTokenizer(JSON.parse(JSON.stringify(built.tokenizerJson)), built.tokenizerConfig, built.facts)
  })

  test('SmolLM2: ids and texts equal the reference on every string', () => {
    const { strings } = readJson(sharedFile('reference', 'tokenizer_smollm2.json')) as { strings: ReferenceString[] }
    expect(strings.map(s => tokenizer.encodePrompt(s.text))).toEqual(strings.map(s => s.ids))
    expect(strings.map(s => tokenizer.decode(s.ids, { skipSpecialTokens: false }))).toEqual(strings.map(s => s.decoded))
    expect(strings.map(s => tokenizer.decode(s.ids))).toEqual(strings.map(s => s.decodedSkipSpecial ?? s.decoded))
  })

  test('SmolLM2: special tokens written in a text become the ids of their characters where that is asked for', () => {
    const { strings } = readJson(sharedFile('reference', 'tokenizer_smollm2.json')) as { strings: ReferenceString[] }
    expect(strings.filter(s => s.idsSpecialAsText).length).toBeGreaterThan(5)
    expect(strings.map(s => tokenizer.encode(s.text, { specialAsText: true }))).toEqual(
      strings.map(s => s.idsSpecialAsText ?? s.ids),
    )
  })

  test('SmolLM2: special ids are those of the file', () => {
    expect(built.facts).toEqual({
      kind: 'BPE',
      vocabularySize: 49152,
      bosTokenId: 1,
      eosTokenIds: [2, 0],
      padTokenId: 2,
      unknownTokenId: 0,
      addBos: false,
    })
  })

  test('an unknown pre rule is named', () => {
    const changed = new Map(metadata).set('tokenizer.ggml.pre', 'no-such-rule')
    expect(() => ggufTokenizer(changed)).toThrow(/tokenizer.ggml.pre "no-such-rule" is not read here/)
  })

  test('an unknown tokenizer kind is named', () => {
    const changed = new Map(metadata).set('tokenizer.ggml.model', 'bert')
    expect(() => ggufTokenizer(changed)).toThrow(/"bert" is not read here/)
  })

  test('a token type list of the wrong length is refused with both numbers', () => {
    const changed = new Map(metadata).set('tokenizer.ggml.token_type', new Int32Array(3))
    expect(() => ggufTokenizer(changed)).toThrow('tokenizer.ggml.token_type: 3 entries, expected 49152 numbers')
  })

  test('a file without tokenizer keys has none', () => {
    expect(ggufTokenizer(new Map())).toBeUndefined()
  })
})

/** Scores of a llama2.c tokenizer file: maximum length, then (float score, int length, bytes) for each token. */
function llama2cScores(path: string, count: number): Float32Array {
  const bytes = readFileSync(path)
  const scores = new Float32Array(count)
  let at = 4
  for (let id = 0; id < count; id++) {
    scores[id] = bytes.readFloatLE(at)
    at += 8 + bytes.readInt32LE(at + 4)
  }
  return scores
}

describe.runIf(present)('SentencePiece from GGUF metadata', () => {
  test.each(['stories260K', 'aidreams260K'])('%s: rebuilt from pieces and scores, ids equal the reference', name => {
    const vocab = readJson(sharedFile('models', name, 'tokenizer.json')).model.vocab as Record<string, number>
    const tokens = Object.entries(vocab)
      .sort((a, b) => a[1] - b[1])
      .map(([token]) => token)
    const typeOf = (token: string, id: number) => (id === 0 ? 2 : id < 3 ? 3 : /^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1)
    const built = ggufTokenizer(
      new Map<string, string | string[] | number | Float32Array | Int32Array>([
        ['tokenizer.ggml.model', 'llama'],
        ['tokenizer.ggml.tokens', tokens],
        ['tokenizer.ggml.scores', llama2cScores(sharedFile('models', name, 'tok512.bin'), tokens.length)],
        ['tokenizer.ggml.token_type', Int32Array.from(tokens, typeOf)],
        ['tokenizer.ggml.bos_token_id', 1],
        ['tokenizer.ggml.eos_token_id', 2],
        ['tokenizer.ggml.unknown_token_id', 0],
      ]),
    )!
    expect(built.facts).toMatchObject({ kind: 'SentencePiece', addBos: true, eosTokenIds: [2] })
    const tokenizer = createTokenizer(built.tokenizerJson, built.tokenizerConfig, built.facts)
    const { strings } = readJson(sharedFile('reference', `tokenizer_${name}.json`)) as { strings: ReferenceString[] }
    expect(strings.map(s => tokenizer.encode(s.text))).toEqual(strings.map(s => s.idsNoBos))
    expect(strings.map(s => tokenizer.decode(s.ids))).toEqual(strings.map(s => s.decoded))
  })
})

describe.runIf(present)('the Llama 2 vocabulary of a GGUF file', () => {
  test.each([
    ['Hello world', [15043, 3186]],
    ['The quick brown fox', [450, 4996, 17354, 1701, 29916]],
    ['<s>x</s>', [1, 921, 2]],
    ['\u0001', [29871, 4]],
  ])('%j has the ids that Llama 2 is known to give', async (text, ids) => {
    const file = await open(sharedFile('models', 'llama-2-tiny-random-gguf', 'llama-2-tiny-random.gguf'))
    const { metadata } = await readGguf(fileAccess(file, (await file.stat()).size, 'llama-2.gguf'))
    await file.close()
    const { tokenizerJson, tokenizerConfig, facts } = ggufTokenizer(metadata)!
    const tokenizer = createTokenizer(tokenizerJson, tokenizerConfig, facts)
    expect(tokenizer.encode(text)).toEqual(ids)
    expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text.replace('<s>', '<s> '))
  })
})

describe('a manifest without a tokenizer', () => {
  test('is refused by name', async () => {
    const payloads = { get: async () => new Uint8Array() }
    await expect(loadTokenizer({ sourceName: 'bare' }, payloads)).rejects.toThrow('Model bare came without a tokenizer')
  })

  test('a tokenizer.json that is no tokenizer is refused', () => {
    expect(() => createTokenizer({ model: { type: 'Mystery' } }, {}, { addBos: false, eosTokenIds: [] })).toThrow(
      /tokenizer.json is not read here/,
    )
  })

  test('GPT-2 merges split on the space between the parts', () => {
    const built = ggufTokenizer(
      new Map<string, string | string[]>([
        ['tokenizer.ggml.model', 'gpt2'],
        ['tokenizer.ggml.pre', 'gpt-2'],
        ['tokenizer.ggml.tokens', ['a', 'b', 'ab', '__proto__']],
        ['tokenizer.ggml.merges', ['a b']],
      ]),
    )!
    const tokenizer = createTokenizer(JSON.parse(JSON.stringify(built.tokenizerJson)), {}, built.facts)
    expect(tokenizer.encode('abba')).toEqual([2, 1, 0])
    expect(tokenizer.decode([3])).toBe('__proto__')
  })
})
