// Keeps two platforms from running on one data folder.
import { join } from 'node:path'
import Libsql from 'libsql'
import { DomainError } from '../lib/errors.js'
import { makeFolder } from '../lib/make-folder.js'
import { isBusy } from './transaction.js'

/**
 * Holds `lock.sqlite` in the folder by an open exclusive transaction until the returned function is called. The lock is the
 * operating system's: it ends with the process, also on kill -9, so there is no stale lock to clean up.
 * @throws DATA_FOLDER_IN_USE where another process (or this one) holds it
 */
export function lockDataFolder(folder: string): () => void {
  makeFolder(folder)
  const db = new Libsql(join(folder, 'lock.sqlite'))
  try {
    db.pragma('busy_timeout = 0')
    db.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    db.close()
    if (!isBusy(error)) throw error
    throw new DomainError('DATA_FOLDER_IN_USE', `${folder}: another Hartonomous process uses this data folder`)
  }
  return () => {
    if (!db.open) return
    db.exec('ROLLBACK')
    db.close()
  }
}
