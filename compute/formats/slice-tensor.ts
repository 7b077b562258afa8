// Whole rows and columns cut out of a stored tensor: byte for byte where the stored blocks allow it, in float32 where they do not.
import { DomainError } from '../../lib/errors.js'
import type { ManifestTensor, TensorSlice } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { elementCount, readFloat32 } from './float-weights.js'
import { ggmlTypeByName } from './ggml-types.js'

/** [from, to) ranges of an axis, ascending; null: all of it. */
export type Kept = readonly (readonly [number, number])[] | null

/** The shortest ranges that name these indices, which ascend. */
export function toIntervals(indices: readonly number[]): [number, number][] {
  const ranges: [number, number][] = []
  for (const index of indices) {
    const last = ranges.at(-1)
    if (last && last[1] === index) last[1] = index + 1
    else ranges.push([index, index + 1])
  }
  return ranges
}

export const keptCount = (kept: Kept, size: number): number =>
  kept ? kept.reduce((sum, [from, to]) => sum + to - from, 0) : size

/** What `second` keeps of what `first` kept, in the coordinates of the whole. */
export function composeKept(first: Kept, second: Kept): Kept {
  if (!first || !second) return first ?? second
  const positions = first.flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i))
  return toIntervals(second.flatMap(([from, to]) => positions.slice(from, to)))
}

export interface SlicedTensor extends SliceForm {
  chunks(signal?: AbortSignal): AsyncIterable<Uint8Array>
}

/** Bytes of one element where elements have bytes of their own; SafeTensors' types that ggml does not know too. */
const plainBytes: Record<string, number> = { F8_E4M3: 1, F8_E5M2: 1, BOOL: 1, U8: 1, U16: 2, U32: 4, U64: 8 }

/** What a slice will be, before any byte is read. */
export interface SliceForm {
  dtype: string
  shape: number[]
  bytes: number
  /** Why it is not a byte for byte slice; undefined where it is one. */
  note?: string
}

/** Of rows of blocks. */
interface Blocks {
  blockSize: number
  blockBytes: number
  rows: number
  columns: number
  keptRows: Kept
  keptColumns: Kept
  /** Whether kept columns begin and end with blocks. */
  aligned: boolean
}

/**
 * @param kept by axis
 * @throws SHAPE_MISMATCH where a range is outside the tensor, UNSUPPORTED_FORMAT for unknown types
 */
export const sliceForm = (tensor: Pick<ManifestTensor, 'name' | 'dtype' | 'shape'>, kept: readonly Kept[]): SliceForm =>
  planSlice(tensor, kept).form

function planSlice(
  { shape, dtype, name }: Pick<ManifestTensor, 'name' | 'dtype' | 'shape'>,
  kept: readonly Kept[],
): Blocks & { form: SliceForm } {
  if (shape.length !== kept.length || shape.length < 1 || shape.length > 2)
    throw new DomainError('SHAPE_MISMATCH', `tensor ${name}: shape [${shape}] cannot be cut along ${kept.length} axes`)
  kept.forEach((ranges, axis) => {
    for (const [from, to] of ranges ?? [])
      if (from < 0 || to > shape[axis]! || from >= to)
        throw new DomainError(
          'SHAPE_MISMATCH',
          `tensor ${name}: [${from}, ${to}) is outside axis ${axis} of [${shape}]`,
        )
  })
  const type = ggmlTypeByName(dtype)
  const elementBytes = plainBytes[dtype]
  const [blockSize, blockBytes] = type ? [type.blockSize, type.blockBytes] : [1, elementBytes ?? 0]
  if (blockBytes === 0)
    throw new DomainError('UNSUPPORTED_FORMAT', `tensor ${name}: values of type ${dtype} cannot be cut`)
  const rows = shape.length === 2 ? shape[0]! : 1
  const columns = shape.at(-1)!
  const [keptRows, keptColumns] = shape.length === 2 ? [kept[0]!, kept[1]!] : [null, kept[0]!]
  const newShape = shape.map((size, axis) => keptCount(kept[axis]!, size))
  const aligned = (keptColumns ?? []).every(([from, to]) => from % blockSize === 0 && to % blockSize === 0)
  if (columns % blockSize !== 0 && keptColumns === null && blockSize > 1)
    throw new DomainError('SHAPE_MISMATCH', `tensor ${name}: ${columns} columns are no whole number of ${dtype} blocks`)
  const form: SliceForm = aligned
    ? { dtype, shape: newShape, bytes: (elementCount(newShape) / blockSize) * blockBytes }
    : {
        dtype: 'F32',
        shape: newShape,
        bytes: elementCount(newShape) * 4,
        note: `${name}: columns are not cut at the ends of ${dtype} blocks of ${blockSize}, kept as F32`,
      }
  return { blockSize, blockBytes, rows, columns, keptRows, keptColumns, aligned, form }
}

/**
 * The part of a tensor of one or two axes that `kept` names. Rows are moved whole; columns too where their ends are ends of blocks, else the
 * tensor becomes float32. Holds no more than one row of it in memory at a time where it can.
 * @param kept by axis
 * @throws SHAPE_MISMATCH where a range is outside the tensor, UNSUPPORTED_FORMAT for unknown types
 */
export function sliceTensor(tensor: ManifestTensor, kept: readonly Kept[], payloads: PayloadStore): SlicedTensor {
  const { name, bytes, payload } = tensor
  const { blockSize, blockBytes, rows, columns, keptRows, keptColumns, aligned, form } = planSlice(tensor, kept)
  const rowRanges = keptRows ?? [[0, rows] as const]

  if (aligned) {
    const rowBytes = (columns / blockSize) * blockBytes
    const pieces = (keptColumns ?? [[0, columns] as const]).map(
      ([from, to]) => [(from / blockSize) * blockBytes, (to / blockSize) * blockBytes] as const,
    )
    return {
      ...form,
      async *chunks(signal) {
        if (rowBytes * rows !== bytes)
          throw new DomainError('SHAPE_MISMATCH', `tensor ${name}: ${bytes} bytes, expected ${rowBytes * rows}`)
        for (const [from, to] of rowRanges) {
          const range = payloads.open(payload, from * rowBytes, (to - from) * rowBytes)
          for await (const chunk of keptColumns ? rowsOf(range, rowBytes) : range) {
            signal?.throwIfAborted()
            if (!keptColumns) yield chunk
            else
              for (let at = 0; at < chunk.length; at += rowBytes)
                for (const [a, b] of pieces) yield chunk.slice(at + a, at + b)
          }
        }
      },
    }
  }
  return {
    ...form,
    async *chunks(signal) {
      const wanted = new Set(keptRows?.flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i)))
      let row = 0
      const values = async function* () {
        for await (const part of readFloat32(payloads, tensor, signal))
          yield new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
      }
      for await (const chunk of rowsOf(values(), columns * 4)) {
        for (let at = 0; at < chunk.length; at += columns * 4, row++) {
          if (keptRows && !wanted.has(row)) continue
          for (const [from, to] of keptColumns ?? [[0, columns] as const]) yield chunk.slice(at + from * 4, at + to * 4)
        }
      }
    },
  }
}

/** The same bytes in chunks of whole rows. */
async function* rowsOf(chunks: AsyncIterable<Uint8Array>, rowBytes: number): AsyncIterable<Uint8Array> {
  let rest: Uint8Array = new Uint8Array()
  for await (const chunk of chunks) {
    const joined = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const whole = Math.floor(joined.length / rowBytes) * rowBytes
    if (whole > 0) yield joined.slice(0, whole)
    rest = joined.slice(whole)
  }
  if (rest.length > 0) throw new DomainError('PAYLOAD_CORRUPT', `${rest.length} bytes are left over after whole rows`)
}

/**
 * What a slice is recorded as: relative to the tensor that `tensor` itself is a slice of, where it is one.
 * @param whole the parent's tensor, where `tensor` is one of the parent's own
 */
export function recordSlice(
  tensor: ManifestTensor,
  kept: readonly Kept[],
  whole: Pick<ManifestTensor, 'name'> | undefined,
  changed: boolean,
): TensorSlice {
  const plain = (ranges: Kept) => ranges?.map(([from, to]): [number, number] => [from, to]) ?? null
  const before = whole ? undefined : tensor.slice
  const { changed: changedBefore = false, ...origin } = before ?? {
    tensor: whole?.name ?? tensor.name,
    payload: tensor.payload,
    shape: tensor.shape,
    kept: tensor.shape.map(() => null),
  }
  return {
    ...origin,
    kept: origin.kept.map((ranges, axis) => plain(composeKept(ranges, kept[axis] ?? null))),
    ...(changed || changedBefore ? { changed: true } : {}),
  }
}
