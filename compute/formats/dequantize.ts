// Stored tensor bytes -> float32, by the formulas of ggml-quants.c (dequantize_row_*); block by block, so that any whole number of blocks will do.
import { DomainError } from '../../lib/errors.js'
import { ggmlTypeByName } from './ggml-types.js'
import { type IntScheme, intScheme, ownBlockTypes } from './int-blocks.js'

/** All 65,536 values of IEEE half precision: a look-up is four times faster than computing. */
const halfTable = (() => {
  const table = new Float32Array(65536)
  for (let h = 0; h < 65536; h++) {
    const sign = h & 0x8000 ? -1 : 1
    const exponent = (h >> 10) & 31
    const mantissa = h & 1023
    if (exponent === 31) table[h] = mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
    else if (exponent === 0) table[h] = sign * mantissa * 2 ** -24
    else table[h] = sign * (1 + mantissa / 1024) * 2 ** (exponent - 15)
  }
  return table
})()

/** The float32 value of half-precision bits. */
export const halfToFloat = (bits: number): number => halfTable[bits & 0xffff]!

type Kernel = (bytes: Uint8Array, out: Float32Array, blocks: number) => void

const half = (b: Uint8Array, at: number): number => halfTable[b[at]! | (b[at + 1]! << 8)]!

/** A view of the element type where the bytes happen to be aligned, a copy where not. */
function aligned<T>(
  bytes: Uint8Array,
  count: number,
  type: { new (buffer: ArrayBufferLike, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
): T {
  if (bytes.byteOffset % type.BYTES_PER_ELEMENT === 0) return new type(bytes.buffer, bytes.byteOffset, count)
  return new type(bytes.slice(0, count * type.BYTES_PER_ELEMENT).buffer, 0, count)
}

const q4_0: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 18, x += 32) {
    const d = half(b, o)
    for (let j = 0; j < 16; j++) {
      const q = b[o + 2 + j]!
      out[x + j] = ((q & 15) - 8) * d
      out[x + j + 16] = ((q >> 4) - 8) * d
    }
  }
}

const q4_1: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 20, x += 32) {
    const d = half(b, o)
    const m = half(b, o + 2)
    for (let j = 0; j < 16; j++) {
      const q = b[o + 4 + j]!
      out[x + j] = (q & 15) * d + m
      out[x + j + 16] = (q >> 4) * d + m
    }
  }
}

const q5_0: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 22, x += 32) {
    const d = half(b, o)
    const high = b[o + 2]! | (b[o + 3]! << 8) | (b[o + 4]! << 16) | (b[o + 5]! << 24)
    for (let j = 0; j < 16; j++) {
      const q = b[o + 6 + j]!
      out[x + j] = (((q & 15) | (((high >>> j) & 1) << 4)) - 16) * d
      out[x + j + 16] = (((q >> 4) | (((high >>> (j + 16)) & 1) << 4)) - 16) * d
    }
  }
}

const q5_1: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 24, x += 32) {
    const d = half(b, o)
    const m = half(b, o + 2)
    const high = b[o + 4]! | (b[o + 5]! << 8) | (b[o + 6]! << 16) | (b[o + 7]! << 24)
    for (let j = 0; j < 16; j++) {
      const q = b[o + 8 + j]!
      out[x + j] = ((q & 15) | (((high >>> j) & 1) << 4)) * d + m
      out[x + j + 16] = ((q >> 4) | (((high >>> (j + 16)) & 1) << 4)) * d + m
    }
  }
}

const q8_0: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 34, x += 32) {
    const d = half(b, o)
    for (let j = 0; j < 32; j++) out[x + j] = ((b[o + 2 + j]! << 24) >> 24) * d
  }
}

// The 6-bit scales and minima of Q4_K and Q5_K lie packed in 12 bytes (get_scale_min_k4).
export const scaleOf = (b: Uint8Array, at: number, j: number) =>
  j < 4 ? b[at + j]! & 63 : (b[at + j + 4]! & 15) | ((b[at + j - 4]! >> 6) << 4)
export const minimumOf = (b: Uint8Array, at: number, j: number) =>
  j < 4 ? b[at + j + 4]! & 63 : (b[at + j + 4]! >> 4) | ((b[at + j]! >> 6) << 4)

const q4_k: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 144) {
    const d = half(b, o)
    const min = half(b, o + 2)
    for (let j = 0, q = o + 16; j < 8; j += 2, q += 32) {
      const d1 = d * scaleOf(b, o + 4, j)
      const m1 = min * minimumOf(b, o + 4, j)
      const d2 = d * scaleOf(b, o + 4, j + 1)
      const m2 = min * minimumOf(b, o + 4, j + 1)
      for (let l = 0; l < 32; l++, x++) {
        const code = b[q + l]!
        out[x] = d1 * (code & 15) - m1
        out[x + 32] = d2 * (code >> 4) - m2
      }
      x += 32
    }
  }
}

const q5_k: Kernel = (b, out, blocks) => {
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 176) {
    const d = half(b, o)
    const min = half(b, o + 2)
    for (let j = 0, q = o + 48; j < 8; j += 2, q += 32) {
      const d1 = d * scaleOf(b, o + 4, j)
      const m1 = min * minimumOf(b, o + 4, j)
      const d2 = d * scaleOf(b, o + 4, j + 1)
      const m2 = min * minimumOf(b, o + 4, j + 1)
      for (let l = 0; l < 32; l++, x++) {
        const code = b[q + l]!
        const high = b[o + 16 + l]!
        out[x] = d1 * ((code & 15) | (((high >> j) & 1) << 4)) - m1
        out[x + 32] = d2 * ((code >> 4) | (((high >> (j + 1)) & 1) << 4)) - m2
      }
      x += 32
    }
  }
}

const q6_k: Kernel = (b, out, blocks) => {
  const signed = (at: number) => (b[at]! << 24) >> 24
  for (let i = 0, o = 0, x = 0; i < blocks; i++, o += 210) {
    const d = half(b, o + 208)
    for (let n = 0; n < 2; n++, x += 128) {
      const ql = o + 64 * n
      const qh = o + 128 + 32 * n
      const sc = o + 192 + 8 * n
      for (let l = 0; l < 32; l++) {
        const s = sc + (l >> 4)
        const low = b[ql + l]!
        const low2 = b[ql + l + 32]!
        const high = b[qh + l]!
        out[x + l] = d * signed(s) * (((low & 15) | ((high & 3) << 4)) - 32)
        out[x + l + 32] = d * signed(s + 2) * (((low2 & 15) | (((high >> 2) & 3) << 4)) - 32)
        out[x + l + 64] = d * signed(s + 4) * (((low >> 4) | (((high >> 4) & 3) << 4)) - 32)
        out[x + l + 96] = d * signed(s + 6) * (((low2 >> 4) | ((high >> 6) << 4)) - 32)
      }
    }
  }
}

const f32: Kernel = (b, out, n) => out.set(aligned(b, n, Float32Array))
const f64: Kernel = (b, out, n) => out.set(aligned(b, n, Float64Array))
const f16: Kernel = (b, out, n) => {
  const bits = aligned(b, n, Uint16Array)
  for (let i = 0; i < n; i++) out[i] = halfTable[bits[i]!]!
}
const bf16: Kernel = (b, out, n) => {
  const bits = aligned(b, n, Uint16Array)
  const words = new Uint32Array(out.buffer, out.byteOffset, n)
  for (let i = 0; i < n; i++) words[i] = bits[i]! << 16
}

/** Blocks of ours (int-blocks.ts), of which ggml's whole-number types above are the faster special cases. */
const ownBlocks =
  ({ bits, symmetric, blockSize }: IntScheme): Kernel =>
  (b, out, blocks) => {
    for (let i = 0, at = 0, x = 0; i < blocks; i++, x += blockSize) {
      const d = half(b, at)
      const m = symmetric ? 0 : half(b, at + 2)
      at += symmetric ? 2 : 4
      if (bits === 8) {
        for (let j = 0; j < blockSize; j++) out[x + j] = symmetric ? ((b[at + j]! << 24) >> 24) * d : b[at + j]! * d + m
        at += blockSize
        continue
      }
      const zero = symmetric ? 8 : 0
      for (let group = x; group < x + blockSize; group += 32, at += 16) {
        for (let j = 0; j < 16; j++) {
          out[group + j] = ((b[at + j]! & 15) - zero) * d + m
          out[group + j + 16] = ((b[at + j]! >> 4) - zero) * d + m
        }
      }
    }
  }

const kernels: Record<string, Kernel> = {
  F32: f32,
  F64: f64,
  F16: f16,
  BF16: bf16,
  Q4_0: q4_0,
  Q4_1: q4_1,
  Q5_0: q5_0,
  Q5_1: q5_1,
  Q8_0: q8_0,
  Q4_K: q4_k,
  Q5_K: q5_k,
  Q6_K: q6_k,
  ...Object.fromEntries(ownBlockTypes.map(({ name }) => [name, ownBlocks(intScheme(name)!)])),
}

/** Whether `dequantize` reads this dtype. */
export const canDequantize = (dtype: string): boolean => dtype in kernels

/**
 * Writes the values of `bytes` (a whole number of blocks of `dtype`) to the beginning of `out` and returns their number.
 * @throws DomainError UNSUPPORTED_FORMAT for other dtypes, SHAPE_MISMATCH where the bytes are no whole number of blocks or `out` is too short
 */
export function dequantize(dtype: string, bytes: Uint8Array, out: Float32Array): number {
  const kernel = kernels[dtype]
  const type = ggmlTypeByName(dtype)
  if (!kernel || !type) {
    throw new DomainError(
      'UNSUPPORTED_FORMAT',
      `Tensor type ${dtype} is stored and exported, but not read as numbers here`,
    )
  }
  const blocks = bytes.length / type.blockBytes
  const count = blocks * type.blockSize
  if (!Number.isInteger(blocks) || count > out.length) {
    throw new DomainError(
      'SHAPE_MISMATCH',
      `${bytes.length} bytes of ${dtype} (blocks of ${type.blockBytes} bytes, ${type.blockSize} elements) do not fill ${out.length} elements`,
    )
  }
  kernel(bytes, out, blocks)
  return count
}
