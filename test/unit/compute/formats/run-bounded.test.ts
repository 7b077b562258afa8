import { expect, test } from 'vitest'
import { runBounded, TookTooLong } from '../../../../compute/formats/run-bounded.js'
import { createTokenizer } from '../../../../compute/formats/tokenizer.js'
import { renderChat } from '../../../../compute/inference/chat.js'

const messages = [{ role: 'user', content: 'Hi' }]

test('gives the work’s result and throws its errors', () => {
  expect(runBounded(() => 7, 1000)).toBe(7)
  expect(() =>
    runBounded(() => {
      throw new RangeError('own error')
    }, 1000),
  ).toThrow(RangeError)
})

test('ends a loop', () => {
  expect(() =>
    runBounded(() => {
      for (;;);
    }, 50),
  ).toThrow(TookTooLong)
})

test('a chat template that loops is refused within its time', () => {
  const loop = '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}'
  const began = performance.now()
  expect(() => renderChat(loop, messages, {})).toThrow(/still running after 1000 ms/)
  expect(performance.now() - began).toBeLessThan(5000)
})

test('a template that doubles a text without end is refused', () => {
  const grow =
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
  expect(() => renderChat(grow, messages, {})).toThrow(/chat template refuses/)
})

test('a tokenizer whose pattern backtracks for ever is refused with NO_TOKENIZER', () => {
  const tokenizer = createTokenizer(
    {
      pre_tokenizer: { type: 'Split', pattern: { Regex: '(a+)+$' }, behavior: 'Isolated', invert: false },
      model: { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [] },
    },
    {},
    { addBos: false, eosTokenIds: [] },
  )
  expect(tokenizer.encode('ab')).toEqual([0, 1])
  expect(() => tokenizer.encode(`${'a'.repeat(60)}b`)).toThrow(
    expect.objectContaining({ code: 'NO_TOKENIZER', message: expect.stringContaining('61 characters') }),
  )
})
