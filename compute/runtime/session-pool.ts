// The one owner of this process's sessions and of the memory of their weights: the idle ones that were used longest ago are closed
// where a byte budget is passed, and opened again when they are next run.
import { totalmem } from 'node:os'
import { type Graph, isExternal } from '../graph/ir.js'
import { providerOf } from './providers.js'
import type { Session, SessionOptions } from './session.js'

export interface SessionPool {
  /**
   * A session that the pool may close while it is idle; whoever holds it need not know. It is opened at once, so that errors are heard.
   * @param open makes the session; called again after the pool has closed it
   */
  add(graph: Graph, options: SessionOptions, open: () => Promise<Session>): Promise<Session>
  /** Bytes of the weights that open sessions hold; those mapped from one place by several count once. */
  readonly bytes: number
  /** Sessions that are open now. */
  readonly openCount: number
  /** Bytes that idle sessions may hold together. One session that needs more is opened all the same, alone. */
  budget: number
}

interface Entry {
  weights: readonly Weight[]
  /** undefined while it is closed. */
  session: Promise<Session> | undefined
  users: number
}

/** What a session holds of a file, or in memory of its own. */
interface Weight {
  key: string
  bytes: number
}

/**
 * Half of the memory that this process may use. Mapped weights are page cache, which the system may drop: the budget bounds thrashing,
 * and of the sessions that copy their weights (prepacked ones, those of graphics processors) what is allocated.
 */
export function defaultSessionBudget(): number {
  const allowed = process.constrainedMemory() ?? 0
  // Without a limit the kernel names a number beyond any machine, or 0.
  return Math.min(totalmem(), allowed > 0 ? allowed : Number.POSITIVE_INFINITY) / 2
}

export function createSessionPool(budget = defaultSessionBudget()): SessionPool {
  // A Set keeps insertion order: an entry that is used again is put last.
  const open = new Set<Entry>()
  const holders = new Map<string, { bytes: number; count: number }>()
  let total = 0

  const hold = ({ weights }: Entry) => {
    for (const { key, bytes } of weights) {
      const known = holders.get(key)
      if (known) known.count++
      else {
        holders.set(key, { bytes, count: 1 })
        total += bytes
      }
    }
  }
  const letGo = ({ weights }: Entry) => {
    for (const { key } of weights) {
      const known = holders.get(key)!
      if (--known.count > 0) continue
      holders.delete(key)
      total -= known.bytes
    }
  }
  const close = async (entry: Entry) => {
    const { session } = entry
    if (!open.delete(entry)) return
    entry.session = undefined
    letGo(entry)
    await (await session?.catch(() => undefined))?.dispose()
  }
  /** Closes idle sessions until what is held fits. The newest stays: one that is too large by itself would be opened anew for every run. */
  const makeRoom = async () => {
    for (const entry of [...open].slice(0, -1)) {
      if (total <= pool.budget) return
      if (entry.users === 0) await close(entry)
    }
  }

  const pool: SessionPool = {
    budget,
    get bytes() {
      return total
    },
    get openCount() {
      return open.size
    },
    async add(graph, options, make) {
      const entry: Entry = { weights: weightsOf(graph, options), session: undefined, users: 0 }
      const take = (): Promise<Session> => {
        if (entry.session) {
          open.delete(entry)
          open.add(entry)
          return entry.session
        }
        // Held before it is open, so that room is made first, and two that open at the same time see each other.
        hold(entry)
        open.add(entry)
        const opened = makeRoom().then(make)
        entry.session = opened
        opened.catch(() => {
          if (entry.session === opened) void close(entry)
        })
        return opened
      }
      const use = async <T>(work: (session: Session) => Promise<T>): Promise<T> => {
        entry.users++
        try {
          return await work(await take())
        } finally {
          entry.users--
          await makeRoom()
        }
      }
      const first = await use(async session => session)
      let disposed = false
      return {
        backend: first.backend,
        inputs: first.inputs,
        outputs: first.outputs,
        async run(feeds, fetches, runOptions) {
          if (disposed) throw new Error(`session ${graph.name} was disposed`)
          return use(session => session.run(feeds, fetches, runOptions))
        },
        async dispose() {
          disposed = true
          await close(entry)
        },
      }
    },
  }
  return pool
}

/** Weights in files are mapped and shared between sessions; copied ones are each session's own. */
function weightsOf(graph: Graph, { weightsFolder, prepack, device }: SessionOptions): Weight[] {
  const weights = new Map<string, Weight>()
  for (const { data } of graph.constants) {
    if (!isExternal(data)) continue
    const key = `${weightsFolder}/${data.location}:${data.offset}+${data.length}`
    weights.set(key, { key, bytes: data.length })
  }
  const all = [...weights.values()]
  if (!prepack && providerOf(device).mapsWeights) return all
  return [{ key: `own ${++ownCount}`, bytes: all.reduce((sum, { bytes }) => sum + bytes, 0) }]
}
let ownCount = 0

/** The pool of this process. */
export const sessionPool = createSessionPool()
