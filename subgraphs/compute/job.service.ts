// What the compute subgraph does: lists, cancels and retries jobs.
import { retry } from '../../compute/pool/job-states/retry.js'
import { Job as JobRow } from '../../db/entities/index.js'
import { andAnyOf, scoped } from '../../db/scope.js'
import { afterCommit } from '../../db/transaction.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId, parseGlobalId } from '../../lib/ids.js'
import { type Page, paginate } from '../build/connection.js'
import { toRecord } from '../build/enqueue.js'
import type { RequestContext } from '../build/platform.js'
import type { JobsArguments } from './job.inputs.js'
import { jobName } from './job.type.js'

/** Jobs, newest first. */
export function listJobs({ platform, tenantId }: RequestContext, args: JobsArguments): Promise<Page<JobRow>> {
  const query = platform.db.read.createQueryBuilder(JobRow, 'j').where(scoped(tenantId))
  if (args.states) andAnyOf(query, 'j.state', args.states)
  if (args.types) andAnyOf(query, 'j.type', args.types.map(jobName))
  if (args.modelId != null) {
    const parsed = parseGlobalId(args.modelId)
    // An id of no model has no jobs.
    query.andWhere({ modelId: parsed?.type === 'Model' ? parsed.id : '' })
  }
  return paginate(query, args, 'jobs')
}

const field = ['input', 'jobId']
const notFound = () => new DomainError('NOT_FOUND', 'No job has this id', { field })

/**
 * Cancels a queued or running job and waits for its end; returns its row id.
 * @throws NOT_FOUND, CONFLICT where it has ended
 */
export async function cancelJob({ platform, tenantId }: RequestContext, globalId: string): Promise<string> {
  const id = fromGlobalId('Job', globalId, field)
  if (!(await platform.db.read.existsBy(JobRow, { ...scoped(tenantId), id }))) throw notFound()
  await platform.queue.cancel(id)
  return id
}

/**
 * Puts a FAILED or CANCELLED job on the queue again, with attempts from zero; returns its row id.
 * @throws NOT_FOUND, CONFLICT in other states
 */
export function retryJob({ platform, tenantId }: RequestContext, globalId: string): Promise<string> {
  const id = fromGlobalId('Job', globalId, field)
  return platform.db.tx(async em => {
    const row = await em.findOneBy(JobRow, { ...scoped(tenantId), id })
    if (!row) throw notFound()
    const job = toRecord(row)
    const changes = retry(job)
    await em.update(JobRow, { ...scoped(tenantId), id }, changes as Parameters<typeof em.update<JobRow>>[2])
    afterCommit(() => {
      platform.queue.announce({ ...job, ...changes })
      platform.queue.wake()
    })
    return id
  })
}
