// The scale, and minimum, of one block of weights that leave the least weighted error, as half-precision numbers.
import { halfToFloat } from '../formats/dequantize.js'
import { floatToHalf } from '../formats/half.js'
import type { IntScheme } from '../formats/int-blocks.js'

/** Bits of half-precision numbers. */
export interface BlockScale {
  scale: number
  /** 0 where symmetric. */
  minimum: number
}

/** Steps by which the range is widened and narrowed; beyond these the error only grows (ggml's make_qx_quants tries as many). */
const steps = 9

/**
 * Tries several ranges; each gives codes, and these the scale by weighted least squares (as ggml's make_qx_quants and make_qkx2_quants).
 * @param values the block, from `at` on in steps of `stride`
 * @param weights what an error in each column costs, from `from` on
 */
export function blockScale(
  values: Float32Array,
  at: number,
  stride: number,
  weights: Float32Array,
  from: number,
  scheme: IntScheme,
): BlockScale {
  return scheme.symmetric
    ? symmetricScale(values, at, stride, weights, from, scheme)
    : scaleAndMinimum(values, at, stride, weights, from, scheme)
}

function symmetricScale(
  values: Float32Array,
  at: number,
  stride: number,
  weights: Float32Array,
  from: number,
  { bits, blockSize }: IntScheme,
): BlockScale {
  const most = 2 ** (bits - 1)
  let greatest = 0
  let signed = 0
  for (let j = 0; j < blockSize; j++) {
    const value = values[at + j * stride]!
    if (Math.abs(value) > greatest) {
      greatest = Math.abs(value)
      signed = value
    }
  }
  if (greatest === 0) return { scale: 0, minimum: 0 }
  let best = 0
  let scale = floatToHalf(signed / -most)
  const range = bits === 4 ? steps : 1
  for (let step = -range; step <= range; step++) {
    // The value of greatest magnitude becomes code -8, give or take.
    const inverse = -(most + 0.1 * step) / signed
    let xl = 0
    let ll = 0
    for (let j = 0; j < blockSize; j++) {
      const value = values[at + j * stride]!
      const code = Math.max(-most, Math.min(most - 1, Math.round(value * inverse)))
      const weighted = weights[from + j]! * code
      xl += weighted * value
      ll += weighted * code
    }
    // The error is sum(w x²) - xl² / ll.
    if (ll > 0 && xl * xl > best * ll) {
      best = (xl * xl) / ll
      scale = floatToHalf(xl / ll)
    }
  }
  return { scale, minimum: 0 }
}

function scaleAndMinimum(
  values: Float32Array,
  at: number,
  stride: number,
  weights: Float32Array,
  from: number,
  { bits, blockSize }: IntScheme,
): BlockScale {
  const most = 2 ** bits - 1
  let low = Number.POSITIVE_INFINITY
  let high = Number.NEGATIVE_INFINITY
  for (let j = 0; j < blockSize; j++) {
    const value = values[at + j * stride]!
    if (value < low) low = value
    if (value > high) high = value
  }
  if (low === high) return { scale: 0, minimum: floatToHalf(low) }
  let found: BlockScale = { scale: floatToHalf((high - low) / most), minimum: floatToHalf(low) }
  let least = Number.POSITIVE_INFINITY
  const range = bits === 4 ? steps : 0
  for (let step = -range; step <= range; step++) {
    const inverse = (most + 0.1 * step) / (high - low)
    let [w, x, l, xl, ll, xx] = [0, 0, 0, 0, 0, 0]
    for (let j = 0; j < blockSize; j++) {
      const value = values[at + j * stride]!
      const code = Math.max(0, Math.min(most, Math.round((value - low) * inverse)))
      const weight = weights[from + j]!
      w += weight
      x += weight * value
      l += weight * code
      xl += weight * value * code
      ll += weight * code * code
      xx += weight * value * value
    }
    const determinant = w * ll - l * l
    if (determinant <= 0) continue
    const scale = (w * xl - x * l) / determinant
    const minimum = (ll * x - l * xl) / determinant
    const error = xx - scale * xl - minimum * x
    if (scale > 0 && error < least) {
      least = error
      found = { scale: floatToHalf(scale), minimum: floatToHalf(minimum) }
    }
  }
  // The same numbers as the plain range gives, where half precision cannot hold the better ones.
  return Number.isFinite(halfToFloat(found.scale))
    ? found
    : { scale: floatToHalf((high - low) / most), minimum: floatToHalf(low) }
}
