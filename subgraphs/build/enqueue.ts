// Puts a job on the queue in the caller's transaction; the pool hears of it after the commit.
import type { EntityManager } from 'typeorm'
import { type JobInput, type JobName, jobTypes, type Lane, laneOf } from '../../compute/pool/job-types.js'
import type { JobRecord } from '../../compute/pool/queue.js'
import { Job } from '../../db/entities/index.js'
import { afterCommit } from '../../db/transaction.js'
import { DomainError } from '../../lib/errors.js'
import { newId } from '../../lib/ids.js'
import type { Platform } from './platform.js'

export interface NewJob<K extends JobName> {
  tenantId: string
  type: K
  input: JobInput<K>
  /** What the job type's owner needs when the job ends (names, row ids); workers never see it. */
  context?: unknown
  /** The model the job works on. */
  modelId?: string | null
}

/**
 * Inserts a QUEUED row. Must be called inside `db.tx`, with its entity manager.
 * @throws BAD_USER_INPUT where the input does not fit the job type's schema
 */
export async function enqueue<K extends JobName>(
  em: EntityManager,
  platform: Pick<Platform, 'queue'>,
  { tenantId, type, input, context = null, modelId = null }: NewJob<K>,
): Promise<Job> {
  const parsed = jobTypes[type].input.safeParse(input)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new DomainError('BAD_USER_INPUT', `${type}: ${issue?.path.join('.')}: ${issue?.message}`)
  }
  const job = em.create(Job, {
    id: newId(),
    tenantId,
    type,
    lane: laneOf(type, parsed.data as JobInput<K>),
    state: 'QUEUED',
    input: parsed.data,
    output: null,
    context,
    modelId,
    attempts: 0,
    cancelRequested: false,
    error: null,
    progress: null,
    deviceId: null,
    createdAt: new Date(),
    startedAt: null,
    finishedAt: null,
    cost: 0,
    flops: 0,
    units: 0,
  })
  // TypeORM's insert type cannot express JSON columns of unknown shape.
  await em.insert(Job, job as Parameters<typeof em.insert<Job>>[1])
  afterCommit(() => {
    platform.queue.announce(toRecord(job))
    platform.queue.wake()
  })
  return job
}

/** The row as the pool knows it. */
export const toRecord = (row: Job): JobRecord => ({
  ...row,
  type: row.type as JobName,
  lane: row.lane as Lane,
})
