// Models kept open between requests, the least recently used closed first. Their sessions' memory is the pool's (`session-pool.ts`).
import { totalmem } from 'node:os'
import { readManifest } from '../formats/manifest.js'
import { loadTokenizer, type ModelTokenizer } from '../formats/tokenizer.js'
import { unlessCancelled } from './cancellation.js'
import { type LoadedModel, type ModelContext, openModel } from './model.js'
import type { PrefixStore } from './prefix-store.js'

export interface OpenModel {
  model: LoadedModel
  tokenizer: ModelTokenizer
}

export interface ModelCache {
  /** Opens the model of a manifest, or takes the open one, for as long as `use` runs. */
  use<T>(manifestHash: string, context: ModelContext, use: (opened: OpenModel) => Promise<T>): Promise<T>
  /** Manifest hashes of the open models, least recently used first. */
  readonly open: readonly string[]
  dispose(): Promise<void>
}

interface Entry {
  opened: Promise<OpenModel>
  users: number
  /** The store's `quarantinedAt` before it was opened. */
  quarantinedAt: number
  /** Bytes of the float32 weights once all are mapped; 0 until opened. */
  bytes: number
}

export interface ModelCacheLimits {
  models: number
  /** Float32 bytes of all open models together; idle models are closed beyond it. */
  bytes: number
}

/** Mapped weights are page cache that the system may drop, so half of the memory is a bound on thrashing, not on allocation. */
const defaultLimits = (): ModelCacheLimits => ({ models: 8, bytes: totalmem() / 2 })

/** @param prefixes what the models keep of sequences that ended, all together */
export function createModelCache(limits: ModelCacheLimits = defaultLimits(), prefixes?: PrefixStore): ModelCache {
  // A Map keeps insertion order: an entry that is used again is put last.
  const entries = new Map<string, Entry>()

  const close = async (hash: string, entry: Entry) => {
    if (entries.get(hash) === entry) entries.delete(hash)
    const opened = await entry.opened.catch(() => undefined)
    await opened?.model.dispose()
  }
  const trim = async () => {
    const total = () => [...entries.values()].reduce((sum, entry) => sum + entry.bytes, 0)
    for (const [hash, entry] of [...entries]) {
      if (entries.size <= limits.models && total() <= limits.bytes) return
      if (entry.users === 0) await close(hash, entry)
    }
  }
  const open = async (hash: string, context: ModelContext): Promise<OpenModel> => {
    const manifest = await readManifest(context.payloads, hash)
    const [tokenizer, model] = await Promise.all([
      loadTokenizer(manifest, context.payloads),
      // The opening serves all who wait for it: one caller's cancellation must not fail the others.
      openModel(manifest, { ...context, signal: undefined, ...(prefixes && { prefixes }) }),
    ])
    return { model, tokenizer }
  }
  const enter = (hash: string, context: ModelContext, quarantinedAt: number): Entry => {
    const entry: Entry = { opened: open(hash, context), users: 0, quarantinedAt, bytes: 0 }
    // An opening that failed may succeed next time; it also may fail when nobody waits for it any more.
    entry.opened.catch(() => {
      if (entries.get(hash) === entry) entries.delete(hash)
    })
    return entry
  }

  return {
    get open() {
      return [...entries.keys()]
    },
    async use(hash, context, use) {
      const quarantinedAt = await context.payloads.quarantinedAt()
      const known = entries.get(hash)
      if (known && known.quarantinedAt !== quarantinedAt) {
        // Corrupt payloads were set aside, perhaps this model's: it is opened anew, which says so. Who uses it now may end.
        entries.delete(hash)
        if (known.users === 0) await close(hash, known)
      }
      const entry = entries.get(hash) ?? enter(hash, context, quarantinedAt)
      entries.delete(hash)
      entries.set(hash, entry)
      entry.users++
      try {
        const opened = await unlessCancelled(entry.opened, context.signal)
        entry.bytes = opened.model.manifest.parameterCount * 4
        await trim()
        return await use(opened)
      } finally {
        entry.users--
        if (entry.users === 0 && entries.get(hash) !== entry) await close(hash, entry)
        await trim()
      }
    },
    async dispose() {
      await Promise.all([...entries].map(([hash, entry]) => close(hash, entry)))
    },
  }
}
