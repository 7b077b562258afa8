// Dequantisation against gguf-py's values, bit for bit.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { canDequantize, dequantize, halfToFloat } from '../../../../compute/formats/dequantize.js'
import { ggmlTypeByName, ggmlTypes } from '../../../../compute/formats/ggml-types.js'
import { projectFile } from '../../../../lib/project.js'

interface Golden {
  types: Record<string, { bytes: string; float32: string }>
}
const golden: Golden = JSON.parse(readFileSync(projectFile('test/fixtures/formats/dequantize.json'), 'utf8'))
const decode = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))

describe('dequantize', () => {
  for (const [name, { bytes, float32 }] of Object.entries(golden.types)) {
    test(`${name} gives the bits gguf-py gives`, () => {
      const expected = new Uint32Array(decode(float32).slice().buffer)
      const out = new Float32Array(expected.length)
      expect(dequantize(name, decode(bytes), out)).toBe(expected.length)
      expect(Array.from(new Uint32Array(out.buffer))).toEqual(Array.from(expected))
    })

    test(`${name} reads bytes that lie at an odd address`, () => {
      const source = decode(bytes)
      const shifted = new Uint8Array(source.length + 1)
      shifted.set(source, 1)
      const plain = new Float32Array(1024)
      const odd = new Float32Array(1024)
      dequantize(name, source, plain)
      dequantize(name, shifted.subarray(1), odd)
      expect(Buffer.from(odd.buffer).equals(Buffer.from(plain.buffer))).toBe(true)
    })
  }

  test('float32 passes through unchanged', () => {
    const values = new Float32Array([1.5, -0, Number.POSITIVE_INFINITY, 1e-45])
    const out = new Float32Array(4)
    dequantize('F32', new Uint8Array(values.buffer), out)
    expect(Array.from(out)).toEqual(Array.from(values))
  })

  test('a dtype that is only stored is named in the refusal', () => {
    expect(canDequantize('IQ2_XS')).toBe(false)
    expect(() => dequantize('IQ2_XS', new Uint8Array(74), new Float32Array(256))).toThrow(/IQ2_XS/)
  })

  test('half a block is refused with its size', () => {
    expect(() => dequantize('Q4_0', new Uint8Array(17), new Float32Array(32))).toThrow(/17 bytes of Q4_0/)
  })
})

test('half precision covers subnormals, infinities and NaN', () => {
  expect(halfToFloat(0x0001)).toBe(2 ** -24)
  expect(halfToFloat(0xfc00)).toBe(Number.NEGATIVE_INFINITY)
  expect(halfToFloat(0x7e00)).toBeNaN()
  expect(halfToFloat(0x3c00)).toBe(1)
})

test('the ggml table holds the block sizes that gguf-py lists', () => {
  // gguf-py 0.19 GGML_QUANT_SIZES; Q8_1 is 36 in ggml.c (two halves), which gguf-py overstates.
  const sizes: Record<string, [number, number]> = {
    Q2_K: [256, 84],
    Q3_K: [256, 110],
    Q8_K: [256, 292],
    IQ2_XXS: [256, 66],
    IQ1_S: [256, 50],
    IQ1_M: [256, 56],
    IQ4_XS: [256, 136],
    TQ1_0: [256, 54],
    TQ2_0: [256, 66],
    MXFP4: [32, 17],
    NVFP4: [64, 36],
    Q1_0: [128, 18],
  }
  for (const [name, [blockSize, blockBytes]] of Object.entries(sizes)) {
    expect(ggmlTypeByName(name)).toMatchObject({ blockSize, blockBytes })
  }
  expect(new Set(ggmlTypes.map(t => t.name)).size).toBe(ggmlTypes.length)
})
