import { describe, expect, test } from 'vitest'
import { renderChat } from '../../../../compute/inference/chat.js'
import { sampleToken, seededRandom } from '../../../../compute/inference/sampling.js'
import { stopFilter, textStream } from '../../../../compute/inference/text-stream.js'

/** A byte tokenizer: an id is a byte, text is UTF-8, and the space that begins a text is dropped as SentencePiece decoders do. */
const bytes = {
  decode: (ids: readonly number[]) =>
    new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(ids)).replace(/^ /, ''),
}

describe('textStream', () => {
  test('never emits half a character', () => {
    const text = 'añ 👩‍👩‍👧 ok'
    const stream = textStream(bytes, [])
    const pieces = [...Buffer.from(text)].map(byte => stream.push(byte))
    expect(pieces.every(piece => !piece.includes('\ufffd'))).toBe(true)
    expect(pieces.join('') + stream.flush()).toBe(text)
  })

  test('keeps the space that begins a continuation', () => {
    const stream = textStream(bytes, [...Buffer.from('The capital of France is')])
    expect([...Buffer.from(' Paris')].map(byte => stream.push(byte)).join('')).toBe(' Paris')
  })

  test('bytes that never become a character are shown as U+FFFD at the end', () => {
    const stream = textStream(bytes, [])
    expect(stream.push(0xe2)).toBe('')
    expect(stream.push(0x82)).toBe('')
    expect(stream.flush()).toBe('\ufffd')
    expect(stream.flush()).toBe('')
  })
})

describe('stopFilter', () => {
  const run = (stops: string[], pieces: string[]) => {
    const filter = stopFilter(stops)
    let text = ''
    for (const piece of pieces) {
      const shown = filter.push(piece)
      text += shown.text
      if (shown.stopped) return { text, stopped: true }
    }
    return { text: text + filter.flush(), stopped: false }
  }
  test.each([
    [['###'], ['a', '#', '#', '#', 'b'], 'a', true],
    [['###'], ['a##', 'b'], 'a##b', false],
    [['\n\n', 'END'], ['one\n', 'two EN', 'D three'], 'one\ntwo ', true],
    [['ab', 'b'], ['xxab'], 'xx', true],
    [[], ['anything'], 'anything', false],
    [['aab'], ['a', 'a', 'a', 'b'], 'a', true],
  ])('stops %j in %j', (stops, pieces, text, stopped) => {
    expect(run(stops, pieces)).toEqual({ text, stopped })
  })
})

describe('sampleToken', () => {
  const logits = Float32Array.from([0, 2, 1, -1, 2])

  test('temperature 0 takes the greatest, the first of equals', () => {
    expect(sampleToken(logits, { temperature: 0 }, () => 0.99)).toBe(1)
  })

  test('draws follow the softmax within three standard errors', () => {
    const random = seededRandom(5)
    const draws = 20000
    const counts = new Array<number>(logits.length).fill(0)
    for (let i = 0; i < draws; i++) counts[sampleToken(logits, { temperature: 0.7 }, random)]!++
    const weights = Array.from(logits, logit => Math.exp(logit / 0.7))
    const total = weights.reduce((a, b) => a + b, 0)
    counts.forEach((count, id) => {
      const p = weights[id]! / total
      expect(Math.abs(count / draws - p)).toBeLessThan(3 * Math.sqrt((p * (1 - p)) / draws))
    })
  })

  test('top-k keeps the k greatest, top-p the smallest set that reaches p', () => {
    const drawn = (options: { topK?: number; topP?: number }) => {
      const random = seededRandom(1)
      const ids = Array.from({ length: 500 }, () => sampleToken(logits, { temperature: 1, ...options }, random))
      return [...new Set(ids)].sort()
    }
    expect(drawn({ topK: 2 })).toEqual([1, 4])
    expect(drawn({ topK: 1 })).toEqual([1])
    // Probabilities 0.052 0.384 0.141 0.019 0.384.
    expect(drawn({ topP: 0.3 })).toEqual([1])
    expect(drawn({ topP: 0.5 })).toEqual([1, 4])
    expect(drawn({ topP: 0.8 })).toEqual([1, 2, 4])
    expect(drawn({ topP: 1 })).toEqual([0, 1, 2, 3, 4])
  })

  test('one seed, one sequence', () => {
    const [a, b, c] = [seededRandom(42), seededRandom(42), seededRandom(43)]
    const take = (random: () => number) => Array.from({ length: 5 }, random)
    const first = take(a)
    expect(take(b)).toEqual(first)
    expect(take(c)).not.toEqual(first)
  })
})

describe('renderChat', () => {
  test("a template's own refusal is BAD_USER_INPUT with its words", () => {
    const template = "{{ raise_exception('roles must alternate') }}"
    expect(() => renderChat(template, [{ role: 'user', content: 'x' }], {})).toThrow(/roles must alternate/)
  })

  test('special tokens are given to the template', () => {
    expect(
      renderChat('{{ bos_token }}{{ messages[0].content }}', [{ role: 'user', content: 'x' }], { bos_token: '<s>' }),
    ).toBe('<s>x')
  })
})
