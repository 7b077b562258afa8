// Quantisation against gguf-py's bytes, bit for bit; halves against their table.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { dequantize, halfToFloat } from '../../../../compute/formats/dequantize.js'
import { floatToBfloat, floatToHalf } from '../../../../compute/formats/half.js'
import { canQuantize, quantize } from '../../../../compute/formats/quantize.js'
import { projectFile } from '../../../../lib/project.js'

interface Golden {
  float32: string
  types: Record<string, string>
}
const golden: Golden = JSON.parse(readFileSync(projectFile('test/fixtures/formats/quantize.json'), 'utf8'))
const values = new Float32Array(new Uint8Array(Buffer.from(golden.float32, 'base64')).buffer)

describe('quantize', () => {
  test.each(Object.entries(golden.types))('%s gives the bytes gguf-py gives', (name, bytes) => {
    expect(Buffer.from(quantize(name, values)).toString('base64')).toBe(bytes)
  })

  test('what was quantised once stays as it is', () => {
    const waves = Float32Array.from({ length: 512 }, (_, i) => Math.sin(i) * 2 ** (i % 7))
    for (const name of ['Q8_0', 'F16', 'BF16', 'F32']) {
      const once = quantize(name, waves)
      const read = new Float32Array(waves.length)
      dequantize(name, once, read)
      expect(Buffer.from(quantize(name, read)).equals(Buffer.from(once)), name).toBe(true)
    }
  })

  test('not a number is refused by its place, a cut block by its size, other types by name', () => {
    const broken = values.slice()
    broken[40] = Number.NaN
    expect(() => quantize('Q4_0', broken)).toThrow('element 40 is NaN')
    expect(() => quantize('Q4_0', values.subarray(0, 33))).toThrow('33 elements')
    expect(canQuantize('Q6_K')).toBe(false)
    expect(() => quantize('Q6_K', values)).toThrow('Q6_K')
  })
})

test('every half-precision number is its own rounding', () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = halfToFloat(bits)
    if (Number.isNaN(value)) expect(floatToHalf(value) & 0x7c00).toBe(0x7c00)
    else if (floatToHalf(value) !== bits) expect(floatToHalf(value)).toBe(bits)
  }
})

test('halfway between two halves the even one is taken; too large is infinite', () => {
  expect(floatToHalf(1 + 2 ** -11)).toBe(0x3c00)
  expect(floatToHalf(1 + 3 * 2 ** -11)).toBe(0x3c02)
  expect(floatToHalf(2 ** -25)).toBe(0)
  expect(floatToHalf(3 * 2 ** -25)).toBe(2)
  expect(floatToHalf(65519)).toBe(0x7bff)
  expect(floatToHalf(65520)).toBe(0x7c00)
  expect(floatToHalf(-1e9)).toBe(0xfc00)
  expect(floatToBfloat(Number.NaN) & 0x7fc0).toBe(0x7fc0)
})
