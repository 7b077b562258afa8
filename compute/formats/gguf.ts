// GGUF versions 2 and 3, little-endian (github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata and tensor table of one file.
import { DomainError } from '../../lib/errors.js'
import { type GgmlType, ggmlType } from './ggml-types.js'
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

/** Metadata and tensor table: the largest vocabularies (256,000 tokens with merges) take 15 MB. */
export const maximumHeaderBytes = 128 * 1024 * 1024
/** Real files have fewer than 100 keys. */
const maximumKeys = 65_536
/** One text: chat templates reach 100 kB. */
const maximumStringBytes = 16 * 1024 * 1024
/** Texts or lists in one list (the largest vocabularies have 1 million merges); numbers are bounded by the header's size alone. */
const maximumListItems = 4_000_000
/** Lists within lists; real files have none. */
const maximumNesting = 4
/** ggml's default where `general.alignment` is absent. */
const defaultAlignment = 32
const maximumAlignment = 1024 * 1024
/** First read; enough for the header of most files at once. */
const firstReadBytes = 4 * 1024 * 1024

/** Whole numbers beyond 2^53 come as bigint; lists of numbers as typed arrays, so that a list costs what it costs in the file. */
export type GgufValue = string | number | bigint | boolean | GgufArray
export type GgufArray =
  | string[]
  | GgufArray[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array

export type GgufMetadata = ReadonlyMap<string, GgufValue>

export interface GgufFile extends TensorFile {
  format: 'gguf'
  version: number
  alignment: number
  metadata: GgufMetadata
}

/** The part read so far ends before the header does. */
class NeedMore extends Error {
  constructor(readonly bytes: number) {
    super()
  }
}

/** Reads little-endian values from the part of the file held in memory. */
class Cursor {
  at = 0
  private readonly view: DataView
  constructor(
    readonly bytes: Buffer,
    readonly file: string,
    readonly size: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Makes sure that `length` bytes follow: in the file at all, within the header's limit, and in memory. */
  private take(length: number, what: string): number {
    const at = this.at
    const end = at + length
    if (end > this.size) throw invalid(`${this.file}: ${what} ends at byte ${end}, but the file has ${this.size} bytes`)
    if (end > maximumHeaderBytes)
      throw invalid(`${this.file}: ${what} ends at byte ${end}, headers at most ${maximumHeaderBytes}`)
    if (end > this.bytes.length) throw new NeedMore(end)
    this.at = end
    return at
  }

  u32 = (what: string) => this.view.getUint32(this.take(4, what), true)

  /** A count, length or offset: anything above 2^53 is no size of anything here. */
  u64(what: string): number {
    const at = this.take(8, what)
    const value = this.view.getUint32(at + 4, true) * 2 ** 32 + this.view.getUint32(at, true)
    if (!Number.isSafeInteger(value))
      throw invalid(`${this.file}: ${what} is ${this.view.getBigUint64(at, true)}, at most 2^53`)
    return value
  }

  text(what: string, maximum: number): string {
    const length = this.u64(`length of ${what}`)
    if (length > maximum) throw invalid(`${this.file}: ${what} has ${length} bytes, at most ${maximum}`)
    const at = this.take(length, what)
    return this.bytes.toString('utf8', at, at + length)
  }

  number(type: NumberType, what: string): number | bigint {
    const at = this.take(type.bytes, what)
    const value = type.get(this.view, at)
    return typeof value === 'bigint' && value >= -(2n ** 53n) && value <= 2n ** 53n ? Number(value) : value
  }

  numbers(type: NumberType, count: number, what: string) {
    const at = this.take(count * type.bytes, what)
    const start = this.bytes.byteOffset + at
    return new type.array(this.bytes.buffer.slice(start, start + count * type.bytes) as ArrayBuffer)
  }

  /** Refuses a count before anything is allocated for it. */
  count(what: string, leastBytesEach: number, maximum: number): number {
    const count = this.u64(what)
    if (count > maximum) throw invalid(`${this.file}: ${what} is ${count}, at most ${maximum}`)
    if (count * leastBytesEach > this.size - this.at) {
      throw invalid(`${this.file}: ${what} is ${count}, more than the ${this.size - this.at} bytes left can hold`)
    }
    return count
  }
}

interface NumberType {
  bytes: number
  get(view: DataView, at: number): number | bigint
  array: new (buffer: ArrayBuffer) => Exclude<GgufArray, string[] | GgufArray[]>
}

const numberTypes: Record<number, NumberType> = {
  0: { bytes: 1, get: (v, at) => v.getUint8(at), array: Uint8Array },
  1: { bytes: 1, get: (v, at) => v.getInt8(at), array: Int8Array },
  2: { bytes: 2, get: (v, at) => v.getUint16(at, true), array: Uint16Array },
  3: { bytes: 2, get: (v, at) => v.getInt16(at, true), array: Int16Array },
  4: { bytes: 4, get: (v, at) => v.getUint32(at, true), array: Uint32Array },
  5: { bytes: 4, get: (v, at) => v.getInt32(at, true), array: Int32Array },
  6: { bytes: 4, get: (v, at) => v.getFloat32(at, true), array: Float32Array },
  10: { bytes: 8, get: (v, at) => v.getBigUint64(at, true), array: BigUint64Array },
  11: { bytes: 8, get: (v, at) => v.getBigInt64(at, true), array: BigInt64Array },
  12: { bytes: 8, get: (v, at) => v.getFloat64(at, true), array: Float64Array },
}
const boolType = 7
const stringType = 8
const arrayType = 9

function readValue(c: Cursor, type: number, what: string): GgufValue {
  if (type === stringType) return c.text(what, maximumStringBytes)
  if (type === arrayType) return readArray(c, what, 1)
  if (type === boolType) return c.number(numberTypes[0]!, what) !== 0
  const known = numberTypes[type]
  if (!known) throw invalid(`${c.file}: ${what} has value type ${type}, expected 0 to 12`)
  return c.number(known, what)
}

function readArray(c: Cursor, what: string, depth: number): GgufArray {
  if (depth > maximumNesting) throw invalid(`${c.file}: ${what} is nested deeper than ${maximumNesting} lists`)
  const type = c.u32(`element type of ${what}`)
  const number = type === boolType ? numberTypes[0] : numberTypes[type]
  if (number) return c.numbers(number, c.count(`length of ${what}`, number.bytes, maximumHeaderBytes), what)
  if (type !== stringType && type !== arrayType) {
    throw invalid(`${c.file}: ${what} has element type ${type}, expected 0 to 12`)
  }
  const count = c.count(`length of ${what}`, type === stringType ? 8 : 12, maximumListItems)
  if (type === arrayType) {
    const lists: GgufArray[] = []
    for (let i = 0; i < count; i++) lists.push(readArray(c, what, depth + 1))
    return lists
  }
  const texts: string[] = []
  for (let i = 0; i < count; i++) texts.push(c.text(what, maximumStringBytes))
  return texts
}

interface Header {
  version: number
  alignment: number
  metadata: Map<string, GgufValue>
  /** Offsets as in the file: from the start of the tensor data. */
  tensors: TensorEntry[]
  end: number
}

function parseHeader(c: Cursor): Header {
  const { file } = c
  c.at = 4
  const version = c.u32('version')
  if (version === 0x02000000 || version === 0x03000000) {
    throw new DomainError(
      'UNSUPPORTED_FORMAT',
      `${file}: a big-endian GGUF file; only little-endian ones are read here`,
    )
  }
  if (version !== 2 && version !== 3) {
    throw new DomainError('UNSUPPORTED_FORMAT', `${file}: GGUF version ${version}; versions 2 and 3 are read here`)
  }
  // A tensor takes at least 24 bytes (name length, dimension count, type, offset), a key at least 13.
  const tensorCount = c.count('tensor count', 24, maximumTensors)
  const keyCount = c.count('metadata count', 13, maximumKeys)
  if (tensorCount === 0) throw invalid(`${file}: tensor count is 0`)
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < keyCount; i++) {
    const key = c.text(`metadata key ${i}`, maximumNameLength)
    if (metadata.has(key)) throw invalid(`${file}: the metadata key ${describeValue(key)} appears twice`)
    metadata.set(key, readValue(c, c.u32(`type of ${describeValue(key)}`), describeValue(key)))
  }
  const alignment = metadata.get('general.alignment') ?? defaultAlignment
  if (
    typeof alignment !== 'number' ||
    alignment < 1 ||
    alignment > maximumAlignment ||
    !Number.isInteger(Math.log2(alignment))
  ) {
    throw invalid(
      `${file}: general.alignment is ${describeValue(alignment)}, expected a power of two up to ${maximumAlignment}`,
    )
  }
  const tensors: TensorEntry[] = []
  for (let i = 0; i < tensorCount; i++) tensors.push(readTensorInfo(c, i, alignment))
  return { version, alignment, metadata, tensors, end: c.at }
}

function readTensorInfo(c: Cursor, index: number, alignment: number): TensorEntry {
  const name = c.text(`name of tensor ${index}`, maximumNameLength)
  const what = `${c.file}: tensor ${describeValue(name)}`
  if (name === '') throw invalid(`${c.file}: tensor ${index} has no name`)
  const dimensions = c.u32(`dimension count of ${describeValue(name)}`)
  if (dimensions > 8) throw invalid(`${what}: ${dimensions} dimensions, at most 8`)
  const shape: number[] = []
  for (let d = 0; d < dimensions; d++) shape.unshift(c.u64(`shape[${d}] of ${describeValue(name)}`))
  const typeId = c.u32(`type of ${describeValue(name)}`)
  const type = ggmlType(typeId)
  if (!type) throw new DomainError('UNSUPPORTED_FORMAT', `${what}: ggml type ${typeId} is not known here`)
  const offset = c.u64(`offset of ${describeValue(name)}`)
  if (offset % alignment !== 0) throw invalid(`${what}: offset ${offset} is no multiple of the alignment ${alignment}`)
  return { name, dtype: type.name, shape, offset, bytes: bytesOf(type, shape, what) }
}

function bytesOf(type: GgmlType, shape: number[], what: string): number {
  const elements = checkedElements(shape, what)
  const row = shape.at(-1) ?? 1
  if (row % type.blockSize !== 0) {
    throw invalid(`${what}: rows of ${row} elements, but ${type.name} has blocks of ${type.blockSize}`)
  }
  const bytes = (elements / type.blockSize) * type.blockBytes
  if (!Number.isSafeInteger(bytes)) throw invalid(`${what}: ${type.name} [${shape}] takes more than 2^53 bytes`)
  return bytes
}

/**
 * Reads and checks metadata and tensor table.
 * @throws DomainError INVALID_MODEL_FILE or UNSUPPORTED_FORMAT (version, byte order, tensor type), naming the field and the number
 */
export async function readGguf(source: RandomAccess): Promise<GgufFile> {
  const { name: file, size } = source
  if (size < 24) throw invalid(`${file}: ${size} bytes, a GGUF file has at least 24`)
  let held = Math.min(size, firstReadBytes)
  for (;;) {
    const read = await source.read(0, held)
    const bytes = Buffer.from(read.buffer, read.byteOffset, read.byteLength)
    const magic = bytes.toString('latin1', 0, 4)
    if (magic !== 'GGUF') throw invalid(`${file}: begins with ${JSON.stringify(magic)}, a GGUF file begins with "GGUF"`)
    try {
      return finish(parseHeader(new Cursor(bytes, file, size)), file, size)
    } catch (error) {
      if (!(error instanceof NeedMore)) throw error
      // Doubling bounds the work at twice the header's size.
      held = Math.min(size, maximumHeaderBytes, Math.max(held * 2, error.bytes))
    }
  }
}

function finish(header: Header, file: string, size: number): GgufFile {
  const { version, alignment, metadata } = header
  const dataStart = Math.ceil(header.end / alignment) * alignment
  // A file may end right after its last tensor, but not within the padding that precedes the first.
  if (dataStart > size)
    throw invalid(`${file}: tensor data begins at byte ${dataStart}, but the file has ${size} bytes`)
  const tensors = header.tensors.map(t => ({ ...t, offset: t.offset + dataStart }))
  return {
    format: 'gguf',
    version,
    alignment,
    metadata,
    headerBytes: dataStart,
    tensors: checkLayout(file, tensors, dataStart, size),
  }
}
