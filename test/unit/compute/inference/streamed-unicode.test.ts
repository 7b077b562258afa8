// Whatever text a tokenizer cuts in whatever way: pieces are whole characters, and joined they are the text.
import { existsSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createTokenizer, type ModelTokenizer } from '../../../../compute/formats/tokenizer.js'
import { textStream } from '../../../../compute/inference/text-stream.js'
import { sharedFile } from '../../../testkit/shared-files.js'

/** GPT-2's characters for bytes (encoder.py, bytes_to_unicode): printable ones stand for themselves, others come after 255. */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
}

/** Byte-level BPE whose merges do not care where characters begin: F0 9F, 80 F0 9F, E2 82, 82 E2. */
function bytesTokenizer(): ModelTokenizer {
  const characters = byteCharacters()
  const pairs = [
    [[0xf0], [0x9f]],
    [[0x80], [0xf0, 0x9f]],
    [[0xe2], [0x82]],
    [[0xac], [0xe2, 0x82]],
    [[0xc3], [0xa9]],
  ].map(parts => parts.map(bytes => bytes!.map(byte => characters[byte]).join('')))
  const tokens = [...characters, ...pairs.map(pair => pair.join(''))]
  const json = {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: pairs.map(pair => pair.join(' ')),
    },
  }
  return createTokenizer(json, {}, { addBos: false, eosTokenIds: [] })
}

const pieces = (tokenizer: ModelTokenizer, ids: readonly number[], prompt: readonly number[] = []) => {
  const stream = textStream(tokenizer, prompt)
  return [...ids.map(id => stream.push(id)), stream.flush()]
}
/** No half of a surrogate pair at either end of a piece. */
const isWhole = (piece: string) => !/[\ud800-\udfff]/u.test(piece)

/** Random code points, and many of those whose bytes the merges above cut across. */
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.string({ unit: fc.constantFrom('🐀', '🀀', '€', '€', 'é', 'a', ' ', '\ufffd', '👩‍👩‍👧'), maxLength: 60 }),
)

function holds(tokenizer: ModelTokenizer, runs: number) {
  fc.assert(
    fc.property(text, fc.string({ unit: 'binary', maxLength: 6 }), (written, before) => {
      const ids = tokenizer.encode(written)
      const whole = tokenizer.decode(ids)
      const given = pieces(tokenizer, ids)
      expect(given.join('')).toBe(whole)
      expect(given.every(isWhole)).toBe(true)
      // A text without U+FFFD never shows one on the way, whatever came before.
      if (!whole.includes('\ufffd')) {
        const after = pieces(tokenizer, ids, tokenizer.encode(before))
        expect([...given, ...after].some(piece => piece.includes('\ufffd'))).toBe(false)
      }
    }),
    { numRuns: runs },
  )
}

describe('streamed text is whole characters', () => {
  test('tokens that end in the middle of one character and begin in the middle of another', () => {
    const tokenizer = bytesTokenizer()
    const ids = tokenizer.encode('🐀🐀€€€é')
    expect(ids.length).toBeLessThan(Buffer.from('🐀🐀€€€é').length)
    expect(pieces(tokenizer, ids).filter(piece => piece !== '')).toEqual(['🐀', '🐀', '€', '€', '€', 'é'])
    holds(tokenizer, 500)
  })

  test('any bytes whatever: joined, they are what decoding them at once gives', () => {
    const tokenizer = bytesTokenizer()
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 260 }), { maxLength: 80 }), ids => {
        const given = pieces(tokenizer, ids)
        expect(given.join('')).toBe(tokenizer.decode(ids))
        expect(given.every(isWhole)).toBe(true)
      }),
      { numRuns: 500 },
    )
  })

  test('endless bytes that are no characters do not pile up', () => {
    const tokenizer = bytesTokenizer()
    const stream = textStream(tokenizer, [])
    const given = Array.from({ length: 2000 }, () => stream.push(0xff))
    expect(given.join('').length + stream.flush().length).toBe(2000)
  })

  const names = ['babyllama-tok105', 'stories260K']
  const present = existsSync(sharedFile('models', names[0]!, 'tokenizer.json'))
  if (!present) console.warn('Streamed text of real tokenizers skipped: the shared models are not there')
  test.runIf(present).each(names)('%s, a tokenizer of real life', name => {
    const json = JSON.parse(readFileSync(sharedFile('models', name, 'tokenizer.json'), 'utf8'))
    const tokenizer = createTokenizer(json, {}, { addBos: true, bosTokenId: 1, eosTokenIds: [2] })
    holds(tokenizer, 150)
  })
})
