// One sequence that grows token by token, with the keys and values of its past kept in buffers between runs.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { finiteFloats, floats, type RuntimeTensor } from '../runtime/session.js'
import { throwIfCancelled } from './cancellation.js'
import { kernelHeadSize } from './model-graph.js'

export interface DecodingSequence {
  /** Tokens so far. */
  readonly length: number
  /**
   * Runs the tokens after those before; gives the logits [vocabulary] that follow the last one. Not to be called twice at once, nor
   * after it was cancelled or failed.
   */
  append(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array>
}

/** The same buffers as inputs (`past.*`) and as outputs (`present.*`): keys and values are written in place. */
export interface CacheBuffers {
  past: Readonly<Record<string, RuntimeTensor>>
  present: Readonly<Record<string, RuntimeTensor>>
}

/** Runs tokens from position `start`; wants logits of the rows named (see model-graph). */
export type RunTokens = (
  ids: readonly number[],
  start: number,
  rows: readonly number[],
  cache: CacheBuffers,
  signal: AbortSignal | undefined,
) => Promise<Record<string, RuntimeTensor>>

/** Tokens of a prompt that run at once: bounds how long other sequences wait for their turn (about a quarter second at 135 M parameters). */
const prefillChunk = 128
/** Buffers begin with room for this many positions and double when full: growing copies them. */
const firstCapacity = 128

/** A new, empty sequence. */
export function startSequence(d: ResolvedDimensions, run: RunTokens): DecodingSequence {
  const names = Array.from({ length: d.layerCount }, (_, layer) => {
    const heads = layerDimensions(d, layer).keyValueHeadCount
    return [
      { name: `${layer}.key`, heads },
      { name: `${layer}.value`, heads },
    ]
  }).flat()
  const headSize = kernelHeadSize(d.headSize)
  let length = 0
  let capacity = 0
  let cache: CacheBuffers = { past: {}, present: {} }

  const reserve = (positions: number) => {
    if (positions <= capacity) return
    let grown = capacity || firstCapacity
    while (grown < positions) grown *= 2
    grown = Math.max(positions, Math.min(grown, d.contextLength))
    const buffers = names.map(({ name, heads }) => {
      const data = new Float32Array(heads * grown * headSize)
      const old = cache.past[`past.${name}`]?.data as Float32Array | undefined
      for (let head = 0; old && head < heads; head++) {
        const from = head * capacity * headSize
        data.set(old.subarray(from, from + length * headSize), head * grown * headSize)
      }
      return floats(data, [1, heads, grown, headSize])
    })
    const named = (kind: string) => Object.fromEntries(names.map(({ name }, i) => [`${kind}.${name}`, buffers[i]!]))
    cache = { past: named('past'), present: named('present') }
    capacity = grown
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
        const results = await run(chunk, length, last ? [chunk.length - 1] : [], cache, signal)
        length += chunk.length
        if (last) return finiteFloats(results.logits!, 'logits')
      }
    },
  }
}
