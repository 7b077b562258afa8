// Keys and values of several sequences in one set of buffers, a row each: rows run together as a batch, or one by itself on its part.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { floats, type RuntimeTensor } from '../runtime/session.js'
import { kernelHeadSize } from './model-graph.js'

/** The same buffers as inputs (`past.*`) and as outputs (`present.*`): keys and values are written in place. */
export interface CacheBuffers {
  past: Readonly<Record<string, RuntimeTensor>>
  present: Readonly<Record<string, RuntimeTensor>>
}

/** Keys and values of the first positions of one sequence, packed: [layers * 2][heads of the layer][positions][head size]. */
export interface SavedRow {
  positions: number
  data: Float32Array
}

export interface CacheRows {
  /** Makes room for that many rows of that many positions each. `lengths`: positions that each row holds now, which are kept. */
  reserve(rows: number, positions: number, lengths: readonly number[]): void
  /** The buffers of rows [from, from + count): each [count, heads of the layer, capacity, head size]. Valid until the next `reserve` or `clear`. */
  buffers(from: number, count: number): CacheBuffers
  /** Copies the first positions of one row over those of another. */
  copy(from: number, to: number, positions: number): void
  save(row: number, positions: number): SavedRow
  /** Writes the first positions of what was saved into a row. */
  restore(row: number, saved: SavedRow, positions: number): void
  /** Gives all memory back. */
  clear(): void
}

/** Buffers begin with room for this many positions and double when full: growing copies them. Pages are only touched as they fill. */
const firstCapacity = 128

/** What is kept of each layer; layers may differ in their number of heads. `before`: heads of all that come earlier. */
function keptParts(d: ResolvedDimensions): { name: string; heads: number; before: number }[] {
  let before = 0
  return Array.from({ length: d.layerCount }, (_, layer) => {
    const heads = layerDimensions(d, layer).keyValueHeadCount
    return ['key', 'value'].map(part => {
      before += heads
      return { name: `${layer}.${part}`, heads, before: before - heads }
    })
  }).flat()
}

const headsOf = (parts: ReturnType<typeof keptParts>) => parts.reduce((sum, { heads }) => sum + heads, 0)

/** Bytes that one position of one sequence takes. */
export const bytesPerPosition = (d: ResolvedDimensions) =>
  headsOf(keptParts(d)) * kernelHeadSize(d.headSize) * Float32Array.BYTES_PER_ELEMENT

/** Room for sequences of a model; none at first. */
export function cacheRows(d: ResolvedDimensions): CacheRows {
  const parts = keptParts(d)
  const size = kernelHeadSize(d.headSize)
  let rows = 0
  let capacity = 0
  /** By part: [rows, heads, capacity, head size]. */
  let data: Float32Array[] = []
  const views = new Map<string, CacheBuffers>()

  /** Calls `work` for every head of a row with its part's buffer and where its positions begin there, and its number among all heads. */
  const eachHead = (row: number, work: (room: Float32Array, at: number, index: number) => void) => {
    parts.forEach(({ heads, before }, n) => {
      for (let head = 0; head < heads; head++) work(data[n]!, (row * heads + head) * capacity * size, before + head)
    })
  }

  return {
    reserve(wantedRows, positions, lengths) {
      if (wantedRows <= rows && positions <= capacity) return
      let grown = capacity || firstCapacity
      while (grown < positions) grown *= 2
      grown = Math.max(positions, Math.min(grown, d.contextLength))
      const grownRows = wantedRows <= rows ? rows : Math.max(wantedRows, 2 * rows)
      data = parts.map(({ heads }, n) => {
        const room = new Float32Array(grownRows * heads * grown * size)
        lengths.slice(0, rows).forEach((length, row) => {
          for (let head = 0; head < heads; head++) {
            const from = (row * heads + head) * capacity * size
            room.set(data[n]!.subarray(from, from + length * size), (row * heads + head) * grown * size)
          }
        })
        return room
      })
      rows = grownRows
      capacity = grown
      views.clear()
    },

    buffers(from, count) {
      const known = views.get(`${from}+${count}`)
      if (known) return known
      const tensors = parts.map(({ heads }, n) => {
        const row = heads * capacity * size
        return floats(data[n]!.subarray(from * row, (from + count) * row), [count, heads, capacity, size])
      })
      const named = (kind: string) => Object.fromEntries(parts.map(({ name }, n) => [`${kind}.${name}`, tensors[n]!]))
      const buffers = { past: named('past'), present: named('present') }
      views.set(`${from}+${count}`, buffers)
      return buffers
    },

    copy(from, to, positions) {
      const targets: number[] = []
      eachHead(to, (_room, at, index) => {
        targets[index] = at
      })
      eachHead(from, (room, at, index) => {
        room.copyWithin(targets[index]!, at, at + positions * size)
      })
    },

    save(row, positions) {
      const saved = new Float32Array(headsOf(parts) * positions * size)
      eachHead(row, (room, at, index) => {
        saved.set(room.subarray(at, at + positions * size), index * positions * size)
      })
      return { positions, data: saved }
    },

    restore(row, saved, positions) {
      eachHead(row, (room, at, index) => {
        const from = index * saved.positions * size
        room.set(saved.data.subarray(from, from + positions * size), at)
      })
    },

    clear() {
      rows = 0
      capacity = 0
      data = []
      views.clear()
    },
  }
}
