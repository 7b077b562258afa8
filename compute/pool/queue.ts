// The pool as the control plane sees it. Embedded: embedded-queue.ts over the job rows; a cluster puts another behind the same face.
import type { JobName, Lane, TokenRecordOutput } from './job-types.js'

export type JobState = 'QUEUED' | 'RUNNING' | 'SUCCEEDED' | 'FAILED' | 'CANCELLED'
export const finalStates: readonly JobState[] = ['SUCCEEDED', 'FAILED', 'CANCELLED']
/** A job is started at most this often; then it FAILS with TOO_MANY_ATTEMPTS and the last reason. */
export const maximumAttempts = 3

export interface JobProgress {
  stage: string
  completed: number
  total: number | null
  unit: string
  ratePerSecond: number | null
  etaSeconds: number | null
  metrics: Record<string, number | string> | null
  /** Grows with every event of the job, over attempts and restarts too. */
  sequence: number
}

export interface JobFailure {
  code: string
  message: string
}

/** A job as the pool knows it: plain data, owned by the JobStore. */
export interface JobRecord {
  id: string
  tenantId: string
  type: JobName
  lane: Lane
  state: JobState
  input: unknown
  output: unknown
  context: unknown
  modelId: string | null
  attempts: number
  cancelRequested: boolean
  error: JobFailure | null
  progress: JobProgress | null
  deviceId: string | null
  createdAt: Date
  startedAt: Date | null
  finishedAt: Date | null
  /** Device seconds over all attempts. */
  cost: number
  /** Floating-point operations of matrix products over all attempts; of a lost one those that its worker had told of. */
  flops: number
  /** DCUs over all attempts (docs/cost.md). */
  units: number
}

export interface DeviceRecord {
  id: string
  name: string
  kind: 'CPU' | 'WEBGPU' | 'CUDA'
  memoryBytes: number | null
  /** Why it does not compute; null where it can. */
  problem: string | null
  /** Whether jobs run on it: HARTONOMOUS_DEVICES names it. */
  chosen: boolean
  busy: boolean
  jobId: string | null
  /** Process id and host of the worker. */
  worker: string
}

/** Where the queue keeps its rows; the only implementation is the compute subgraph's job-store.ts. Every method is one transaction. */
export interface JobStore {
  /**
   * The oldest QUEUED job of the lane becomes RUNNING on the device (attempts + 1). Its owner may complete the input first.
   * `exclusive` jobs are claimed only while nothing runs, and nothing is claimed while one runs (all lanes).
   * A job whose owner refuses it at this point comes back FAILED. `types`: which ones the device takes; absent: all.
   */
  claim(lane: string, deviceId: string, types?: (type: JobName) => boolean): Promise<JobRecord | undefined>
  /** What a RUNNING job has used since it was charged last; seconds and operations that are given when it ends are those after this. */
  charge(jobId: string, deviceSeconds: number, flops: number): Promise<JobRecord>
  /** The owner's effect and SUCCEEDED, in one transaction. An effect that throws a DomainError makes the job FAILED instead. */
  succeed(
    jobId: string,
    output: unknown,
    progress: JobProgress | null,
    deviceSeconds: number,
    flops?: number,
  ): Promise<JobRecord>
  /** FAILED, or QUEUED again where retryable and attempts are left. */
  fail(
    jobId: string,
    error: JobFailure & { retryable: boolean },
    progress: JobProgress | null,
    deviceSeconds: number,
    flops?: number,
  ): Promise<JobRecord>
  /** RUNNING -> CANCELLED, once its worker has let go of it. */
  cancel(jobId: string, progress: JobProgress | null, deviceSeconds: number, flops?: number): Promise<JobRecord>
  /** QUEUED again without counting the attempt: not the job's fault. */
  requeue(jobId: string, progress: JobProgress | null, deviceSeconds: number, flops?: number): Promise<JobRecord>
  /** A QUEUED job is CANCELLED at once; a RUNNING one is marked, so that it ends CANCELLED even if the server dies now. CONFLICT if it has ended. */
  requestCancel(jobId: string): Promise<JobRecord>
  /** Ids of QUEUED and RUNNING jobs whose cancellation was asked for, here or by another process on the same database. */
  cancelRequests(): Promise<string[]>
  /** Rows left RUNNING by a server that died: QUEUED again, or FAILED after maximumAttempts. Called once at start. */
  recover(): Promise<JobRecord[]>
  get(jobId: string): Promise<JobRecord | undefined>
}

/** A piece of a text as it is made. */
export interface OutputDelta {
  textDelta: string
  /** Characters (UTF-16) of the text before the piece. */
  offset: number
  /** The token that completed the piece, and its place among those made, from 0. */
  tokenId: number
  index: number
  /** All tokens made since the piece before. */
  tokenIds: number[]
  /** Of `tokenIds`, where they were asked for. */
  logProbabilities?: TokenRecordOutput[]
}

export type JobEvent =
  | { kind: 'job'; job: JobRecord }
  /** One piece of output, in order: never dropped, never throttled. */
  | ({ kind: 'delta'; jobId: string } & OutputDelta)

export interface JobQueue {
  start(): Promise<void>
  /** Stops claiming, gives running jobs `graceMs`, then ends the workers; unfinished jobs go back to QUEUED. */
  stop(graceMs?: number): Promise<void>
  /** A job may have been added: look now rather than at the next poll. */
  wake(): void
  /** Asks the worker to stop; kills it after half a second. Ends CANCELLED within a second. */
  cancel(jobId: string): Promise<void>
  /** Announces a change of a job's row made outside the queue (enqueued, retried). */
  announce(job: JobRecord): void
  /** The job's progress now: newer than its row while it runs. */
  progress(jobId: string): JobProgress | null
  /**
   * Events of one job from now on (job states, progress at most 10 a second and always the last, deltas). Ends after the final state.
   * A slow reader holds nothing: progress is superseded, deltas of one job are kept once for all readers and joined.
   * @param from `start`: with the states and deltas that were, as far as they are known, before those that come
   */
  watch(jobId: string, from?: 'now' | 'start'): AsyncIterableIterator<JobEvent>
  /** State and progress changes of all jobs of a tenant; a slow reader loses the oldest. */
  watchAll(tenantId: string): AsyncIterableIterator<JobRecord>
  /** The devices that jobs run on. */
  devices(): DeviceRecord[]
  /** Those and what else this machine has, looked for at the first call. */
  offeredDevices(): Promise<DeviceRecord[]>
}
