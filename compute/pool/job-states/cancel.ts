// QUEUED or RUNNING -> CANCELLED.
import type { JobProgress, JobRecord } from '../queue.js'
import { expectState, type JobChanges } from './changes.js'

export function cancel(job: JobRecord, progress: JobProgress | null, deviceSeconds: number, now: Date): JobChanges {
  expectState(job, 'cancelled', 'QUEUED', 'RUNNING')
  return {
    state: 'CANCELLED',
    cancelRequested: true,
    error: { code: 'CANCELLED', message: 'The job was cancelled' },
    progress: progress ?? job.progress,
    cost: job.cost + deviceSeconds,
    finishedAt: now,
  }
}
