// Streams of jobs for subscriptions: a snapshot first, what is new after it, the final state last.
import { finalStates, type JobRecord, type JobState } from '../../compute/pool/queue.js'
import { Job as JobRow } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { closing } from '../build/closing.js'
import { toRecord } from '../build/enqueue.js'
import type { Platform } from '../build/platform.js'
import { type Job, toJob } from './job.type.js'

export const isFinal = (state: JobState) => finalStates.includes(state)

/** The job's row with the queue's newer progress, or NOT_FOUND. */
export async function readJob(platform: Platform, tenantId: string, jobId: string): Promise<Job> {
  const row = await platform.db.read.findOneBy(JobRow, { ...scoped(tenantId), id: jobId })
  if (!row) throw new DomainError('NOT_FOUND', 'No job has this id', { field: ['id'] })
  return toJob(toRecord(row), row.state === 'RUNNING' ? platform.queue.progress(jobId) : null)
}

/**
 * One job from now to its end. The watch is opened before the snapshot is read, so that nothing falls between them; events that
 * the snapshot already shows are left out.
 * @param afterSequence progress up to this sequence is not repeated; the final state always comes
 * @throws NOT_FOUND at once, before the first item is asked for
 */
export async function watchJob(
  platform: Platform,
  tenantId: string,
  jobId: string,
  afterSequence: number | null = null,
): Promise<AsyncGenerator<Job>> {
  const events = platform.queue.watch(jobId)
  let snapshot: Job
  try {
    snapshot = await readJob(platform, tenantId, jobId)
  } catch (error) {
    await events.return?.()
    throw error
  }
  return closing(stream(), () => events.return?.())

  async function* stream(): AsyncGenerator<Job> {
    try {
      const seen = snapshot.progress?.sequence ?? 0
      if (afterSequence === null || seen > afterSequence || isFinal(snapshot.state)) yield snapshot
      if (isFinal(snapshot.state)) return
      let last = { state: snapshot.state, attempts: snapshot.attempts, sequence: Math.max(seen, afterSequence ?? 0) }
      for await (const event of events) {
        if (event.kind !== 'job') continue
        const { job } = event
        const next = { state: job.state, attempts: job.attempts, sequence: job.progress?.sequence ?? 0 }
        const changed = next.state !== last.state || next.attempts !== last.attempts
        if (!isFinal(job.state) && (changed ? next.sequence < last.sequence : next.sequence <= last.sequence)) continue
        last = next
        yield toJob(job)
        if (isFinal(job.state)) return
      }
      // The queue stopped. What it wrote last is the truth, if it is news.
      const end = await readJob(platform, tenantId, jobId)
      if (end.state !== last.state) yield end
    } finally {
      await events.return?.()
    }
  }
}

/** Changes of all jobs of a tenant, filtered; for dashboards. A slow reader loses the oldest. */
export function watchJobs(
  platform: Platform,
  tenantId: string,
  wanted: (job: JobRecord) => boolean,
): AsyncGenerator<Job> {
  const records = platform.queue.watchAll(tenantId)
  return closing(stream(), () => records.return?.())

  async function* stream(): AsyncGenerator<Job> {
    for await (const record of records) if (wanted(record)) yield toJob(record)
  }
}
