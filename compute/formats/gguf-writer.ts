// The header of a new GGUF version 3 file (github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata and tensor table.
import { ggmlTypeByName, isGgmlType } from './ggml-types.js'
import { invalid, type TensorEntry } from './tensor-file.js'

/** A metadata value with the type it is written in. */
export type GgufEntry =
  | { u32: number }
  | { f32: number }
  | { bool: boolean }
  | { text: string }
  | { texts: readonly string[] }
  | { f32s: readonly number[] }
  | { i32s: readonly number[] }

/** ggml's default; tensors begin at multiples of it. */
export const ggufAlignment = 32
export const alignedBytes = (bytes: number) => Math.ceil(bytes / ggufAlignment) * ggufAlignment

const types = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 } as const

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
const u64 = (value: number) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
const f32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}
const text = (value: string) => {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.length), bytes])
}
const array = (type: number, length: number, items: Uint8Array) =>
  Buffer.concat([u32(types.array), u32(type), u64(length), items])
const raw = (values: Float32Array | Int32Array): Buffer =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength)

function encode(entry: GgufEntry): Buffer {
  if ('u32' in entry) return Buffer.concat([u32(types.u32), u32(entry.u32)])
  if ('f32' in entry) return Buffer.concat([u32(types.f32), f32(entry.f32)])
  if ('bool' in entry) return Buffer.concat([u32(types.bool), Buffer.from([entry.bool ? 1 : 0])])
  if ('text' in entry) return Buffer.concat([u32(types.text), text(entry.text)])
  if ('texts' in entry)
    return array(types.text, entry.texts.length, Buffer.concat(entry.texts.map(value => text(value))))
  if ('f32s' in entry) return array(types.f32, entry.f32s.length, raw(Float32Array.from(entry.f32s)))
  return array(types.i32, entry.i32s.length, raw(Int32Array.from(entry.i32s)))
}

/**
 * Everything before the tensor data. Tensors follow in this order, each filled up to `alignedBytes`.
 * @throws DomainError INVALID_MODEL_FILE for a type that ggml has no number for
 */
export function writeGgufHeader(
  metadata: ReadonlyMap<string, GgufEntry>,
  tensors: readonly Pick<TensorEntry, 'name' | 'dtype' | 'shape' | 'bytes'>[],
): Uint8Array {
  const parts: Uint8Array[] = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.size)]
  for (const [key, entry] of metadata) parts.push(text(key), encode(entry))
  let offset = 0
  for (const { name, dtype, shape, bytes } of tensors) {
    const type = ggmlTypeByName(dtype)
    if (!type || !isGgmlType(dtype)) throw invalid(`tensor ${name}: ggml has no type ${dtype}`)
    parts.push(text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type.id), u64(offset))
    offset += alignedBytes(bytes)
  }
  const header = Buffer.concat(parts)
  return Buffer.concat([header, Buffer.alloc(alignedBytes(header.length) - header.length)])
}
