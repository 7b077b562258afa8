// One sequence that grows token by token, with the keys and values of its past kept in buffers between runs.
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { finiteFloats, floats, type RuntimeTensor } from '../runtime/session.js'
import { throwIfCancelled } from './cancellation.js'

export interface DecodingSequence {
  /** Tokens so far. */
  readonly length: number
  /** Runs the tokens after those before; gives the logits [vocabulary] that follow the last one. Not to be called twice at once. */
  append(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array>
}

/** Runs tokens from position `start`; wants logits of the rows named and `new_cache` (see model-graph). */
export type RunTokens = (
  ids: readonly number[],
  start: number,
  rows: readonly number[],
  past: Record<string, RuntimeTensor>,
) => Promise<Record<string, RuntimeTensor>>

/** Tokens of a prompt that run at once: bounds how long the event loop is blocked (about a quarter second at 135 M parameters). */
const prefillChunk = 128
/** Buffers grow by this many positions: growing copies them, and attention clears the unused part at every step. */
const capacityStep = 128

/** A new, empty sequence. */
export function startSequence(d: ResolvedDimensions, run: RunTokens): DecodingSequence {
  const names = Array.from({ length: d.layerCount }, (_, layer) => [`past.${layer}.key`, `past.${layer}.value`]).flat()
  const { keyValueHeadCount: heads, headSize } = d
  let length = 0
  let capacity = 0
  let past: Record<string, RuntimeTensor> = {}

  const reserve = (positions: number) => {
    if (positions <= capacity && capacity > 0) return
    const grown = Math.ceil(positions / capacityStep) * capacityStep
    past = Object.fromEntries(
      names.map(name => {
        const data = new Float32Array(heads * grown * headSize)
        const old = past[name]?.data as Float32Array | undefined
        for (let head = 0; old && head < heads; head++) {
          const from = head * capacity * headSize
          data.set(old.subarray(from, from + length * headSize), head * grown * headSize)
        }
        return [name, floats(data, [1, heads, grown, headSize])]
      }),
    )
    capacity = grown
  }
  /** `fresh` [2 * layers, kv heads, count, head size] goes behind what each buffer [1, kv heads, capacity, head size] holds. */
  const remember = (fresh: Float32Array, count: number) => {
    const block = count * headSize
    names.forEach((name, index) => {
      const buffer = past[name]!.data as Float32Array
      for (let head = 0; head < heads; head++) {
        const from = (index * heads + head) * block
        buffer.set(fresh.subarray(from, from + block), (head * capacity + length) * headSize)
      }
    })
    length += count
  }

  return {
    get length() {
      return length
    },
    async append(ids, signal) {
      if (ids.length === 0) throw new Error('append needs at least one token')
      for (let at = 0; ; at += prefillChunk) {
        throwIfCancelled(signal)
        const chunk = ids.slice(at, at + prefillChunk)
        const last = at + prefillChunk >= ids.length
        reserve(length + chunk.length)
        const results = await run(chunk, length, last ? [chunk.length - 1] : [], past)
        remember(results.new_cache!.data as Float32Array, chunk.length)
        if (last) return finiteFloats(results.logits!, 'logits')
      }
    },
  }
}
