// Rotary position embedding: the cos and sin tables that graphs are fed (Su et al. 2021, arXiv 2104.09864).
import { DomainError } from '../../lib/errors.js'
import type { ResolvedDimensions } from '../architectures/architecture.js'

export interface RopeTables {
  /** [positions, head size / 2] */
  cos: Float32Array
  sin: Float32Array
  positions: number
}

/**
 * Tables for positions 0 … `positions` - 1.
 * @param factors divisors of the frequencies [head size / 2], where the file carries them (GGUF `rope_freqs`)
 */
export function ropeTables(d: ResolvedDimensions, positions: number, factors?: Float32Array): RopeTables {
  const frequencies = ropeFrequencies(d).map((f, i) => f / (factors?.[i] ?? 1))
  const half = frequencies.length
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * frequencies[i]!
      cos[position * half + i] = Math.cos(angle)
      sin[position * half + i] = Math.sin(angle)
    }
  }
  return { cos, sin, positions }
}

/** Angle per position of each pair [head size / 2], without scaling. */
export const plainRopeFrequencies = (d: ResolvedDimensions): number[] =>
  Array.from({ length: d.headSize / 2 }, (_, i) => d.ropeTheta ** ((-2 * i) / d.headSize))

/** Angle per position of each pair [head size / 2], after the scaling the source states. Throws UNSUPPORTED_ARCHITECTURE for others. */
export function ropeFrequencies(d: ResolvedDimensions): number[] {
  const plain = plainRopeFrequencies(d)
  const scaling = d.ropeScaling
  const type = String(scaling?.rope_type ?? scaling?.type ?? 'default')
  const number = (key: string): number => {
    const value = scaling?.[key]
    if (typeof value === 'number' && value > 0) return value
    throw new DomainError(
      'UNSUPPORTED_ARCHITECTURE',
      `RoPE scaling "${type}": ${key} is ${value}, expected a number > 0`,
    )
  }
  switch (type) {
    case 'default':
    case 'none':
      return plain
    // Scales only beyond the trained context, which is as far as we go.
    case 'dynamic':
      return plain
    case 'linear':
      return plain.map(f => f / number('factor'))
    case 'llama3':
      return plain.map(f => llama3Frequency(f, number))
    default:
      throw new DomainError(
        'UNSUPPORTED_ARCHITECTURE',
        `RoPE scaling "${type}" is not known here (known: linear, llama3)`,
      )
  }
}

/** Long waves are stretched by `factor`, short ones kept, those between blended (transformers `_compute_llama3_parameters`). */
function llama3Frequency(frequency: number, number: (key: string) => number): number {
  const waves = number('original_max_position_embeddings') / ((2 * Math.PI) / frequency)
  const [low, high] = [number('low_freq_factor'), number('high_freq_factor')]
  const kept = Math.min(1, Math.max(0, (waves - low) / (high - low)))
  return (1 - kept) * (frequency / number('factor')) + kept * frequency
}
