// What all transitions share: the shape of a change, and the refusal of one that the state does not allow.
import { DomainError } from '../../../lib/errors.js'
import type { JobRecord, JobState } from '../queue.js'

/** Columns of a job that a transition may write. */
export type JobChanges = Partial<
  Pick<
    JobRecord,
    | 'state'
    | 'input'
    | 'output'
    | 'attempts'
    | 'cancelRequested'
    | 'error'
    | 'progress'
    | 'deviceId'
    | 'startedAt'
    | 'finishedAt'
    | 'cost'
    | 'flops'
    | 'units'
  >
>

/** @throws CONFLICT where the job is in another state than `allowed` */
export function expectState(job: JobRecord, verb: string, ...allowed: JobState[]): void {
  if (allowed.includes(job.state)) return
  throw new DomainError('CONFLICT', `Job ${job.id} is ${job.state}: only ${allowed.join(' or ')} can be ${verb}`)
}
