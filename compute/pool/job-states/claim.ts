// QUEUED -> RUNNING, and which queued job may start beside what runs.
import { jobTypes } from '../job-types.js'
import type { JobRecord } from '../queue.js'
import { expectState, type JobChanges } from './changes.js'

/** A worker takes the job: one more attempt. */
export function claim(job: JobRecord, deviceId: string, now: Date): JobChanges {
  expectState(job, 'claimed', 'QUEUED')
  return {
    state: 'RUNNING',
    attempts: job.attempts + 1,
    deviceId,
    startedAt: now,
    finishedAt: null,
    error: null,
    output: null,
  }
}

export const isExclusive = (job: Pick<JobRecord, 'type'>) =>
  (jobTypes[job.type] as { exclusive?: boolean }).exclusive === true

/** How long an exclusive job waits for the pool to fall idle by itself before newer jobs are held back for it. */
export const exclusivePatienceMs = 60_000

/**
 * Whether a queued job may start now. An exclusive job starts only while nothing runs, and nothing starts while one runs.
 * One that has waited past its patience holds newer jobs back, so that steady traffic cannot starve it; not while a
 * device job runs, which may take many minutes that nobody else should have to wait out.
 */
export function mayStart(
  candidate: Pick<JobRecord, 'type' | 'createdAt'>,
  running: readonly Pick<JobRecord, 'type' | 'lane'>[],
  oldestExclusive: Pick<JobRecord, 'createdAt'> | undefined,
  now: Date,
): boolean {
  if (running.some(isExclusive)) return false
  if (isExclusive(candidate)) return running.length === 0
  const heldBack =
    oldestExclusive !== undefined &&
    oldestExclusive.createdAt <= candidate.createdAt &&
    now.getTime() - oldestExclusive.createdAt.getTime() > exclusivePatienceMs
  return !heldBack || running.some(job => job.lane === 'device')
}
