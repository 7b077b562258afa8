// Units of work: one write lane per connection, nested calls join, and what must wait for the commit waits.
import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { DataSource, EntityManager } from 'typeorm'
import { isBusy } from '../lib/file-lock.js'

interface UnitOfWork {
  lane: object
  em: EntityManager
  afterCommit: (() => void | Promise<void>)[]
  /** After the end: a call that outlived its transaction must not join it. */
  ended: boolean
}

const current = new AsyncLocalStorage<UnitOfWork>()

/** How long a writer waits for another process that holds the file's write lock. */
const lockTimeoutMs = 30_000

/**
 * Makes the `tx` of a SQLite data source. It has one connection, so two transactions at a time would mix: writers queue here.
 * Several processes may share the file: BEGIN IMMEDIATE takes the write lock at once (a deferred one would fail with
 * SQLITE_BUSY_SNAPSHOT at its first write), and waiting is a timer, not SQLite's busy handler, which blocks the event loop.
 */
export function writeLane(ds: DataSource): <T>(work: (em: EntityManager) => Promise<T>) => Promise<T> {
  const lane = {}
  let tail: Promise<unknown> = Promise.resolve()

  async function run<T>(work: (em: EntityManager) => Promise<T>): Promise<T> {
    const runner = ds.createQueryRunner()
    await begin(() => runner.startTransaction())
    const unit: UnitOfWork = { lane, em: runner.manager, afterCommit: [], ended: false }
    let result: T
    try {
      result = await current.run(unit, () => work(unit.em))
      await runner.commitTransaction()
    } catch (error) {
      if (runner.isTransactionActive) await runner.rollbackTransaction()
      throw error
    } finally {
      unit.ended = true
    }
    // Outside the finished unit, so that a transaction begun there is one of its own.
    for (const effect of unit.afterCommit) current.exit(() => void effect())
    return result
  }

  return work => {
    const outer = current.getStore()
    if (outer && outer.lane === lane && !outer.ended) return work(outer.em)
    const result = tail.then(() => current.exit(() => run(work)))
    tail = result.catch(() => {})
    return result
  }
}

/**
 * Runs `effect` once the outermost transaction has committed, or at once where there is none; never if it rolls back.
 * For what others may see only when the rows are there: waking the queue, announcing a change. It must not throw.
 */
export function afterCommit(effect: () => void | Promise<void>): void {
  const unit = current.getStore()
  if (unit && !unit.ended) unit.afterCommit.push(effect)
  else void effect()
}

async function begin(start: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + lockTimeoutMs
  for (let wait = 1; ; wait = Math.min(wait * 2, 50)) {
    try {
      return await start()
    } catch (error) {
      if (!isBusy(error) || Date.now() > deadline) throw error
      await sleep(wait * (0.5 + Math.random()))
    }
  }
}
