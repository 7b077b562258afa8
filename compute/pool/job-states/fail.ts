// RUNNING -> FAILED, or back to QUEUED where the failure may pass and attempts are left.
import { type JobFailure, type JobProgress, type JobRecord, maximumAttempts } from '../queue.js'
import { cancel } from './cancel.js'
import { expectState, type JobChanges } from './changes.js'

/** A job whose cancellation was asked for ends CANCELLED, however its attempt ended. */
export function fail(
  job: JobRecord,
  { code, message, retryable }: JobFailure & { retryable: boolean },
  progress: JobProgress | null,
  deviceSeconds: number,
  now: Date,
): JobChanges {
  expectState(job, 'failed', 'RUNNING')
  if (job.cancelRequested) return cancel(job, progress, deviceSeconds, now)
  const spent = { progress: progress ?? job.progress, cost: job.cost + deviceSeconds }
  if (!retryable) return { ...spent, state: 'FAILED', error: { code, message }, finishedAt: now }
  if (job.attempts < maximumAttempts)
    return { ...spent, state: 'QUEUED', error: { code, message }, deviceId: null, startedAt: null }
  const tried = `Tried ${job.attempts} times; the last attempt ended with ${code}: ${message}`
  return { ...spent, state: 'FAILED', error: { code: 'TOO_MANY_ATTEMPTS', message: tried }, finishedAt: now }
}
