// A tensor on its way from the store into a file: its bytes as a stream, and what turns them into another convention or type.
// Every step holds at most a few megabytes, but for turning a matrix round, which holds the matrix.
import { DomainError } from '../../lib/errors.js'
import type { ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { canDequantize, dequantize } from '../formats/dequantize.js'
import { elementCount, storedBytes } from '../formats/float-weights.js'
import { ggmlTypeByName, isGgmlType, isQuantized } from '../formats/ggml-types.js'
import {
  ggmlScheme,
  intDtype,
  intScheme,
  packIntBlocks,
  splitIntBlocks,
  unpackIntBlocks,
} from '../formats/int-blocks.js'
import { canQuantize, quantize } from '../formats/quantize.js'

export interface TensorStream {
  /** Name in the file that is written. */
  name: string
  dtype: string
  shape: number[]
  bytes: number
  /** Each chunk is valid until the next one is asked for. */
  chunks(signal: AbortSignal): AsyncIterable<Uint8Array>
}

/** Elements converted per step: 1 MB of float32. */
const stepElements = 256 * 1024

const unsupported = (message: string) => new DomainError('UNSUPPORTED_FORMAT', message)

/** The tensor as it lies in the store, under the name it gets. */
export function storedStream(tensor: ManifestTensor, name: string, payloads: PayloadStore): TensorStream {
  const { dtype, shape, bytes, payload } = tensor
  return {
    name,
    dtype,
    shape,
    bytes,
    async *chunks(signal) {
      for await (const chunk of payloads.open(payload)) {
        signal.throwIfAborted()
        yield chunk
      }
    },
  }
}

/** The same bytes in pieces of one size; the last may be shorter. */
export async function* inPieces(chunks: AsyncIterable<Uint8Array>, size: number): AsyncIterable<Uint8Array> {
  const piece = new Uint8Array(size)
  let filled = 0
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      const take = Math.min(chunk.length - at, size - filled)
      piece.set(chunk.subarray(at, at + take), filled)
      filled += take
      at += take
      if (filled < size) continue
      filled = 0
      yield piece
    }
  }
  if (filled > 0) yield piece.subarray(0, filled)
}

/** The values of a stream, some at a time. @throws DomainError UNSUPPORTED_FORMAT naming tensor and type */
export async function* floatsOf(stream: TensorStream, signal: AbortSignal): AsyncIterable<Float32Array> {
  const type = ggmlTypeByName(stream.dtype)
  if (!type || !canDequantize(stream.dtype))
    throw unsupported(`tensor ${stream.name}: type ${stream.dtype} is not read as numbers here`)
  const expected = storedBytes(stream.dtype, elementCount(stream.shape))
  if (expected !== stream.bytes)
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${stream.name}: ${stream.bytes} bytes, expected ${expected} for ${stream.dtype} [${stream.shape}]`,
    )
  const blocks = Math.max(1, Math.floor(stepElements / type.blockSize))
  const values = new Float32Array(blocks * type.blockSize)
  for await (const piece of inPieces(stream.chunks(signal), blocks * type.blockBytes))
    yield values.subarray(0, dequantize(stream.dtype, piece, values))
}

/**
 * The same values in another type, rounded to nearest; the stream itself where it is of that type.
 * @throws DomainError UNSUPPORTED_FORMAT for types that are not read or written here, SHAPE_MISMATCH where rows are no whole blocks
 */
export function converted(stream: TensorStream, dtype: string): TensorStream {
  if (stream.dtype === dtype) return stream
  const { name, shape } = stream
  if (!canDequantize(stream.dtype) || !canQuantize(dtype))
    throw unsupported(`tensor ${name}: type ${stream.dtype} is not written as ${dtype}`)
  const { blockSize } = ggmlTypeByName(dtype)!
  if ((shape.at(-1) ?? 1) % blockSize !== 0)
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${name}: rows of ${shape.at(-1)} are no whole ${dtype} blocks of ${blockSize}`,
    )
  return {
    ...stream,
    dtype,
    bytes: storedBytes(dtype, elementCount(shape))!,
    async *chunks(signal) {
      for await (const values of floatsOf(stream, signal)) {
        signal.throwIfAborted()
        try {
          yield quantize(dtype, values)
        } catch (error) {
          if (error instanceof DomainError) throw new DomainError(error.code, `tensor ${name}: ${error.message}`)
          throw error
        }
      }
    },
  }
}

/**
 * Blocks of ours as ggml's, with the same weights; the stream itself where ggml knows its type. 8 bits with a minimum, which ggml lacks,
 * become float32.
 */
export function asGgml(stream: TensorStream): TensorStream {
  const scheme = intScheme(stream.dtype)
  if (!scheme || isGgmlType(stream.dtype)) return stream
  const target = ggmlScheme(scheme)
  if (!target) return converted(stream, 'F32')
  const dtype = intDtype(target)
  const { blockBytes } = ggmlTypeByName(stream.dtype)!
  return {
    ...stream,
    dtype,
    bytes: storedBytes(dtype, elementCount(stream.shape))!,
    async *chunks(signal) {
      for await (const piece of inPieces(stream.chunks(signal), 4096 * blockBytes))
        yield packIntBlocks(target, splitIntBlocks(scheme, target, unpackIntBlocks(scheme, piece)))
    },
  }
}

/** The values plus a number, in float32. */
export const shifted = (stream: TensorStream, offset: number): TensorStream => ({
  ...stream,
  dtype: 'F32',
  bytes: elementCount(stream.shape) * 4,
  async *chunks(signal) {
    for await (const values of floatsOf(stream, signal))
      yield quantize(
        'F32',
        values.map(v => v + offset),
      )
  },
})

/** [rows, columns] -> [columns, rows]; the tensor is held whole, which is as large as one linear layer. Blocks become float32. */
export function transposed(stored: TensorStream): TensorStream {
  const source = isQuantized(stored.dtype) ? converted(stored, 'F32') : stored
  const [rows, columns] = source.shape as [number, number]
  const size = source.bytes / (rows * columns)
  return {
    ...source,
    shape: [columns, rows],
    async *chunks(signal) {
      const all = new Uint8Array(source.bytes)
      let at = 0
      for await (const chunk of source.chunks(signal)) {
        all.set(chunk, at)
        at += chunk.length
      }
      const column = new Uint8Array(rows * size)
      for (let c = 0; c < columns; c++) {
        signal.throwIfAborted()
        for (let row = 0; row < rows; row++) {
          const from = (row * columns + c) * size
          column.set(all.subarray(from, from + size), row * size)
        }
        yield column
      }
    },
  }
}

/**
 * Rows of q and k in the other RoPE layout, one head at a time. llama.cpp's converter writes row s * d/2 + i of a head to row 2i + s
 * (`permute` in convert_hf_to_gguf.py). Blocks of quantised types lie within rows, so that rows are moved as they are.
 */
export function reordered(stream: TensorStream, headSize: number, to: 'half' | 'interleaved'): TensorStream {
  const rows = stream.shape[0] ?? 0
  const rowBytes = stream.bytes / rows
  const half = headSize / 2
  return {
    ...stream,
    async *chunks(signal) {
      const turned = new Uint8Array(headSize * rowBytes)
      for await (const head of inPieces(stream.chunks(signal), headSize * rowBytes)) {
        signal.throwIfAborted()
        for (let i = 0; i < half; i++) {
          for (let s = 0; s < 2; s++) {
            const [inHalf, inPairs] = [s * half + i, 2 * i + s]
            const [from, target] = to === 'half' ? [inPairs, inHalf] : [inHalf, inPairs]
            turned.set(head.subarray(from * rowBytes, (from + 1) * rowBytes), target * rowBytes)
          }
        }
        yield turned
      }
    },
  }
}
