// What a thrown error means for the job it ended.
import { expectedFailure } from '../../lib/disk-full.js'
import type { JobFailure } from './queue.js'

export type Failure = JobFailure & { retryable: boolean }

/**
 * A DomainError says itself what it is; a full disk is DISK_FULL wherever it was met; anything else is a bug:
 * INTERNAL_SERVER_ERROR, never retried, as it would happen again.
 */
export function toFailure(error: unknown): Failure {
  const expected = expectedFailure(error)
  if (expected) return { code: expected.code, message: expected.message, retryable: expected.retryable }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL_SERVER_ERROR', message, retryable: false }
}
