// What a thrown error means for the job it ended.
import { errorTable, isDomainError } from '../../lib/errors.js'
import type { JobFailure } from './queue.js'

export type Failure = JobFailure & { retryable: boolean }

/**
 * A DomainError says itself what it is; a full disk is DISK_FULL wherever it was met; anything else is a bug:
 * INTERNAL_SERVER_ERROR, never retried, as it would happen again.
 */
export function toFailure(error: unknown): Failure {
  if (isDomainError(error)) return { code: error.code, message: error.message, retryable: error.retryable }
  if (isDiskFull(error)) {
    const { path } = error as { path?: string }
    return {
      code: 'DISK_FULL',
      message: `${errorTable.DISK_FULL.sentence}${path ? ` (${path})` : ''}`,
      retryable: false,
    }
  }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL_SERVER_ERROR', message, retryable: false }
}

/** ENOSPC or a quota, also as the cause of another error; SQLite and native code say it in words. */
function isDiskFull(error: unknown): boolean {
  for (let e = error, depth = 0; e instanceof Error && depth < 5; e = e.cause, depth++) {
    if (['ENOSPC', 'EDQUOT', 'SQLITE_FULL'].includes(String((e as NodeJS.ErrnoException).code))) return true
    if (/no space left on device/i.test(e.message)) return true
  }
  return false
}
