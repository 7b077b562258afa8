// The queue as seen by a subgraph in a process of its own: jobs are rows that the platform's process runs; this one adds and follows them.
import { In, MoreThan } from 'typeorm'
import { jobEvents } from '../../compute/pool/events.js'
import { finalStates, type JobQueue } from '../../compute/pool/queue.js'
import type { Database } from '../../db/data-source.js'
import { Job } from '../../db/entities/index.js'
import { DomainError } from '../../lib/errors.js'
import type { Logger } from '../../lib/log.js'
import { toRecord } from './enqueue.js'

/** How often rows are looked at while somebody watches. */
const pollMs = 200
/** How long `cancel` waits for the other process to end the job. */
const cancelWaitMs = 5_000

/**
 * Runs nothing: the process that holds the data folder finds new rows and cancellations by its own polling. What lives only in that
 * process is not seen here: progress between state changes, pieces of generated text, devices.
 */
export function followerQueue(db: Database, log: Pick<Logger, 'error'>): JobQueue {
  const events = jobEvents()
  /** What was seen last of every job that has not ended. */
  const active = new Map<string, string>()
  let newest = ''
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> | undefined

  async function look() {
    const rows = await db.read.find(Job, {
      // The queue serves all tenants; readers of `watchAll` get their own.
      where: [{ state: In(['QUEUED', 'RUNNING']) }, { id: In([...active.keys()]) }, { id: MoreThan(newest) }],
      order: { id: 'ASC' },
    })
    for (const row of rows) {
      const seen = `${row.state} ${row.attempts} ${row.progress?.sequence}`
      if (row.id > newest) newest = row.id
      if (active.get(row.id) === seen) continue
      if (finalStates.includes(row.state)) active.delete(row.id)
      else active.set(row.id, seen)
      events.state(toRecord(row))
    }
  }

  async function poll() {
    if (events.readerCount() === 0) return active.clear()
    looking ??= look()
      .catch(error => log.error({ err: error }, 'could not look at the jobs'))
      .finally(() => {
        looking = undefined
      })
    await looking
  }

  return {
    async start() {
      const [last] = await db.read.find(Job, { select: { id: true }, order: { id: 'DESC' }, take: 1 })
      newest = last?.id ?? ''
      timer = setInterval(() => void poll(), pollMs)
    },
    async stop() {
      clearInterval(timer)
      await looking
      events.close()
    },
    wake() {},
    async cancel(jobId) {
      await db.tx(async em => {
        const job = await em.findOneBy(Job, { id: jobId })
        if (!job) throw new DomainError('NOT_FOUND', `No job has the id ${jobId}`)
        if (finalStates.includes(job.state))
          throw new DomainError('CONFLICT', `Job ${jobId} is ${job.state}: only QUEUED or RUNNING can be cancelled`)
        await em.update(Job, { id: jobId }, { cancelRequested: true })
      })
      for (const deadline = Date.now() + cancelWaitMs; Date.now() < deadline; ) {
        if (await db.read.existsBy(Job, { id: jobId, state: In([...finalStates]) })) return
        await new Promise(resolve => setTimeout(resolve, pollMs))
      }
    },
    announce: job => events.state(job),
    progress: () => null,
    watch: events.watch,
    watchAll: events.watchAll,
    devices: () => [],
    offeredDevices: async () => [],
  }
}
