// FAILED or CANCELLED -> QUEUED, because somebody asked for it: attempts begin anew.
import type { JobRecord } from '../queue.js'
import { expectState, type JobChanges } from './changes.js'

export function retry(job: JobRecord): JobChanges {
  expectState(job, 'retried', 'FAILED', 'CANCELLED')
  return {
    state: 'QUEUED',
    attempts: 0,
    cancelRequested: false,
    error: null,
    output: null,
    deviceId: null,
    startedAt: null,
    finishedAt: null,
  }
}
