// float32 -> stored tensor bytes, by the formulas of ggml-quants.c (quantize_row_*_ref) in float32 arithmetic, so that bytes equal llama.cpp's.
import { DomainError } from '../../lib/errors.js'
import { ggmlTypeByName } from './ggml-types.js'
import { floatToBfloat, floatToHalf } from './half.js'
import { type IntScheme, intScheme, ownBlockTypes, packIntBlocks } from './int-blocks.js'

/** Writes so many blocks of values from `x` on as bytes. */
type Kernel = (x: Float32Array, out: Uint8Array, blocks: number) => void

const f = Math.fround
const put16 = (out: Uint8Array, at: number, bits: number) => {
  out[at] = bits & 255
  out[at + 1] = bits >> 8
}

/** Scale: the value of greatest magnitude, sign included, is code 0 (or -8 times the scale). */
const q4_0: Kernel = (x, out, blocks) => {
  for (let i = 0, o = 0, at = 0; i < blocks; i++, o += 18, at += 32) {
    let greatest = 0
    let most = 0
    for (let j = at; j < at + 32; j++) {
      const magnitude = Math.abs(x[j]!)
      if (magnitude > greatest) {
        greatest = magnitude
        most = x[j]!
      }
    }
    const d = f(most / -8)
    const inverse = d === 0 ? 0 : f(1 / d)
    put16(out, o, floatToHalf(d))
    for (let j = 0; j < 16; j++) {
      const low = Math.min(15, Math.trunc(f(f(x[at + j]! * inverse) + 8.5)))
      const high = Math.min(15, Math.trunc(f(f(x[at + j + 16]! * inverse) + 8.5)))
      out[o + 2 + j] = low | (high << 4)
    }
  }
}

/** Scale and minimum: the codes span the block's range. */
const q4_1: Kernel = (x, out, blocks) => {
  for (let i = 0, o = 0, at = 0; i < blocks; i++, o += 20, at += 32) {
    let least = Number.MAX_VALUE
    let most = -Number.MAX_VALUE
    for (let j = at; j < at + 32; j++) {
      const value = x[j]!
      if (value < least) least = value
      if (value > most) most = value
    }
    const d = f(f(most - least) / 15)
    const inverse = d === 0 ? 0 : f(1 / d)
    put16(out, o, floatToHalf(d))
    put16(out, o + 2, floatToHalf(least))
    for (let j = 0; j < 16; j++) {
      const low = Math.min(15, Math.trunc(f(f(f(x[at + j]! - least) * inverse) + 0.5)))
      const high = Math.min(15, Math.trunc(f(f(f(x[at + j + 16]! - least) * inverse) + 0.5)))
      out[o + 4 + j] = low | (high << 4)
    }
  }
}

const q8_0: Kernel = (x, out, blocks) => {
  for (let i = 0, o = 0, at = 0; i < blocks; i++, o += 34, at += 32) {
    let greatest = 0
    for (let j = at; j < at + 32; j++) greatest = Math.max(greatest, Math.abs(x[j]!))
    const d = f(greatest / 127)
    const inverse = d === 0 ? 0 : f(1 / d)
    put16(out, o, floatToHalf(d))
    for (let j = 0; j < 32; j++) {
      const scaled = f(x[at + j]! * inverse)
      // roundf: halves go away from zero.
      out[o + 2 + j] = scaled < 0 ? -Math.floor(0.5 - scaled) : Math.floor(scaled + 0.5)
    }
  }
}

/** Blocks of ours (int-blocks.ts), each rounded to nearest within its own range as the ggml types above are. */
const ownBlocks =
  (scheme: IntScheme): Kernel =>
  (x, out, blocks) => {
    const { bits, symmetric, blockSize } = scheme
    const codes = new Uint8Array(blocks * blockSize)
    const scales = new Uint16Array(blocks)
    const minima = new Uint16Array(symmetric ? 0 : blocks)
    for (let block = 0, at = 0; block < blocks; block++, at += blockSize) {
      let [low, high, most] = [x[at]!, x[at]!, x[at]!]
      for (let j = at; j < at + blockSize; j++) {
        low = Math.min(low, x[j]!)
        high = Math.max(high, x[j]!)
        if (Math.abs(x[j]!) > Math.abs(most)) most = x[j]!
      }
      const range = symmetric ? (bits === 4 ? most / -8 : Math.abs(most) / 127) : (high - low) / (2 ** bits - 1)
      const zero = symmetric && bits === 4 ? 8 : 0
      const floor = symmetric ? 0 : low
      const [least, greatest] = bits === 8 && symmetric ? [-127, 127] : [0, 2 ** bits - 1]
      scales[block] = floatToHalf(range)
      if (!symmetric) minima[block] = floatToHalf(low)
      for (let j = 0; j < blockSize; j++) {
        const code = range === 0 ? zero : Math.round((x[at + j]! - floor) / range) + zero
        codes[at + j] = Math.max(least, Math.min(greatest, code))
      }
    }
    out.set(packIntBlocks(scheme, { codes, scales, minima }))
  }

const words =
  (encode: (value: number) => number): Kernel =>
  (x, out, count) => {
    for (let i = 0; i < count; i++) put16(out, 2 * i, encode(x[i]!))
  }

const f32: Kernel = (x, out, count) => out.set(new Uint8Array(x.buffer, x.byteOffset, count * 4))

const kernels: Readonly<Record<string, Kernel>> = {
  F32: f32,
  F16: words(floatToHalf),
  BF16: words(floatToBfloat),
  Q4_0: q4_0,
  Q4_1: q4_1,
  Q8_0: q8_0,
  ...Object.fromEntries(ownBlockTypes.map(({ name }) => [name, ownBlocks(intScheme(name)!)])),
}

/** Whether `quantize` writes this dtype. */
export const canQuantize = (dtype: string): boolean => Object.hasOwn(kernels, dtype)

/**
 * The bytes of `values`, a whole number of blocks of `dtype`, rounded to nearest.
 * @throws DomainError UNSUPPORTED_FORMAT for dtypes that are not written here, SHAPE_MISMATCH where a block would be cut, NOT_A_NUMBER
 */
export function quantize(dtype: string, values: Float32Array): Uint8Array {
  const kernel = kernels[dtype]
  const type = ggmlTypeByName(dtype)
  if (!kernel || !type) throw new DomainError('UNSUPPORTED_FORMAT', `Tensor type ${dtype} is not written here`)
  const blocks = values.length / type.blockSize
  if (!Number.isInteger(blocks))
    throw new DomainError(
      'SHAPE_MISMATCH',
      `${values.length} elements are no whole number of ${dtype} blocks of ${type.blockSize}`,
    )
  if (type.blockSize > 1) {
    for (let i = 0; i < values.length; i++) {
      if (!Number.isFinite(values[i]!))
        throw new DomainError('NOT_A_NUMBER', `element ${i} is ${values[i]}, which has no ${dtype} form`)
    }
  }
  const out = new Uint8Array(blocks * type.blockBytes)
  kernel(values, out, blocks)
  return out
}
