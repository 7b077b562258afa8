// What the outputs of a model's layers look like on a sample: size, outliers, and the mean vector, as sums that add up over samples.

/** Of one layer, over the tokens that count: all but the sample's first, or that one where there is no other. */
export interface ActivationSums {
  tokens: number
  /** Sum over tokens of mean(x) and of mean(x^2) over the hidden units. */
  mean: number
  square: number
  /** Greatest |x|. */
  largest: number
  /** Sum over tokens of mean(x^4) / mean(x^2)^2. */
  kurtosis: number
}

export interface ActivationStatistics {
  mean: number
  standardDeviation: number
  rms: number
  maximum: number
  kurtosis: number
}

/** The first token carries a value far beyond all others in most models (arXiv 2309.17453); it says nothing of the sample. */
export const firstCounted = (tokens: number) => (tokens > 1 ? 1 : 0)

/**
 * Adds one sample's rows of a layer's output, [tokens, size] from `start` on. Runs inside the pass that compares input and output anyway.
 * @param centroid [size] where the mean over the counted tokens is written
 */
export function activationSums(
  hidden: Float32Array,
  start: number,
  tokens: number,
  size: number,
  centroid: Float32Array,
): ActivationSums {
  const first = firstCounted(tokens)
  const counted = tokens - first
  const sums: ActivationSums = { tokens: counted, mean: 0, square: 0, largest: 0, kurtosis: 0 }
  for (let token = first; token < tokens; token++) {
    const from = start + token * size
    let sum = 0
    let squares = 0
    let fourths = 0
    for (let i = 0; i < size; i++) {
      const x = hidden[from + i]!
      const square = x * x
      sum += x
      squares += square
      fourths += square * square
      centroid[i]! += x / counted
      if (square > sums.largest) sums.largest = square
    }
    sums.mean += sum / size
    sums.square += squares / size
    sums.kurtosis += squares === 0 ? 0 : (size * fourths) / (squares * squares)
  }
  sums.largest = Math.sqrt(sums.largest)
  return sums
}

/** Of several samples' sums of one layer. */
export function activationStatistics(all: readonly ActivationSums[]): ActivationStatistics {
  const tokens = all.reduce((sum, own) => sum + own.tokens, 0)
  const over = (pick: (sums: ActivationSums) => number) => all.reduce((sum, own) => sum + pick(own), 0) / tokens
  const mean = over(s => s.mean)
  const square = over(s => s.square)
  return {
    mean,
    standardDeviation: Math.sqrt(Math.max(0, square - mean * mean)),
    rms: Math.sqrt(square),
    maximum: Math.max(...all.map(s => s.largest)),
    kurtosis: over(s => s.kurtosis),
  }
}

/** Numbers as bfloat16 in base64, rounded to the nearest: a third of a percent at most, in a quarter of the text that decimals take. */
export function encodeVector(values: Float32Array): string {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  // Half of the last kept bit, and that bit itself for ties (round half to even).
  for (let i = 0; i < bits.length; i++) halves[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16
  return Buffer.from(halves.buffer).toString('base64')
}

/** @returns undefined where the text does not hold `length` numbers */
export function decodeVector(text: string, length: number): Float32Array | undefined {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.length !== 2 * length) return undefined
  const bits = new Uint32Array(length)
  for (let i = 0; i < length; i++) bits[i] = bytes.readUInt16LE(2 * i) << 16
  return new Float32Array(bits.buffer)
}
