// RUNNING -> SUCCEEDED.
import type { JobProgress, JobRecord } from '../queue.js'
import { expectState, type JobChanges } from './changes.js'

export function succeed(
  job: JobRecord,
  output: unknown,
  progress: JobProgress | null,
  deviceSeconds: number,
  now: Date,
): JobChanges {
  expectState(job, 'completed', 'RUNNING')
  return {
    state: 'SUCCEEDED',
    output,
    error: null,
    progress: progress ?? job.progress,
    cost: job.cost + deviceSeconds,
    finishedAt: now,
  }
}
