// Whole-number blocks: 4 or 8 bits, symmetric or with a minimum, 32 to 128 weights to a scale. At 32 these are ggml's Q4_0, Q4_1 and Q8_0;
// the others are ours, laid out alike: float16 scale, float16 minimum where there is one, codes (4 bits: of 32 weights the first 16 in the
// low halves of 16 bytes, the rest in the high halves).
import { DomainError } from '../../lib/errors.js'
import { blockSizes, blockBytes as sizeInBytes, type WeightScheme } from '../../lib/quantization.js'

export type IntScheme = WeightScheme

const ggmlNames: Readonly<Record<string, string>> = { '4 true 32': 'Q4_0', '4 false 32': 'Q4_1', '8 true 32': 'Q8_0' }

/** The dtype of tensors that are stored so: `Q4_0`, `INT4_64`, `INT8A_32` (A: asymmetric). */
export const intDtype = ({ bits, symmetric, blockSize }: IntScheme): string =>
  ggmlNames[`${bits} ${symmetric} ${blockSize}`] ?? `INT${bits}${symmetric ? '' : 'A'}_${blockSize}`

export const intSchemes: readonly IntScheme[] = ([4, 8] as const).flatMap(bits =>
  [true, false].flatMap(symmetric => blockSizes.map(blockSize => ({ bits, symmetric, blockSize }))),
)

const byDtype = new Map(intSchemes.map(scheme => [intDtype(scheme), scheme]))

/** How a dtype's blocks are made; undefined where it is no whole-number block type. */
export const intScheme = (dtype: string): IntScheme | undefined => byDtype.get(dtype)

/** The block types that ggml does not have, as its table describes types. */
export const ownBlockTypes = intSchemes
  .filter(scheme => intDtype(scheme).startsWith('INT'))
  .map(scheme => ({ id: -1, name: intDtype(scheme), blockSize: scheme.blockSize, blockBytes: sizeInBytes(scheme) }))

/** Codes are bytes: from 0 where asymmetric, and at 4 bits symmetric around 8; two's complement at 8 bits symmetric. */
export interface IntBlocks {
  /** [blocks * blockSize] */
  codes: Uint8Array
  /** [blocks] bits of half-precision numbers. */
  scales: Uint16Array
  /** Likewise, where asymmetric. */
  minima: Uint16Array
}

const word = (b: Uint8Array, at: number) => b[at]! | (b[at + 1]! << 8)
const putWord = (b: Uint8Array, at: number, value: number) => {
  b[at] = value & 255
  b[at + 1] = value >> 8
}

/** Blocks as stored bytes. */
export function packIntBlocks(scheme: IntScheme, { codes, scales, minima }: IntBlocks): Uint8Array {
  const { bits, symmetric, blockSize } = scheme
  const blockBytes = sizeInBytes(scheme)
  const out = new Uint8Array(scales.length * blockBytes)
  for (let block = 0; block < scales.length; block++) {
    let at = block * blockBytes
    putWord(out, at, scales[block]!)
    at += 2
    if (!symmetric) {
      putWord(out, at, minima[block]!)
      at += 2
    }
    const from = block * blockSize
    if (bits === 8) {
      out.set(codes.subarray(from, from + blockSize), at)
      continue
    }
    for (let group = 0; group < blockSize; group += 32, at += 16) {
      for (let j = 0; j < 16; j++) out[at + j] = codes[from + group + j]! | (codes[from + group + j + 16]! << 4)
    }
  }
  return out
}

/** Stored bytes as blocks. */
export function unpackIntBlocks(scheme: IntScheme, bytes: Uint8Array): IntBlocks {
  const { bits, symmetric, blockSize } = scheme
  const blockBytes = sizeInBytes(scheme)
  const blocks = Math.floor(bytes.length / blockBytes)
  const codes = new Uint8Array(blocks * blockSize)
  const scales = new Uint16Array(blocks)
  const minima = new Uint16Array(symmetric ? 0 : blocks)
  for (let block = 0; block < blocks; block++) {
    let at = block * blockBytes
    scales[block] = word(bytes, at)
    at += 2
    if (!symmetric) {
      minima[block] = word(bytes, at)
      at += 2
    }
    const from = block * blockSize
    if (bits === 8) {
      codes.set(bytes.subarray(at, at + blockSize), from)
      continue
    }
    for (let group = 0; group < blockSize; group += 32, at += 16) {
      for (let j = 0; j < 16; j++) {
        codes[from + group + j] = bytes[at + j]! & 15
        codes[from + group + j + 16] = bytes[at + j]! >> 4
      }
    }
  }
  return { codes, scales, minima }
}

/** The scheme of ggml that holds the same weights: scales are repeated for each 32. Undefined for 8 bits with a minimum, which ggml lacks. */
export function ggmlScheme(scheme: IntScheme): IntScheme | undefined {
  const at32: IntScheme = { ...scheme, blockSize: 32 }
  return intDtype(at32).startsWith('INT') ? undefined : at32
}

/** Blocks in smaller blocks, each with the scale of the one it was part of. */
export function splitIntBlocks(from: IntScheme, to: IntScheme, { codes, scales, minima }: IntBlocks): IntBlocks {
  const parts = from.blockSize / to.blockSize
  if (!Number.isInteger(parts) || from.bits !== to.bits || from.symmetric !== to.symmetric)
    throw new DomainError('UNSUPPORTED_FORMAT', `${intDtype(from)} blocks are not ${intDtype(to)} blocks`)
  const repeated = (values: Uint16Array) => {
    const out = new Uint16Array(values.length * parts)
    for (let i = 0; i < out.length; i++) out[i] = values[Math.floor(i / parts)]!
    return out
  }
  return { codes, scales: repeated(scales), minima: repeated(minima) }
}
