// Batched reads of the compute subgraph.
import { Job as JobRow } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { toRecord } from '../build/enqueue.js'
import { loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { type Job, toJob } from './job.type.js'

/** Jobs by row id, with the queue's newer progress. */
export const jobRows = (context: RequestContext) =>
  loader(context, 'compute.jobs', async (ids: readonly string[], { platform, tenantId }) => {
    const rows = await platform.db.read.find(JobRow, { where: { ...scoped(tenantId), id: anyOf(ids) } })
    return new Map<string, Job>(
      rows.map(row => [row.id, toJob(toRecord(row), row.state === 'RUNNING' ? platform.queue.progress(row.id) : null)]),
    )
  })
