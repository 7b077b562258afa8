// A full disk has many names: the system's, SQLite's, and words of native code. All become DISK_FULL here.
import { DomainError, errorTable, isDomainError } from './errors.js'

/** ENOSPC or a quota, also as the cause or the driver's error of another error; SQLite and native code say it in words. */
export function isDiskFull(error: unknown): boolean {
  for (let e = error, depth = 0; e instanceof Error && depth < 5; depth++) {
    const { code, driverError } = e as NodeJS.ErrnoException & { driverError?: unknown }
    if (['ENOSPC', 'EDQUOT', 'SQLITE_FULL'].includes(String(code))) return true
    if (/no space left on device|database or disk is full/i.test(e.message)) return true
    e = driverError instanceof Error ? driverError : e.cause
  }
  return false
}

/** The failure that a caller may be told of: a DomainError as it is, a full disk as DISK_FULL; undefined for bugs. */
export function expectedFailure(error: unknown): DomainError | undefined {
  if (isDomainError(error)) return error
  if (!isDiskFull(error)) return undefined
  const { path } = error as { path?: string }
  return new DomainError('DISK_FULL', `${errorTable.DISK_FULL.sentence}${path ? ` (${path})` : ''}`, { cause: error })
}
