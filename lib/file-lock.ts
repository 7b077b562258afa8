// A lock among processes, and within one, on a file of its own.
import { dirname } from 'node:path'
import Libsql from 'libsql'
import { makeFolder } from './make-folder.js'

/** Whether another connection held a lock. */
export function isBusy(error: unknown): boolean {
  const { code, driverError } = error as { code?: unknown; driverError?: { code?: unknown } }
  return String(code ?? '').startsWith('SQLITE_BUSY') || String(driverError?.code ?? '').startsWith('SQLITE_BUSY')
}

/**
 * Holds the file, made where it is not there, by an open exclusive transaction until the returned function is called; undefined where
 * somebody else holds it. The lock is the operating system's: it ends with the process, also on kill -9, so there is no stale lock to clean up.
 */
export function tryLock(file: string): (() => void) | undefined {
  makeFolder(dirname(file))
  const db = new Libsql(file)
  try {
    db.pragma('busy_timeout = 0')
    db.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    db.close()
    if (!isBusy(error)) throw error
    return undefined
  }
  return () => {
    if (!db.open) return
    db.exec('ROLLBACK')
    db.close()
  }
}
