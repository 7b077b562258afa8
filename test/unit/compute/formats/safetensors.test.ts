// Reading and writing SafeTensors: sound files, hostile ones, any mutation of a sound one.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { memoryAccess } from '../../../../compute/formats/random-access.js'
import { readSafetensors, writeSafetensorsHeader } from '../../../../compute/formats/safetensors.js'
import { parseShardIndex } from '../../../../compute/formats/shard-index.js'
import { DomainError } from '../../../../lib/errors.js'
import { safetensorsBytes, soundSafetensors } from '../../../testkit/weight-files.js'

const read = (bytes: Uint8Array) => readSafetensors(memoryAccess(bytes, 'x.safetensors'))

test('what is written is read back, with data on a multiple of 8', async () => {
  const file = await read(soundSafetensors())
  expect(file.headerBytes % 8).toBe(0)
  expect(file.metadata).toEqual({ format: 'pt' })
  expect(file.tensors).toEqual([
    { name: 'w', dtype: 'F32', shape: [2, 2], offset: file.headerBytes, bytes: 16 },
    { name: 'layers.0.v', dtype: 'BF16', shape: [3], offset: file.headerBytes + 16, bytes: 6 },
  ])
})

test('scalars, empty tensors and odd names are tensors', async () => {
  const specs = [
    { name: '__proto__', dtype: 'F32', shape: [], bytes: 4 },
    { name: 'empty', dtype: 'F16', shape: [0, 7], bytes: 0 },
    { name: 'constructor', dtype: 'U8', shape: [2], bytes: 2 },
  ]
  const file = await read(Buffer.concat([writeSafetensorsHeader(specs), Buffer.alloc(6)]))
  expect(file.tensors.map(t => t.name).sort()).toEqual(['__proto__', 'constructor', 'empty'])
})

const one = (change: Record<string, unknown>) => ({
  w: { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16], ...change },
})

const invalidUtf8 = safetensorsBytes('{"?":1}', 0)
invalidUtf8[10] = 0xff

const hostile: [string, Uint8Array, RegExp][] = [
  ['an empty file', Buffer.alloc(0), /0 bytes/],
  ['a header longer than the file', safetensorsBytes(one({}), 16, 5000n), /header length 5000, but the file has/],
  ['a header length beyond 2^53', safetensorsBytes(one({}), 16, 2n ** 64n - 1n), /header length 18446744073709551615/],
  ['a header that is no JSON', safetensorsBytes('{"w": ', 16), /not valid JSON/],
  ['a header that is no object', safetensorsBytes('["w"]', 16), /does not begin with "\{"/],
  [
    'deep JSON',
    safetensorsBytes(`{"w":${'['.repeat(100_000)}${']'.repeat(100_000)}}`, 0),
    /nested deeper than 4 levels at byte \d+/,
  ],
  ['invalid UTF-8', invalidUtf8, /not valid UTF-8/],
  [
    'a tensor that appears twice',
    safetensorsBytes(
      '{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0077":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      2,
    ),
    /"w" appears twice/,
  ],
  ['an unknown type', safetensorsBytes(one({ dtype: 'F33' }), 16), /unknown dtype F33/],
  ['a type named like a method', safetensorsBytes(one({ dtype: 'toString' }), 16), /unknown dtype toString/],
  ['a negative dimension', safetensorsBytes(one({ shape: [-2, 2] }), 16), /shape\[0\] is -2/],
  ['a fractional dimension', safetensorsBytes(one({ shape: [2.5, 2] }), 16), /shape\[0\] is 2\.5/],
  [
    'dimensions whose product overflows',
    safetensorsBytes(one({ shape: [2 ** 40, 2 ** 40] }), 16),
    /more than 2\^53 elements/,
  ],
  [
    'bytes that do not fit the shape',
    safetensorsBytes(one({ shape: [2, 3] }), 16),
    /hold 16 bytes, F32 \[2,3\] needs 24/,
  ],
  ['offsets the wrong way round', safetensorsBytes(one({ data_offsets: [16, 0] }), 16), /hold -16 bytes/],
  ['a negative offset', safetensorsBytes(one({ data_offsets: [-16, 0] }), 16), /data_offsets is \[-16,0\]/],
  ['an offset outside the file', safetensorsBytes(one({ data_offsets: [1000, 1016] }), 16), /but the tensor data lies/],
  ['a gap', safetensorsBytes(one({ data_offsets: [4, 20] }), 20), /expected \d+ \(no gaps\)/],
  ['trailing bytes', safetensorsBytes(one({}), 17), /tensors end at byte/],
  ['a truncated file', soundSafetensors().subarray(0, -1), /but the tensor data lies/],
  [
    'overlapping tensors',
    safetensorsBytes({ ...one({}), v: { dtype: 'F32', shape: [2], data_offsets: [8, 16] } }, 16),
    /inside another tensor/,
  ],
  [
    'metadata that is no text',
    safetensorsBytes({ ...one({}), __metadata__: { a: 1 } }, 16),
    /__metadata__\.a is not a string/,
  ],
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

test('any mutation either parses or is refused', async () => {
  const sound = soundSafetensors()
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(sound.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: -30, max: 0 }),
      async (edits, cut) => {
        const bytes = Buffer.from(cut < 0 ? sound.subarray(0, cut) : sound)
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value
        await read(bytes).catch(error => expect(error).toBeInstanceOf(DomainError))
      },
    ),
    { numRuns: 3000 },
  )
})

describe('the shard index', () => {
  const parse = (value: unknown) => parseShardIndex(Buffer.from(JSON.stringify(value)), 'index.json')

  test('names every shard once', () => {
    const { files, weightMap } = parse({ weight_map: { a: '1.safetensors', b: '2.safetensors', c: '1.safetensors' } })
    expect(files).toEqual(['1.safetensors', '2.safetensors'])
    expect(weightMap.get('c')).toBe('1.safetensors')
  })

  for (const name of [
    '../etc/passwd',
    '/etc/x.safetensors',
    'a/b.safetensors',
    '..\\x.safetensors',
    'x.bin',
    '.safetensors',
    5,
  ]) {
    test(`refuses the shard ${name}`, () => {
      expect(() => parse({ weight_map: { w: name } })).toThrow(DomainError)
    })
  }

  test('refuses an empty map', () => {
    expect(() => parse({ weight_map: {} })).toThrow(/names 0 tensors/)
  })
})
