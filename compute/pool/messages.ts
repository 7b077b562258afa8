// What the server and a worker process say to each other.
import type { Env } from '../../lib/env.js'
import type { WorkerDevice } from './devices.js'
import type { JobName, Lane } from './job-types.js'
import type { JobFailure, JobProgress, OutputDelta } from './queue.js'

export type ToWorker =
  /** First message: what the worker needs to know for its whole life. */
  | { kind: 'begin'; env: Env; lane: Lane; device: WorkerDevice | null }
  /** `sequence`: number of the job's last progress event. */
  | { kind: 'run'; jobId: string; type: JobName; input: unknown; sequence: number }
  | { kind: 'cancel'; jobId: string }
  /** Abort everything, report it as interrupted, and exit. */
  | { kind: 'stop' }

export type FromWorker =
  | { kind: 'ready' }
  | { kind: 'heartbeat' }
  /** `flops`: floating-point operations of its matrix products so far in this attempt. */
  | { kind: 'progress'; jobId: string; progress: JobProgress; flops?: number }
  | ({ kind: 'delta'; jobId: string } & OutputDelta)
  /** `flops`: of the whole attempt. */
  | { kind: 'succeeded'; jobId: string; output: unknown; flops?: number }
  | { kind: 'failed'; jobId: string; error: JobFailure & { retryable: boolean }; flops?: number }
  /** The worker was asked to end (SIGTERM, stop) and let go of the job. */
  | { kind: 'interrupted'; jobId: string; flops?: number }
