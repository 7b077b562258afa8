// What a job handler is given and must return. Handlers parse nothing: the worker has validated the input.
import type { Env } from '../../lib/env.js'
import type { Logger } from '../../lib/log.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { JobInput, JobName, JobOutput } from '../pool/job-types.js'
import type { ProgressReport } from '../pool/progress.js'
import type { OutputDelta } from '../pool/queue.js'

export type { ProgressReport }

export interface HandlerContext {
  jobId: string
  payloads: PayloadStore
  /** HARTONOMOUS_DATA; handlers write only below `payloads/`, `derived/` and `exports/<jobId>/` of it. */
  dataFolder: string
  env: Env
  log: Logger
  /** Fires when the job is cancelled or the worker shuts down; handlers stop within half a second. */
  signal: AbortSignal
  /** Cheap to call as often as one likes: the worker lets at most 10 a second through, the last always. */
  progress(report: ProgressReport): void
  /** Streams one piece of output (a token of a generation) in order, none lost. */
  delta(event: OutputDelta): void
}

export type Handler<K extends JobName> = (input: JobInput<K>, context: HandlerContext) => Promise<JobOutput<K>>
