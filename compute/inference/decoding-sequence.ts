// One sequence that grows token by token, with the keys and values of its past kept in buffers between runs.
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { finiteFloats, type RuntimeTensor } from '../runtime/session.js'
import { type CacheBuffers, cacheRows } from './cache-rows.js'
import { throwIfCancelled } from './cancellation.js'

export interface DecodingSequence {
  /** Tokens so far. */
  readonly length: number
  /**
   * Runs the tokens after those before; gives the logits [vocabulary] that follow the last one. Not to be called twice at once, nor
   * after it was cancelled or failed.
   */
  append(ids: readonly number[], signal?: AbortSignal): Promise<Float32Array>
}

/**
 * Runs tokens after the past in `cache`: several of one sequence, or one each of several. `starts` [sequences] is how many each has
 * already. Gives `logits` [rows, vocabulary] of the tokens named by `rows`, counted over all sequences.
 */
export type RunTokens = (
  ids: readonly (readonly number[])[],
  starts: readonly number[],
  rows: readonly number[],
  cache: CacheBuffers,
  signal?: AbortSignal,
) => Promise<Record<string, RuntimeTensor>>

/** Tokens of a prompt that run at once: bounds how long other sequences wait for their turn (about a quarter second at 135 M parameters). */
export const prefillChunk = 128

/** A new, empty sequence. */
export function startSequence(d: ResolvedDimensions, run: RunTokens): DecodingSequence {
  const cache = cacheRows(d)
  let length = 0
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
        cache.reserve(1, length + chunk.length, [length])
        const results = await run([chunk], [length], last ? [chunk.length - 1] : [], cache.buffers(0, 1), signal)
        length += chunk.length
        if (last) return finiteFloats(results.logits!, 'logits')
      }
    },
  }
}
