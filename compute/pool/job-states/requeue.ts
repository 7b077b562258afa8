// RUNNING -> QUEUED through no fault of the job: the attempt is not counted.
import type { JobProgress, JobRecord } from '../queue.js'
import { cancel } from './cancel.js'
import { expectState, type JobChanges } from './changes.js'

/** For jobs that shared a worker with one that had to be killed, and for those a stopping server hands back. */
export function requeue(job: JobRecord, progress: JobProgress | null, deviceSeconds: number, now: Date): JobChanges {
  expectState(job, 'requeued', 'RUNNING')
  if (job.cancelRequested) return cancel(job, progress, deviceSeconds, now)
  return {
    state: 'QUEUED',
    attempts: Math.max(0, job.attempts - 1),
    deviceId: null,
    startedAt: null,
    progress: progress ?? job.progress,
    cost: job.cost + deviceSeconds,
  }
}
