// SafeTensors: 8 bytes header length, JSON header, tensor bytes without gaps (github.com/huggingface/safetensors).
import { DomainError } from '../../lib/errors.js'
import { parseJsonObject } from './json-scan.js'
import type { RandomAccess } from './random-access.js'
import {
  checkedElements,
  checkLayout,
  describeValue,
  invalid,
  maximumNameLength,
  maximumTensors,
  type TensorEntry,
  type TensorFile,
} from './tensor-file.js'

/** Upstream allows 100 MB; the largest published headers are under 15 MB, and one costs about ten times its size to parse. */
export const maximumHeaderBytes = 32 * 1024 * 1024
/** {name: {data_offsets: […]}} is three levels. */
const headerDepth = 4

/** Bits per element (safetensors/src/tensor.rs, Dtype). */
const dtypeBits: Record<string, number> = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
}

export interface SafetensorsFile extends TensorFile {
  format: 'safetensors'
  /** The header's `__metadata__`. */
  metadata: Record<string, string>
}

/**
 * Reads and checks the header.
 * @throws DomainError INVALID_MODEL_FILE or UNSUPPORTED_FORMAT (element type), naming tensor, field and number
 */
export async function readSafetensors(source: RandomAccess): Promise<SafetensorsFile> {
  const { name: file, size } = source
  if (size < 8) throw invalid(`${file}: ${size} bytes, a SafeTensors file has at least 8`)
  const length = Buffer.from(await source.read(0, 8)).readBigUInt64LE(0)
  if (length > BigInt(maximumHeaderBytes)) {
    throw invalid(`${file}: header length ${length}, at most ${maximumHeaderBytes} bytes (is this a SafeTensors file?)`)
  }
  const headerBytes = 8 + Number(length)
  if (headerBytes > size) throw invalid(`${file}: header length ${length}, but the file has ${size} bytes`)
  const json = await source.read(8, Number(length))
  if (json[0] !== 0x7b) throw invalid(`${file}: the header does not begin with "{" (is this a SafeTensors file?)`)
  const header = parseJsonObject(json, `${file} header`, headerDepth)
  const tensors: TensorEntry[] = []
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') metadata = readMetadata(value, file)
    else tensors.push(readEntry(name, value, headerBytes, file))
    if (tensors.length > maximumTensors) throw invalid(`${file}: more than ${maximumTensors} tensors`)
  }
  const sorted = checkLayout(file, tensors, headerBytes, size)
  // Upstream refuses holes and trailing bytes: they could hide data.
  let at = headerBytes
  for (const tensor of sorted) {
    if (tensor.offset !== at) {
      throw invalid(
        `${file}: tensor ${describeValue(tensor.name)}: begins at byte ${tensor.offset}, expected ${at} (no gaps)`,
      )
    }
    at += tensor.bytes
  }
  if (at !== size) throw invalid(`${file}: tensors end at byte ${at}, but the file has ${size} bytes`)
  return { format: 'safetensors', headerBytes, tensors: sorted, metadata }
}

function readMetadata(value: unknown, file: string): Record<string, string> {
  if (typeof value !== 'object' || value === null) throw invalid(`${file}: __metadata__ is not an object`)
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw invalid(`${file}: __metadata__.${describeValue(key)} is not a string`)
  }
  return value as Record<string, string>
}

function readEntry(name: string, value: unknown, headerBytes: number, file: string): TensorEntry {
  const what = `${file}: tensor ${describeValue(name)}`
  if (name.length === 0 || name.length > maximumNameLength) {
    throw invalid(`${what}: name of ${name.length} characters, expected 1 to ${maximumNameLength}`)
  }
  if (typeof value !== 'object' || value === null) throw invalid(`${what}: not an object`)
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
  if (typeof dtype !== 'string') throw invalid(`${what}: dtype is ${describeValue(dtype)}, expected a string`)
  const bits = Object.hasOwn(dtypeBits, dtype) ? dtypeBits[dtype] : undefined
  if (bits === undefined) throw new DomainError('UNSUPPORTED_FORMAT', `${what}: unknown dtype ${describeValue(dtype)}`)
  if (!Array.isArray(shape)) throw invalid(`${what}: shape is ${describeValue(shape)}, expected a list`)
  const elements = checkedElements(shape, what)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(o => Number.isSafeInteger(o) && o >= 0)) {
    throw invalid(`${what}: data_offsets is ${describeValue(offsets)}, expected two whole numbers from 0 to 2^53`)
  }
  const [begin, end] = offsets as [number, number]
  const bytes = end - begin
  const expected = (elements * bits) / 8
  if (bytes !== expected) {
    throw invalid(`${what}: data_offsets [${begin}, ${end}] hold ${bytes} bytes, ${dtype} [${shape}] needs ${expected}`)
  }
  return { name, dtype, shape: shape as number[], offset: headerBytes + begin, bytes }
}

/**
 * The bytes before the tensor data of a new file whose tensors follow in this order without gaps.
 * The header is padded with spaces to a multiple of 8, so that tensor data is aligned.
 */
export function writeSafetensorsHeader(
  tensors: readonly Pick<TensorEntry, 'name' | 'dtype' | 'shape' | 'bytes'>[],
  metadata: Record<string, string> = { format: 'pt' },
): Uint8Array {
  // Without a prototype, a tensor called __proto__ is a key like any other.
  const header: Record<string, unknown> = Object.assign(Object.create(null), { __metadata__: metadata })
  let at = 0
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes] }
    at += bytes
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Math.ceil(json.length / 8) * 8
  const out = Buffer.alloc(8 + length, 0x20)
  out.writeBigUInt64LE(BigInt(length), 0)
  json.copy(out, 8)
  return out
}
