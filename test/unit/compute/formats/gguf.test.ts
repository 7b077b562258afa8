// Reading GGUF: a sound file, every kind of hostile one, and any mutation of a sound one.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type GgufFile, readGguf } from '../../../../compute/formats/gguf.js'
import { ggufArchitecture, ggufDimensions, ggufMetadataJson } from '../../../../compute/formats/gguf-metadata.js'
import { memoryAccess } from '../../../../compute/formats/random-access.js'
import { DomainError } from '../../../../lib/errors.js'
import { type GgufSpec, ggufBytes, soundGguf } from '../../../testkit/weight-files.js'

const read = (bytes: Uint8Array): Promise<GgufFile> => readGguf(memoryAccess(bytes, 'x.gguf'))
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}
const [a, b] = soundGguf().tensors as [GgufSpec['tensors'][0], GgufSpec['tensors'][0]]

test('names, types, shapes (outermost first) and byte ranges are read', async () => {
  const bytes = ggufBytes()
  const file = await read(bytes)
  const start = bytes.length - 66
  expect(file).toMatchObject({ version: 3, alignment: 32, headerBytes: start })
  expect(file.tensors).toEqual([
    { name: 'blk.0.a', dtype: 'F32', shape: [2, 3], offset: start, bytes: 24 },
    { name: 'b', dtype: 'Q8_0', shape: [1, 32], offset: start + 32, bytes: 34 },
  ])
  expect(file.metadata.get('tokenizer.words')).toEqual(['a', 'ß', ''])
})

test('version 2 and another alignment are read', async () => {
  const spec = soundGguf()
  const file = await read(
    ggufBytes({
      version: 2,
      alignment: 64,
      metadata: [...spec.metadata, ['general.alignment', { type: 'u32', value: 64 }]],
      tensors: [a],
      data: Buffer.alloc(24),
    }),
  )
  expect(file.headerBytes % 64).toBe(0)
})

test('values of every kind arrive, those above 2^53 as bigint', async () => {
  const floats = Buffer.concat([Buffer.from([6, 0, 0, 0]), u64(2n), Buffer.from(new Float32Array([0.5, 2]).buffer)])
  const file = await read(
    ggufBytes({
      metadata: [
        ['big', { type: 'u64', value: 2n ** 60n }],
        ['small', { type: 'u64', value: 7n }],
        ['yes', { type: 'bool', value: true }],
        ['floats', { type: 'raw', typeId: 9, bytes: floats }],
      ],
    }),
  )
  expect(file.metadata.get('big')).toBe(2n ** 60n)
  expect(file.metadata.get('small')).toBe(7)
  expect(file.metadata.get('yes')).toBe(true)
  expect(file.metadata.get('floats')).toEqual(new Float32Array([0.5, 2]))
  expect(JSON.stringify(ggufMetadataJson(file.metadata))).toContain('"1152921504606846976"')
})

test('dimensions come from the keys of the architecture', async () => {
  const { metadata } = await read(ggufBytes())
  expect(ggufArchitecture(metadata)).toBe('pico')
  expect(ggufDimensions(metadata, 'x.gguf', 0, true)).toMatchObject({
    layerCount: 1,
    hiddenSize: 3,
    tiedEmbeddings: true,
  })
})

test('a dimension out of range is named with its value', async () => {
  const { metadata } = await read(
    ggufBytes({ metadata: [...soundGguf().metadata, ['pico.context_length', { type: 'u64', value: 2n ** 40n }]] }),
  )
  expect(() => ggufDimensions(metadata, 'x.gguf', 0, true)).toThrow(/context_length is 1099511627776/)
})

const deepList = Buffer.concat([
  ...Array.from({ length: 9 }, () => [Buffer.from([9, 0, 0, 0]), u64(1n)]).flat(),
  Buffer.alloc(64),
])

const hostile: [string, Uint8Array, RegExp][] = [
  ['an empty file', Buffer.alloc(0), /0 bytes/],
  ['wrong magic', ggufBytes({ magic: 'GGML' }), /begins with "GGML"/],
  ['an unknown version', ggufBytes({ version: 9 }), /version 9/],
  ['big-endian byte order', ggufBytes({ version: 0x03000000 }), /big-endian/],
  ['a huge tensor count', ggufBytes({ tensorCount: 150_000n }), /tensor count is 150000, more than the \d+ bytes left/],
  ['a tensor count beyond 2^53', ggufBytes({ tensorCount: 2n ** 63n }), /tensor count is 9223372036854775808/],
  ['a huge metadata count', ggufBytes({ keyCount: 2n ** 40n }), /metadata count is 1099511627776/],
  ['no tensors', ggufBytes({ tensors: [], data: Buffer.alloc(0) }), /tensor count is 0/],
  [
    'a text longer than the file',
    ggufBytes({ metadata: [['k', { type: 'raw', typeId: 8, bytes: u64(10_000_000n) }]] }),
    /"?k"? ends at byte/,
  ],
  [
    'a list longer than the file',
    ggufBytes({
      metadata: [['k', { type: 'raw', typeId: 9, bytes: Buffer.concat([Buffer.from([4, 0, 0, 0]), u64(2n ** 26n)]) }]],
    }),
    /length of k is 67108864/,
  ],
  [
    'deeply nested lists',
    ggufBytes({ metadata: [['k', { type: 'raw', typeId: 9, bytes: deepList }]] }),
    /nested deeper than 4/,
  ],
  [
    'an unknown value type',
    ggufBytes({ metadata: [['k', { type: 'raw', typeId: 77, bytes: u64(0n) }]] }),
    /value type 77/,
  ],
  [
    'a key that appears twice',
    ggufBytes({
      metadata: [
        ['k', { type: 'u32', value: 1 }],
        ['k', { type: 'u32', value: 2 }],
      ],
    }),
    /key k appears twice/,
  ],
  ['a tensor that appears twice', ggufBytes({ tensors: [a, { ...b, name: a.name }] }), /blk\.0\.a appears twice/],
  ['overlapping tensors', ggufBytes({ tensors: [{ ...a, dimensions: [3, 4] }, b] }), /inside another tensor/],
  ['an offset outside the file', ggufBytes({ tensors: [a, { ...b, offset: 3200 }] }), /but the tensor data lies/],
  [
    'an offset beyond 2^53',
    ggufBytes({ tensors: [a, { ...b, offset: 2n ** 63n }] }),
    /offset of b is 9223372036854775808/,
  ],
  ['an offset off the alignment', ggufBytes({ tensors: [{ ...a, offset: 4 }, b] }), /offset 4 is no multiple/],
  ['a negative dimension', ggufBytes({ tensors: [{ ...a, dimensions: [3, -2] }, b] }), /18446744073709551614/],
  [
    'dimensions whose product overflows',
    ggufBytes({ tensors: [{ ...a, dimensions: [2 ** 30, 2 ** 30] }, b] }),
    /more than 2\^53 elements/,
  ],
  [
    'too many dimensions',
    ggufBytes({ tensors: [{ ...a, dimensions: [1, 1, 1, 1, 1, 1, 1, 1, 1] }, b] }),
    /9 dimensions/,
  ],
  ['rows that are no whole blocks', ggufBytes({ tensors: [a, { ...b, dimensions: [16, 2] }] }), /rows of 16 elements/],
  ['an unknown tensor type', ggufBytes({ tensors: [{ ...a, typeId: 999 }, b] }), /ggml type 999/],
  [
    'an alignment of three',
    ggufBytes({ metadata: [['general.alignment', { type: 'u32', value: 3 }]] }),
    /general\.alignment is 3/,
  ],
  ['a file cut in its data', ggufBytes().subarray(0, ggufBytes().length - 1), /but the tensor data lies/],
  ['a file cut in its header', ggufBytes().subarray(0, 100), /but the file has 100 bytes/],
  ['a large unclaimed tail', ggufBytes({ data: Buffer.alloc(66 + 1024 * 1024 + 1) }), /belong to no tensor/],
]

describe('refuses', () => {
  for (const [what, bytes, message] of hostile) {
    test(what, async () => {
      const error = await read(bytes).catch(e => e)
      expect(error).toBeInstanceOf(DomainError)
      expect(error.message).toMatch(message)
    })
  }
})

test('any mutation either parses or is refused, quickly', async () => {
  const sound = ggufBytes()
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(sound.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 }),
      fc.nat(sound.length),
      fc.boolean(),
      async (edits, cut, shorten) => {
        const bytes = Buffer.from(shorten ? sound.subarray(0, cut) : sound)
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value
        const started = performance.now()
        try {
          const file = await read(bytes)
          for (const t of file.tensors) expect(t.offset + t.bytes).toBeLessThanOrEqual(bytes.length)
        } catch (error) {
          expect(error).toBeInstanceOf(DomainError)
        }
        expect(performance.now() - started).toBeLessThan(2000)
      },
    ),
    { numRuns: 3000 },
  )
})
