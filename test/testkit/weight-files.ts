// Small GGUF and SafeTensors files built byte by byte, sound by default and broken on demand.
import { writeSafetensorsHeader } from '../../compute/formats/safetensors.js'

type Value =
  | { type: 'u32'; value: number }
  | { type: 'u64'; value: bigint }
  | { type: 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'raw'; typeId: number; bytes: Buffer }

export interface GgufTensorSpec {
  name: string
  /** As in the file: innermost first. */
  dimensions: (number | bigint)[]
  typeId: number
  offset: number | bigint
}

export interface GgufSpec {
  magic: string
  version: number
  tensorCount?: bigint
  keyCount?: bigint
  metadata: [string, Value][]
  tensors: GgufTensorSpec[]
  alignment: number
  data: Buffer
}

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
const u64 = (value: number | bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)))
  return bytes
}
const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])

function encode(value: Value): Buffer {
  switch (value.type) {
    case 'u32':
      return Buffer.concat([u32(4), u32(value.value)])
    case 'u64':
      return Buffer.concat([u32(10), u64(value.value)])
    case 'f32': {
      const bytes = Buffer.alloc(4)
      bytes.writeFloatLE(value.value)
      return Buffer.concat([u32(6), bytes])
    }
    case 'bool':
      return Buffer.concat([u32(7), Buffer.from([value.value ? 1 : 0])])
    case 'string':
      return Buffer.concat([u32(8), text(value.value)])
    case 'strings':
      return Buffer.concat([u32(9), u32(8), u64(value.value.length), ...value.value.map(text)])
    case 'raw':
      return Buffer.concat([u32(value.typeId), value.bytes])
  }
}

/** Two tensors: `a` F32 [2, 3] and `b` Q8_0 [1, 32]. */
export const soundGguf = (): GgufSpec => ({
  magic: 'GGUF',
  version: 3,
  metadata: [
    ['general.architecture', { type: 'string', value: 'pico' }],
    ['pico.block_count', { type: 'u32', value: 1 }],
    ['pico.embedding_length', { type: 'u32', value: 3 }],
    ['tokenizer.words', { type: 'strings', value: ['a', 'ß', ''] }],
  ],
  tensors: [
    { name: 'blk.0.a', dimensions: [3, 2], typeId: 0, offset: 0 },
    { name: 'b', dimensions: [32, 1], typeId: 8, offset: 32 },
  ],
  alignment: 32,
  data: Buffer.from(Array.from({ length: 66 }, (_, i) => (i < 24 || i >= 32 ? i : 0))),
})

export function ggufBytes(change: Partial<GgufSpec> = {}): Buffer {
  const spec = { ...soundGguf(), ...change }
  const header = Buffer.concat([
    Buffer.from(spec.magic, 'latin1'),
    u32(spec.version),
    u64(spec.tensorCount ?? spec.tensors.length),
    u64(spec.keyCount ?? spec.metadata.length),
    ...spec.metadata.flatMap(([key, value]) => [text(key), encode(value)]),
    ...spec.tensors.flatMap(t => [
      text(t.name),
      u32(t.dimensions.length),
      ...t.dimensions.map(u64),
      u32(t.typeId),
      u64(t.offset),
    ]),
  ])
  const padding = Buffer.alloc((spec.alignment - (header.length % spec.alignment)) % spec.alignment)
  return Buffer.concat([header, padding, spec.data])
}

/** A SafeTensors file with this header (text or value) and so many data bytes. */
export function safetensorsBytes(header: unknown, dataBytes: number, statedLength?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  return Buffer.concat([u64(statedLength ?? json.length), json, Buffer.alloc(dataBytes, 7)])
}

/** `w` F32 [2, 2] and `layers.0.v` BF16 [3]. */
export const soundSafetensors = () =>
  Buffer.concat([
    writeSafetensorsHeader([
      { name: 'w', dtype: 'F32', shape: [2, 2], bytes: 16 },
      { name: 'layers.0.v', dtype: 'BF16', shape: [3], bytes: 6 },
    ]),
    Buffer.alloc(22, 3),
  ])
