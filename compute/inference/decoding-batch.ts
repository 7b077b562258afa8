// Continuous batching: sequences of one model share every run. What comes joins, what ends leaves, between two steps.
import { setImmediate } from 'node:timers/promises'
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { cancellationOf, throwIfCancelled } from '../runtime/cancellation.js'
import { finiteFloats, floats } from '../runtime/session.js'
import { bytesPerPosition, cacheRows } from './cache-rows.js'
import { type DecodingSequence, prefillChunk, type RunTokens } from './decoding-sequence.js'
import { commonLength, type KnownPrefix, leastPrefix, type PrefixStore } from './prefix-store.js'

export interface BatchRow extends DecodingSequence {
  /** Leading tokens of the first `append` that were not run: their keys and values were there from another sequence. */
  readonly reused: number
  /** Leaves the batch with the next step; what was computed is kept for sequences that begin alike. Called once nobody waits any more. */
  close(): void
}

export interface RowOptions {
  /** Positions it may come to: what it is given memory for. */
  positions: number
  /**
   * Whether its numbers must not depend, bit for bit, on what else runs or was kept. Costs a quarter of the speed of a sequence that
   * runs alone: kernels sum in another order for one row than for several, so it never runs as one.
   */
  exact?: boolean
}

export interface DecodingBatch {
  /** A new sequence; it joins when it first appends. */
  open(options: RowOptions): BatchRow
  /** Sequences in the batch now. */
  readonly size: number
  /** Rows of every step since the batch was made, those that had nothing to do not counted: how full it ran. */
  readonly steps: { runs: number; rows: number }
  dispose(): void
}

export interface BatchModel {
  name: string
  dimensions: ResolvedDimensions
  run: RunTokens
  /** Throws where these tokens, as part of a sequence of that length, do not suit the model. */
  check(ids: readonly number[], length: number): void
}

interface Waiting {
  ids: readonly number[]
  /** Tokens of `ids` that were run, or need not be. */
  done: number
  resolve(logits: Float32Array): void
  reject(error: unknown): void
}

interface Row extends KnownPrefix {
  ids: number[]
  options: RowOptions
  reused: number
  waiting: Waiting | undefined
  closed: boolean
  /** Why nothing can be appended any more: a run failed, or its caller left in the middle. */
  failed: unknown
  /** Whether its keys and values are not to be trusted. */
  broken: boolean
}

/**
 * @param prefixes where sequences that ended are kept for others; absent: nowhere
 * @param maximumBytes of keys and values of all sequences together: more wait until others have left. One alone may take more.
 */
export function decodingBatch(
  model: BatchModel,
  prefixes: PrefixStore | undefined,
  maximumBytes: number,
): DecodingBatch {
  const { dimensions: d, run } = model
  const cache = cacheRows(d)
  const positionBytes = bytesPerPosition(d)
  /** By their row in the cache. */
  const rows: Row[] = []
  /** In the order they came. */
  const joining = new Set<Row>()
  const steps = { runs: 0, rows: 0 }
  let working = false
  let disposed = false

  const wake = () => {
    if (working || disposed) return
    working = true
    void work()
  }

  async function work() {
    while (!disposed) {
      // Whoever got logits chooses its next token first, and cancellations and new sequences come in.
      await setImmediate()
      if (disposed) return
      leave()
      join()
      const stepping = rows.filter(isStepping)
      if (stepping.length > 0) await step(stepping)
      const reading = rows.find(isReading)
      if (reading && !disposed) await read(reading)
      if (stepping.length > 0 || reading) continue
      if (rows.length === 0) cache.clear()
      // Before returning: a wake in between would be lost.
      working = false
      return
    }
  }

  /** Rows that ended make room: the last one moves into the gap, since those that run together lie side by side. */
  function leave() {
    for (const row of joining) if (row.closed || !row.waiting) joining.delete(row)
    for (let at = rows.length - 1; at >= 0; at--) {
      const row = rows[at]!
      if (!row.closed) continue
      keep(row, at)
      const last = rows.pop()!
      if (last === row) continue
      cache.copy(rows.length, at, last.ids.length)
      rows[at] = last
    }
  }

  function keep(row: Row, at: number) {
    // A row that had nothing to do ran along at its next position, which a full one does not have.
    const ids = row.ids.slice(0, d.contextLength - 1)
    if (row.broken) return
    const save = () => cache.save(at, ids.length)
    prefixes?.keep(model, { ids, exactLength: row.exactLength }, ids.length * positionBytes, save)
  }

  /** Prompts are read one after the other anyway, so each joins when the one before has been read, and can take over what they share. */
  function join() {
    const [row] = joining
    if (!row || rows.some(isReading)) return
    const bytes = [row, ...rows].reduce((sum, { options }) => sum + options.positions * positionBytes, 0)
    if (rows.length > 0 && bytes > maximumBytes) return
    joining.delete(row)
    rows.push(row)
    takeOver(row)
  }

  /** Fills a new row with what is known of its first tokens, from the batch or from what was kept. */
  function takeOver(row: Row) {
    const { ids } = row.waiting!
    // The logits asked for are the last token's, so it is run; an exact row runs it with the one before (see RowOptions).
    const most = row.options.exact ? ids.length - 2 : ids.length - 1
    const usable = (known: KnownPrefix) =>
      Math.min(commonLength(known.ids, ids), most, row.options.exact ? known.exactLength : most)
    const others = rows.filter(other => other !== row && !other.broken)
    const known: KnownPrefix[] = prefixes ? [...prefixes.of(model), ...others] : []
    const best = known.reduce<KnownPrefix | undefined>((a, b) => (a && usable(a) >= usable(b) ? a : b), undefined)
    const length = best ? usable(best) : 0
    const at = rows.indexOf(row)
    reserve(Math.max(length, 1))
    if (!best || length < leastPrefix) return
    if ('saved' in best) {
      const entry = best as KnownPrefix & { saved: Parameters<typeof cache.restore>[1] }
      cache.restore(at, entry.saved, length)
      prefixes?.touch(best)
    } else cache.copy(rows.indexOf(best as Row), at, length)
    row.ids.push(...ids.slice(0, length))
    row.exactLength = Math.min(best.exactLength, length)
    row.reused = length
    row.waiting!.done = length
  }

  /** Room for all rows, and one more position each than they hold. */
  function reserve(positions: number, count = rows.length) {
    const lengths = rows.map(row => row.ids.length)
    cache.reserve(
      Math.max(count, rows.length),
      Math.min(d.contextLength, Math.max(positions, ...lengths.map(l => l + 1))),
      lengths,
    )
  }

  /** One token of each of these rows, in one run. Rows between them that have nothing to do run along on a token that is overwritten later. */
  async function step(stepping: readonly Row[]) {
    const least = stepping.some(row => row.options.exact) ? 2 : 1
    const count = Math.max(least, ...stepping.map(row => rows.indexOf(row) + 1))
    reserve(1, count)
    const members = Array.from({ length: count }, (_, at) => rows[at])
    const ids = members.map(row => [row && stepping.includes(row) ? row.waiting!.ids[row.waiting!.done]! : 0])
    const starts = members.map(row => Math.min(row?.ids.length ?? 0, d.contextLength - 1))
    const waiting = new Map(stepping.map(row => [row, row.waiting!]))
    try {
      const wanted = members.map((_, at) => at)
      const { logits } = await run(ids, starts, wanted, cache.buffers(0, count))
      const all = logits!.data as Float32Array
      for (const row of stepping) {
        const at = members.indexOf(row)
        const own = all.subarray(at * d.vocabularySize, (at + 1) * d.vocabularySize)
        advance(row, waiting.get(row)!, [ids[at]![0]!], own)
      }
      steps.runs++
      steps.rows += stepping.length
    } catch (error) {
      for (const row of stepping) fail(row, waiting.get(row)!, error)
    }
  }

  /** The next part of a row's prompt. It takes its own run: the attention kernel reads several tokens of one sequence only. */
  async function read(row: Row) {
    const waiting = row.waiting!
    const at = rows.indexOf(row)
    const left = waiting.ids.length - waiting.done
    // Never one token by itself at the end: see RowOptions.
    const size = left === prefillChunk + 1 ? prefillChunk - 1 : Math.min(left, prefillChunk)
    const chunk = waiting.ids.slice(waiting.done, waiting.done + size)
    const start = row.ids.length
    reserve(start + size)
    try {
      const { logits } = await run([chunk], [start], size === left ? [size - 1] : [], cache.buffers(at, 1))
      if (row.exactLength === start && size > 1) row.exactLength += size
      advance(row, waiting, chunk, logits?.data as Float32Array | undefined)
    } catch (error) {
      fail(row, waiting, error)
    }
  }

  /** The row holds these tokens now; with `logits`, whoever waits for them gets them. */
  function advance(row: Row, waiting: Waiting, ids: readonly number[], logits: Float32Array | undefined) {
    row.ids.push(...ids)
    waiting.done += ids.length
    if (!logits) return
    // Somebody who has gone in the meantime may have left another in its place: none of theirs is touched.
    if (row.waiting === waiting) row.waiting = undefined
    try {
      waiting.resolve(finiteFloats(floats(logits, [logits.length]), 'logits'))
    } catch (error) {
      fail(row, waiting, error)
    }
  }

  function fail(row: Row, waiting: Waiting, error: unknown) {
    row.failed = error
    row.broken = true
    if (row.waiting === waiting) row.waiting = undefined
    waiting.reject(error)
  }

  const isStepping = (row: Row) =>
    row.waiting !== undefined && row.ids.length > 0 && row.waiting.ids.length - row.waiting.done === 1
  const isReading = (row: Row) => row.waiting !== undefined && !isStepping(row)

  const gone = () => new Error(`model ${model.name} was disposed`)

  return {
    get size() {
      return rows.length
    },
    steps,
    open(options) {
      const row: Row = {
        ids: [],
        exactLength: 0,
        options,
        reused: 0,
        waiting: undefined,
        closed: false,
        failed: undefined,
        broken: false,
      }
      return {
        get length() {
          return row.ids.length
        },
        get reused() {
          return row.reused
        },
        append: (ids, signal) =>
          new Promise((resolve, reject) => {
            throwIfCancelled(signal)
            if (disposed) throw gone()
            if (row.failed) throw row.failed
            if (ids.length === 0) throw new Error('append needs at least one token')
            model.check(ids, row.ids.length + ids.length)
            const stop = () => {
              if (row.waiting === waiting) row.waiting = undefined
              // Part of a prompt may have been read: nothing can be appended any more.
              row.failed = cancellationOf(signal!)
              reject(row.failed)
            }
            const settled = () => signal?.removeEventListener('abort', stop)
            const waiting: Waiting = {
              ids,
              done: 0,
              resolve(logits) {
                settled()
                resolve(logits)
              },
              reject(error) {
                settled()
                reject(error)
              },
            }
            signal?.addEventListener('abort', stop, { once: true })
            row.waiting = waiting
            if (!rows.includes(row)) joining.add(row)
            wake()
          }),
        close() {
          row.closed = true
          wake()
        },
      }
    },
    dispose() {
      disposed = true
      for (const row of [...rows, ...joining]) row.waiting?.reject(gone())
      rows.length = 0
      joining.clear()
      prefixes?.drop(model)
    },
  }
}
