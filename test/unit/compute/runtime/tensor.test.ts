import { expect, test } from 'vitest'
import { finiteFloats, floats } from '../../../../compute/runtime/tensor.js'

const numbers = (length: number) => Float32Array.from({ length }, (_, i) => (i % 2 ? -3e38 : 3e38))

test('finite floats are given as they are, however great', () => {
  for (const length of [0, 1, 4, 7]) {
    const data = numbers(length)
    expect(finiteFloats(floats(data, [length]), 'x')).toBe(data)
  }
})

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('%s is found wherever it is', wrong => {
  for (let at = 0; at < 7; at++) {
    const data = numbers(7)
    data[at] = wrong
    expect(() => finiteFloats(floats(data, [7]), 'x')).toThrow(`x is ${wrong} at index ${at}`)
  }
})
