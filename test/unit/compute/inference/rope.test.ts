import { describe, expect, test } from 'vitest'
import type { ResolvedDimensions } from '../../../../compute/architectures/architecture.js'
import { ropeFrequencies, ropeTables } from '../../../../compute/inference/rope.js'

const dimensions = (extra: Partial<ResolvedDimensions> = {}) =>
  ({ headSize: 64, ropeTheta: 500000, ropeScaling: undefined, ...extra }) as ResolvedDimensions
const plain = Array.from({ length: 32 }, (_, i) => 1 / 500000 ** (i / 32))

describe('ropeFrequencies', () => {
  test('are theta to the power of -2i/d', () => {
    ropeFrequencies(dimensions()).forEach((f, i) => {
      expect(f).toBeCloseTo(plain[i]!, 12)
    })
  })

  test('linear scaling divides all of them', () => {
    const scaled = ropeFrequencies(dimensions({ ropeScaling: { type: 'linear', factor: 4 } }))
    expect(scaled[5]! * 4).toBeCloseTo(plain[5]!, 12)
  })

  test('llama3 scaling keeps short waves, stretches long ones and blends between (Llama 3.2: factor 32, 1, 4, 8192)', () => {
    const ropeScaling = {
      rope_type: 'llama3',
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    }
    const scaled = ropeFrequencies(dimensions({ ropeScaling }))
    let branches = 0
    plain.forEach((f, i) => {
      const wave = (2 * Math.PI) / f
      if (wave < 8192 / 4) {
        expect(scaled[i]).toBeCloseTo(f, 12)
        branches |= 1
      } else if (wave > 8192 / 1) {
        expect(scaled[i]).toBeCloseTo(f / 32, 12)
        branches |= 2
      } else {
        const smooth = (8192 / wave - 1) / (4 - 1)
        expect(scaled[i]).toBeCloseTo(((1 - smooth) * f) / 32 + smooth * f, 12)
        branches |= 4
      }
    })
    expect(branches).toBe(7)
  })

  test('an unknown kind and a missing number are named', () => {
    const open = (ropeScaling: Record<string, unknown>) => () => ropeFrequencies(dimensions({ ropeScaling }))
    expect(open({ rope_type: 'yarn', factor: 4 })).toThrow(/RoPE scaling "yarn" is not known/)
    expect(open({ type: 'linear' })).toThrow('RoPE scaling "linear": factor is undefined, expected a number > 0')
  })
})

test('tables hold cos and sin of position times frequency, divided by the file’s own factors', () => {
  const factors = new Float32Array(32).fill(2)
  const { cos, sin } = ropeTables(dimensions(), 10, factors)
  expect(cos[7 * 32 + 3]).toBeCloseTo(Math.cos((7 * plain[3]!) / 2), 6)
  expect(sin[7 * 32 + 3]).toBeCloseTo(Math.sin((7 * plain[3]!) / 2), 6)
})
