// Keeps two platforms from running on one data folder.
import { join } from 'node:path'
import { DomainError } from '../lib/errors.js'
import { tryLock } from '../lib/file-lock.js'

/**
 * Holds `lock.sqlite` in the folder until the returned function is called or the process ends.
 * @throws DATA_FOLDER_IN_USE where another process (or this one) holds it
 */
export function lockDataFolder(folder: string): () => void {
  const release = tryLock(join(folder, 'lock.sqlite'))
  if (!release)
    throw new DomainError('DATA_FOLDER_IN_USE', `${folder}: another Hartonomous process uses this data folder`)
  return release
}
