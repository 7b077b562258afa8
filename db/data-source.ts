// Opens the relational database: migrations, one connection that writes and one that reads.
import 'reflect-metadata'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import Libsql from 'libsql'
import { DataSource, type EntityManager } from 'typeorm'
import { DomainError } from '../lib/errors.js'
import { isBusy } from '../lib/file-lock.js'
import { dialect } from './columns.js'
import * as tables from './entities/index.js'
import { migrations } from './migrations/sqlite/index.js'
import { writeLane } from './transaction.js'

export interface Database {
  /** Committed state only: a connection of its own that cannot write. Not for what a transaction must check before it writes. */
  read: EntityManager
  /** One transaction; calls within `work` join it. Throwing rolls everything back. Keep it short: writers queue. */
  tx<T>(work: (em: EntityManager) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** All entity classes. */
export const entities = Object.values(tables).filter(
  (table): table is Extract<typeof table, new () => object> => typeof table === 'function',
)

/**
 * TypeORM begins with a deferred transaction; the writer takes the write lock at once instead (see transaction.ts).
 * Where a full disk or an I/O error made SQLite roll back by itself, TypeORM's own ROLLBACK must not fail: it would count the
 * transaction as open and turn every later one into a savepoint that is never committed.
 */
class WriterConnection extends Libsql {
  override prepare: Libsql.Database['prepare'] = sql => {
    if (sql === 'BEGIN TRANSACTION') return super.prepare('BEGIN IMMEDIATE')
    if (sql === 'ROLLBACK' && !this.inTransaction) return super.prepare('SELECT 0')
    return super.prepare(sql)
  }
}

interface Pragmas {
  pragma(source: string): unknown
}

/**
 * Opens (and where needed creates and migrates) `platform.sqlite` in `folder`. Several processes may have it open.
 *
 * WAL, so that readers never wait; synchronous=FULL, because a commit that told somebody "deleted" may be followed by the
 * removal of payload files: with NORMAL a power cut could bring the rows back without their bytes.
 * @throws BAD_USER_INPUT where HARTONOMOUS_DATABASE names SQL Server, which has no migrations yet
 */
export async function openDatabase({ folder }: { folder: string }): Promise<Database> {
  if (dialect !== 'sqlite')
    throw new DomainError('BAD_USER_INPUT', 'HARTONOMOUS_DATABASE: SQL Server has no migrations yet; use sqlite')
  const database = join(folder, 'platform.sqlite')
  const writer = await retryBusy(() => openWriter(database))
  const reader = new DataSource({
    type: 'better-sqlite3',
    driver: Libsql,
    database,
    entities,
    prepareDatabase: (db: Pragmas) => {
      db.pragma('busy_timeout = 5000')
      db.pragma('query_only = ON')
    },
  })
  await reader.initialize()
  return {
    read: reader.manager,
    tx: writeLane(writer),
    async close() {
      await reader.destroy()
      await writer.destroy()
    },
  }
}

/** The data source that writes, migrated. Exported for the check that migrations and entities agree. */
export async function openWriter(database: string): Promise<DataSource> {
  const ds = new DataSource({
    type: 'better-sqlite3',
    driver: WriterConnection,
    database,
    entities,
    migrations,
    enableWAL: true,
    prepareDatabase: (db: Pragmas) => {
      // Short: beyond it, transaction.ts waits without blocking the event loop.
      db.pragma('busy_timeout = 20')
      db.pragma('synchronous = FULL')
    },
  })
  try {
    await ds.initialize()
    await ds.runMigrations({ transaction: 'all' })
    return ds
  } catch (error) {
    if (ds.isInitialized) await ds.destroy()
    throw error
  }
}

/** Processes that start together race for the switch to WAL and for the migrations; the loser finds both done. */
async function retryBusy<T>(open: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 15_000
  for (;;) {
    try {
      return await open()
    } catch (error) {
      const raced = isBusy(error) || /already exists/.test(String(error))
      if (!raced || Date.now() > deadline) throw error
      await sleep(20 + Math.random() * 80)
    }
  }
}
