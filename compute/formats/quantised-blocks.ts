// Blocks of ggml's quantised types -> whole-number codes and the floats that scale them, without loss: weight = scale * (code - zero) + offset,
// with zero in the middle of the codes. Types whose codes count from 0 have their offset moved accordingly: a product's error is that of
// the rounded activation times scale * (code - zero), and so least where that is centred.
import { halfToFloat, minimumOf, scaleOf } from './dequantize.js'
import { type IntScheme, intScheme, ownBlockTypes, unpackIntBlocks } from './int-blocks.js'

export interface QuantisedForm {
  /** Size of a stored code; 4-bit codes are packed two to a byte, the earlier in the low half. */
  bits: 4 | 8
  /** Elements that share a scale. */
  blockSize: 16 | 32 | 64 | 128
  /** Whether blocks have an offset. */
  offsets: boolean
}

/** One block's codes, scales and offsets, written at places of larger arrays. */
type Kernel = (b: Uint8Array, at: number, codes: Uint8Array, code: number, floats: BlockFloats, block: number) => void
interface BlockFloats {
  scales: Float32Array
  offsets: Float32Array
}

const half = (b: Uint8Array, at: number): number => halfToFloat(b[at]! | (b[at + 1]! << 8))

const nibbles = (b: Uint8Array, from: number, codes: Uint8Array, code: number) => {
  for (let j = 0; j < 16; j++) {
    codes[code + j] = b[from + j]! & 15
    codes[code + j + 16] = b[from + j]! >> 4
  }
}
/** Fifth bits of 32 codes, added to their nibbles. */
const fifthBits = (b: Uint8Array, from: number, codes: Uint8Array, code: number, base: number) => {
  const high = b[from]! | (b[from + 1]! << 8) | (b[from + 2]! << 16) | (b[from + 3]! << 24)
  for (let j = 0; j < 32; j++) codes[code + j]! += (((high >>> j) & 1) << 4) + base
}

const q4_0: Kernel = (b, at, codes, code, { scales }, block) => {
  scales[block] = half(b, at)
  nibbles(b, at + 2, codes, code)
}
const q4_1: Kernel = (b, at, codes, code, { scales, offsets }, block) => {
  scales[block] = half(b, at)
  offsets[block] = half(b, at + 2) + 8 * scales[block]!
  nibbles(b, at + 4, codes, code)
}
const q5_0: Kernel = (b, at, codes, code, { scales }, block) => {
  scales[block] = half(b, at)
  nibbles(b, at + 6, codes, code)
  fifthBits(b, at + 2, codes, code, 128 - 16)
}
const q5_1: Kernel = (b, at, codes, code, { scales, offsets }, block) => {
  scales[block] = half(b, at)
  offsets[block] = half(b, at + 2) + 16 * scales[block]!
  nibbles(b, at + 8, codes, code)
  fifthBits(b, at + 4, codes, code, 128 - 16)
}
const q8_0: Kernel = (b, at, codes, code, { scales }, block) => {
  scales[block] = half(b, at)
  for (let j = 0; j < 32; j++) codes[code + j] = b[at + 2 + j]! ^ 0x80
}
/** Scales and offsets of the eight sub-blocks of Q4_K and Q5_K, whose codes have their middle at `zero`. */
const subBlocks = (b: Uint8Array, at: number, { scales, offsets }: BlockFloats, block: number, zero: number) => {
  const d = half(b, at)
  const min = half(b, at + 2)
  for (let j = 0; j < 8; j++) {
    scales[block + j] = d * scaleOf(b, at + 4, j)
    offsets[block + j] = zero * scales[block + j]! - min * minimumOf(b, at + 4, j)
  }
}
const q4_k: Kernel = (b, at, codes, code, floats, block) => {
  subBlocks(b, at, floats, block, 8)
  for (let i = 0; i < 256; i++) {
    const byte = b[at + 16 + 32 * (i >> 6) + (i & 31)]!
    codes[code + i] = i & 32 ? byte >> 4 : byte & 15
  }
}
const q5_k: Kernel = (b, at, codes, code, floats, block) => {
  subBlocks(b, at, floats, block, 16)
  for (let i = 0; i < 256; i++) {
    const byte = b[at + 48 + 32 * (i >> 6) + (i & 31)]!
    const high = (b[at + 16 + (i & 31)]! >> (i >> 5)) & 1
    codes[code + i] = ((i & 32 ? byte >> 4 : byte & 15) | (high << 4)) - 16 + 128
  }
}
const q6_k: Kernel = (b, at, codes, code, { scales }, block) => {
  const d = half(b, at + 208)
  for (let j = 0; j < 16; j++) scales[block + j] = d * ((b[at + 192 + j]! << 24) >> 24)
  for (let i = 0; i < 256; i++) {
    const [part, quarter, l] = [i >> 7, (i >> 5) & 3, i & 31]
    const low = b[at + 64 * part + 32 * (quarter & 1) + l]!
    const high = (b[at + 128 + 32 * part + l]! >> (2 * quarter)) & 3
    codes[code + i] = ((quarter & 2 ? low >> 4 : low & 15) | (high << 4)) - 32 + 128
  }
}

/** Ours: a block of theirs is one of the kernels'. */
function ownBlocks(name: string, scheme: IntScheme): [string, readonly [QuantisedForm, Kernel]] {
  const { bits, symmetric, blockSize } = scheme
  const { blockBytes } = ownBlockTypes.find(type => type.name === name)!
  const kernel: Kernel = (b, at, codes, code, { scales, offsets }, block) => {
    const stored = unpackIntBlocks(scheme, b.subarray(at, at + blockBytes))
    scales[block] = halfToFloat(stored.scales[0]!)
    // Codes from 0 have their middle at half their range; signed bytes are moved to where the kernel's zero is.
    if (!symmetric) offsets[block] = halfToFloat(stored.minima[0]!) + 2 ** (bits - 1) * scales[block]!
    codes.set(bits === 8 && symmetric ? stored.codes.map(q => q ^ 0x80) : stored.codes, code)
  }
  return [name, [{ bits, blockSize, offsets: !symmetric }, kernel]]
}

const types: Readonly<Record<string, readonly [form: QuantisedForm, kernel: Kernel]>> = {
  Q4_0: [{ bits: 4, blockSize: 32, offsets: false }, q4_0],
  Q4_1: [{ bits: 4, blockSize: 32, offsets: true }, q4_1],
  Q5_0: [{ bits: 8, blockSize: 32, offsets: false }, q5_0],
  Q5_1: [{ bits: 8, blockSize: 32, offsets: true }, q5_1],
  Q8_0: [{ bits: 8, blockSize: 32, offsets: false }, q8_0],
  Q4_K: [{ bits: 4, blockSize: 32, offsets: true }, q4_k],
  Q5_K: [{ bits: 8, blockSize: 32, offsets: true }, q5_k],
  Q6_K: [{ bits: 8, blockSize: 16, offsets: false }, q6_k],
  ...Object.fromEntries(ownBlockTypes.map(({ name }) => ownBlocks(name, intScheme(name)!))),
}

/** The form that tensors of this type have losslessly; undefined for plain numbers and types that are not read. */
export const quantisedForm = (dtype: string): QuantisedForm | undefined => types[dtype]?.[0]

export interface QuantisedBlocks {
  /** Packed as `bits` says. */
  codes: Uint8Array
  /** Per `blockSize` elements. */
  scales: Float32Array
  /** Likewise; all 0 where the form has none. */
  offsets: Float32Array
}

/** Unpacks whole stored blocks (`elements` in all, `blockElements` and `blockBytes` each). */
export function unpackBlocks(
  dtype: string,
  bytes: Uint8Array,
  elements: number,
  stored: { blockSize: number; blockBytes: number },
): QuantisedBlocks {
  const [form, kernel] = types[dtype]!
  const codes = new Uint8Array(elements)
  const count = elements / form.blockSize
  const floats = { scales: new Float32Array(count), offsets: new Float32Array(count) }
  const perStored = stored.blockSize / form.blockSize
  for (let i = 0; i < elements / stored.blockSize; i++) {
    kernel(bytes, i * stored.blockBytes, codes, i * stored.blockSize, floats, i * perStored)
  }
  if (form.bits === 8) return { codes, ...floats }
  const packed = new Uint8Array(elements / 2)
  for (let i = 0; i < packed.length; i++) packed[i] = codes[2 * i]! | (codes[2 * i + 1]! << 4)
  return { codes: packed, ...floats }
}
