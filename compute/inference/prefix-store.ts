// Keys and values of sequences that ended, kept for those that begin with the same tokens: the turns of a chat, prompts with one preamble.
import type { SavedRow } from './cache-rows.js'

/** A sequence whose keys and values can be taken over. */
export interface KnownPrefix {
  ids: readonly number[]
  /** Leading positions whose numbers are those that reading the same tokens would give, bit for bit: they were read, not generated. */
  exactLength: number
}

interface Kept extends KnownPrefix {
  owner: object
  saved: SavedRow
}

export interface PrefixStore {
  /** The sequences kept for this owner. */
  of(owner: object): Iterable<KnownPrefix & { saved: SavedRow }>
  /** The entry was of use: it is dropped later than others. */
  touch(entry: KnownPrefix): void
  /** Keeps a sequence where it fits, in place of those it goes on from; `save` is called only then. */
  keep(owner: object, prefix: KnownPrefix, bytes: number, save: () => SavedRow): void
  /** Forgets all of an owner. */
  drop(owner: object): void
  /** Bytes kept now, of all owners. */
  readonly bytes: number
}

/** Fewer tokens are read again faster than they are looked up. */
export const leastPrefix = 8
/** Sequences kept at most: each is compared with every prompt. */
const maximumEntries = 64
/** A sequence that would take more than this share of the bytes would push out all others. */
const largestShare = 0.5

/** Tokens that two sequences have in common at their beginning. */
export function commonLength(a: readonly number[], b: readonly number[]): number {
  const end = Math.min(a.length, b.length)
  let length = 0
  while (length < end && a[length] === b[length]) length++
  return length
}

/** @param maximumBytes of all that is kept; 0 keeps nothing */
export function prefixStore(maximumBytes: number): PrefixStore {
  // In order of use, the one not used for longest first.
  const entries = new Set<Kept>()
  let bytes = 0
  const remove = (entry: Kept) => {
    if (entries.delete(entry)) bytes -= entry.saved.data.byteLength
  }
  return {
    get bytes() {
      return bytes
    },
    of: owner => [...entries].filter(entry => entry.owner === owner),
    touch(entry) {
      const kept = entry as Kept
      if (entries.delete(kept)) entries.add(kept)
    },
    keep(owner, prefix, size, save) {
      const { ids } = prefix
      if (ids.length < leastPrefix || size > maximumBytes * largestShare) return
      for (const entry of this.of(owner) as Kept[]) {
        const common = commonLength(entry.ids, ids)
        if (common === ids.length && entry.exactLength >= prefix.exactLength) return this.touch(entry)
        if (common === entry.ids.length && prefix.exactLength >= entry.exactLength) remove(entry)
      }
      for (const oldest of entries) {
        if (bytes + size <= maximumBytes && entries.size < maximumEntries) break
        remove(oldest)
      }
      const saved = save()
      entries.add({ ...prefix, owner, saved })
      bytes += saved.data.byteLength
    },
    drop(owner) {
      for (const entry of this.of(owner) as Kept[]) remove(entry)
    },
  }
}
