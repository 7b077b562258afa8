// RUNNING, and it stays so: what the attempt has cost so far is written, so that a server that dies does not take it along.
import type { JobRecord } from '../queue.js'
import { expectState, type JobChanges } from './changes.js'

/** @param deviceSeconds since the attempt began, or since it was charged last */
export function charge(job: JobRecord, deviceSeconds: number): JobChanges {
  expectState(job, 'charged', 'RUNNING')
  return { cost: job.cost + deviceSeconds }
}
