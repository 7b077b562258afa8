// What every subgraph stands on, and what a request carries. Built once by whoever starts the process (gateway or a subgraph's main.ts).
import type { EntityManager } from 'typeorm'
import type { JobInput, JobName, JobOutput } from '../../compute/pool/job-types.js'
import type { JobQueue, JobRecord } from '../../compute/pool/queue.js'
import type { Database } from '../../db/data-source.js'
import type { Env } from '../../lib/env.js'
import type { Logger } from '../../lib/log.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

export interface Platform {
  env: Env
  log: Logger
  db: Database
  payloads: PayloadStore
  queue: JobQueue
}

/** GraphQL context of one request (or one event of a subscription). */
export interface RequestContext {
  platform: Platform
  tenantId: string
  /** Fires when the client of an HTTP request has gone; long waits (generate) then cancel their job. */
  signal?: AbortSignal
  /** Per-request cache for DataLoaders, by name: see loader.ts. */
  loaders: Map<string, unknown>
}

/**
 * What the owner of a job type does in the control plane. Runs inside the transaction that changes the job's state,
 * so a crash leaves either both or neither.
 */
export interface JobEffect<K extends JobName> {
  /** Completes the input when the job is claimed (a garbage collection needs the manifests alive at that moment). */
  claim?(em: EntityManager, job: JobRecord, input: JobInput<K>): Promise<JobInput<K>>
  /** Writes what the job brought forth; may enqueue further jobs. */
  succeeded?(em: EntityManager, job: JobRecord, output: JobOutput<K>, platform: Platform): Promise<void>
  /** The job FAILED for good or was CANCELLED. */
  ended?(em: EntityManager, job: JobRecord, platform: Platform): Promise<void>
}
export type JobEffects = { [K in JobName]?: JobEffect<K> }
