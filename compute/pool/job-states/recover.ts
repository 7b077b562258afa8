// RUNNING rows of a server that died -> QUEUED, FAILED or CANCELLED.
import type { JobRecord } from '../queue.js'
import type { JobChanges } from './changes.js'
import { fail } from './fail.js'

/**
 * Progress lives in memory while a job runs, so the row's sequence is behind what watchers saw. At ten events a second this
 * step is eleven days of them; 214 recoveries of one job fit into GraphQL's 32-bit Int.
 */
export const recoveredSequenceStep = 10_000_000

/**
 * The server died while the job ran: the attempt counts, as the job may have been what killed it. Its device seconds are in the row as far
 * as it was charged (charge.ts); when it ended after that nobody knows, so that nothing is added.
 */
export function recover(job: JobRecord, now: Date): JobChanges {
  const progress = {
    stage: 'interrupted',
    completed: 0,
    total: null,
    unit: 'steps',
    metrics: null,
    ...job.progress,
    ratePerSecond: null,
    etaSeconds: null,
    sequence: (job.progress?.sequence ?? 0) + recoveredSequenceStep,
  }
  const lost = { code: 'WORKER_LOST', message: 'The server ended while the job ran', retryable: true }
  return fail(job, lost, progress, 0, now)
}
