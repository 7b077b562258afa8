// The queue's rows: every method is one transaction that changes a job's state and runs its owner's effect.
import { type EntityManager, In } from 'typeorm'
import { unitsOf } from '../../compute/pool/cost.js'
import { cancel } from '../../compute/pool/job-states/cancel.js'
import type { JobChanges } from '../../compute/pool/job-states/changes.js'
import { charge } from '../../compute/pool/job-states/charge.js'
import { claim, isExclusive, mayStart } from '../../compute/pool/job-states/claim.js'
import { fail } from '../../compute/pool/job-states/fail.js'
import { recover } from '../../compute/pool/job-states/recover.js'
import { requeue } from '../../compute/pool/job-states/requeue.js'
import { succeed } from '../../compute/pool/job-states/succeed.js'
import { type JobName, jobNames } from '../../compute/pool/job-types.js'
import type { JobRecord, JobStore } from '../../compute/pool/queue.js'
import type { Database } from '../../db/data-source.js'
import { Job } from '../../db/entities/index.js'
import { DomainError, isDomainError } from '../../lib/errors.js'
import { toRecord } from '../build/enqueue.js'
import type { JobEffect, JobEffects, Platform } from '../build/platform.js'

const exclusiveTypes = jobNames.filter(type => isExclusive({ type }))

/**
 * The pool serves all tenants, so these queries are not scoped to one.
 * @param effects of all subgraphs in this process, merged
 * @param platform looked up late: the platform holds the queue, which holds this store
 */
export function openJobStore(db: Database, effects: JobEffects, platform: () => Platform): JobStore {
  const effectOf = (type: JobName) => effects[type] as JobEffect<JobName> | undefined

  /**
   * What an owner throws that is neither expected nor the machine's trouble is a bug, which would come again with every attempt to
   * write: it fails this one job, instead of holding up its lane for ever.
   */
  async function asOwner<T>(job: JobRecord, effect: () => Promise<T> | undefined): Promise<T | undefined> {
    try {
      return await effect()
    } catch (error) {
      if (isDomainError(error) || isMachineTrouble(error)) throw error
      platform().log.error({ err: error, jobId: job.id, type: job.type }, 'the effect of a job failed')
      throw new DomainError('INTERNAL_SERVER_ERROR', `A bug on our side; the server log has it under job ${job.id}`)
    }
  }

  async function change(em: EntityManager, job: JobRecord, made: JobChanges, flops = 0): Promise<JobRecord> {
    const seconds = (made.cost ?? job.cost) - job.cost
    const spent = { flops: job.flops + flops, units: job.units + unitsOf(job.deviceId, seconds) }
    const changes = seconds > 0 || flops > 0 ? { ...made, ...spent } : made
    await em.update(Job, { id: job.id }, changes as Parameters<typeof em.update<Job>>[2])
    const after = { ...job, ...changes }
    const ended = after.state === 'FAILED' || after.state === 'CANCELLED'
    if (ended) await effectOf(job.type)?.ended?.(em, after, platform())
    // Effects may have set the job's model.
    return ended || after.state === 'SUCCEEDED' ? load(em, job.id) : after
  }

  const transition = (jobId: string, next: (job: JobRecord) => JobChanges, flops = 0) =>
    db.tx(async em => {
      const job = await load(em, jobId)
      return change(em, job, next(job), flops)
    })

  const failed: JobStore['fail'] = (jobId, error, progress, deviceSeconds, flops) =>
    transition(jobId, job => fail(job, error, progress, deviceSeconds, new Date()), flops)

  /** The owner cannot let the job run any more (its model was deleted); what its effect had begun is rolled back. */
  const refuse = (jobId: string, deviceId: string, { code, message }: DomainError) =>
    transition(jobId, job => {
      const now = new Date()
      const started = claim(job, deviceId, now)
      return { ...started, ...fail({ ...job, ...started }, { code, message, retryable: false }, null, 0, now) }
    })

  return {
    async claim(lane, deviceId, types = () => true) {
      // Looks before it takes the write lock: polling an idle queue costs one indexed read.
      if (!(await db.read.existsBy(Job, { state: 'QUEUED', lane }))) return undefined
      let refused: { jobId: string; error: DomainError } | undefined
      const claimed = db.tx(async em => {
        const running = (await em.find(Job, {
          where: { state: 'RUNNING' },
          select: { id: true, type: true, lane: true },
        })) as Job[]
        const oldestExclusive = await em.findOne(Job, {
          where: { state: 'QUEUED', type: In(exclusiveTypes) },
          order: { id: 'ASC' },
        })
        const now = new Date()
        // The oldest may have to wait for what runs while a newer one need not: one of each kind is looked at.
        for (const exclusive of [false, true]) {
          const type = In(jobNames.filter(name => exclusiveTypes.includes(name) === exclusive && types(name)))
          const row = await em.findOne(Job, { where: { state: 'QUEUED', lane, type }, order: { id: 'ASC' } })
          if (!row) continue
          const job = toRecord(row)
          if (!mayStart(job, running.map(toRecord), oldestExclusive ?? undefined, now)) continue
          try {
            const input = await asOwner(job, () => effectOf(job.type)?.claim?.(em, job, job.input as never))
            return await change(em, job, { ...claim(job, deviceId, now), input: input ?? job.input })
          } catch (error) {
            if (isDomainError(error)) refused = { jobId: job.id, error }
            throw error
          }
        }
        return undefined
      })
      return claimed.catch(error => {
        if (!refused) throw error
        return refuse(refused.jobId, deviceId, refused.error)
      })
    },

    async succeed(jobId, output, progress, deviceSeconds, flops) {
      try {
        return await db.tx(async em => {
          const job = await load(em, jobId)
          // Whoever asked for the cancellation was promised it: a result that came at the same moment is dropped.
          if (job.cancelRequested && job.state === 'RUNNING')
            return change(em, job, cancel(job, progress, deviceSeconds, new Date()), flops)
          const changes = succeed(job, output, progress, deviceSeconds, new Date())
          const ended = { ...job, ...changes }
          await asOwner(job, () => effectOf(job.type)?.succeeded?.(em, ended, output as never, platform()))
          return change(em, job, changes, flops)
        })
      } catch (error) {
        // The job did its part and its owner cannot take the result: a failure to show, not to try again.
        if (isDomainError(error))
          return failed(
            jobId,
            { code: error.code, message: error.message, retryable: false },
            progress,
            deviceSeconds,
            flops,
          )
        throw error
      }
    },

    charge: (jobId, deviceSeconds, flops) => transition(jobId, job => charge(job, deviceSeconds), flops),
    fail: failed,
    cancel: (jobId, progress, deviceSeconds, flops) =>
      transition(jobId, job => cancel(job, progress, deviceSeconds, new Date()), flops),
    requeue: (jobId, progress, deviceSeconds, flops) =>
      transition(jobId, job => requeue(job, progress, deviceSeconds, new Date()), flops),
    requestCancel: jobId =>
      transition(jobId, job =>
        job.state === 'RUNNING' ? { cancelRequested: true } : cancel(job, null, 0, new Date()),
      ),
    async cancelRequests() {
      const where = { state: In(['QUEUED', 'RUNNING']), cancelRequested: true }
      return (await db.read.find(Job, { where, select: { id: true } })).map(job => job.id)
    },

    async recover() {
      const left = await db.tx(em => em.find(Job, { where: { state: 'RUNNING' }, order: { id: 'ASC' } }))
      const recovered: JobRecord[] = []
      for (const { id } of left) recovered.push(await transition(id, job => recover(job, new Date())))
      return recovered
    },

    async get(jobId) {
      const row = await db.read.findOneBy(Job, { id: jobId })
      return row ? toRecord(row) : undefined
    },
  }
}

async function load(em: EntityManager, id: string): Promise<JobRecord> {
  const row = await em.findOneBy(Job, { id })
  if (!row) throw new DomainError('NOT_FOUND', `No job has the id ${id}`)
  return toRecord(row)
}

/** The database or the disk, not the effect: may pass, so that the change is worth another try. */
function isMachineTrouble(error: unknown): boolean {
  const { code, driverError } = error as { code?: unknown; driverError?: { code?: unknown } }
  return /^(SQLITE_(BUSY|LOCKED|FULL|IOERR|CANTOPEN|NOMEM|READONLY)|ENOSPC|EDQUOT|EIO|EMFILE|ENFILE|ENOMEM)/.test(
    String(driverError?.code ?? code ?? ''),
  )
}
