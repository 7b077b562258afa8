// float32 -> the bits of IEEE half precision and of bfloat16, rounded to nearest, ties to even, as hardware and ggml do.
const scratch = new Float32Array(1)
const scratchBits = new Uint32Array(scratch.buffer)

/** Bits of the half-precision number next to `value`; beyond 65,519 infinity. */
export function floatToHalf(value: number): number {
  scratch[0] = value
  const bits = scratchBits[0]!
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude >= 0x7f800000) return sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0)
  // 2^-14, the least normal number: below it the unit is 2^-24.
  if (magnitude < 0x38800000) {
    scratch[0] = Math.abs(value) * 2 ** 24
    return sign | roundEven(scratch[0])
  }
  // Rebias the exponent (127 -> 15), then drop 13 bits of the mantissa; a carry runs into the exponent, which is right.
  const rebiased = magnitude - 0x38000000
  const rounded = (rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13
  return sign | Math.min(rounded, 0x7c00)
}

function roundEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1
  return floor + (floor & 1)
}

/** Bits of the bfloat16 number next to `value`. */
export function floatToBfloat(value: number): number {
  scratch[0] = value
  const bits = scratchBits[0]!
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}
