// GraphQL types of jobs and devices.
import { Directive, Field, Float, ID, Int, ObjectType } from 'type-graphql'
import { type JobName, jobNames } from '../../compute/pool/job-types.js'
import type { DeviceRecord, JobProgress as JobProgressRecord, JobRecord, JobState } from '../../compute/pool/queue.js'
import { type ErrorCode, errorTable } from '../../lib/errors.js'
import { toGlobalId } from '../../lib/ids.js'
import { ErrorCodeEnum, Node, registerValues } from '../build/common-types.js'
import { connectionOf } from '../build/connection.js'
import { BigIntScalar, DateTimeScalar, JsonScalar } from '../build/schema.js'

/** `model.ingest` is MODEL_INGEST to the outside. */
type Upper<K extends string> = K extends `${infer A}.${infer B}` ? `${Uppercase<A>}_${Upper<B>}` : Uppercase<K>
export type JobTypeName = Upper<JobName>
export const jobTypeName = (name: JobName) => name.toUpperCase().replaceAll('.', '_') as JobTypeName
const jobNameOf = new Map(jobNames.map(name => [jobTypeName(name), name]))
export const jobName = (type: JobTypeName): JobName => jobNameOf.get(type)!

const jobTypeDescriptions: Record<JobName, string> = {
  'model.ingest': 'Takes a model’s files apart into tensors and stores those that are new.',
  'model.export': 'Writes a model’s files for download.',
  'model.quantize': 'Makes a model with 4- or 8-bit weights of another, and measures what that changes.',
  'model.fuse': 'Times what of a model’s graph can be computed at once, and makes a model that does what is worth it.',
  'model.generate': 'Generates text with a model.',
  'model.evaluate': 'Measures a model’s loss per capability on one split of a probe set.',
  'capability.analyze': 'Measures per layer and capability what skipping the layer costs.',
  'students.propose': 'Searches layer ranges that keep a capability, and measures them.',
  'student.build': 'Builds a student: a manifest that points at its parent’s tensors.',
  'probes.import': 'Reads a probe set (JSONL) into the store.',
  'storage.verify': 'Re-hashes every payload.',
  'storage.collect': 'Removes payloads that nothing refers to; runs alone.',
}
export const JobTypeEnum = registerValues<JobTypeName>(
  'JobType',
  'What a job does.',
  Object.fromEntries(jobNames.map(name => [jobTypeName(name), jobTypeDescriptions[name]])) as Record<
    JobTypeName,
    string
  >,
)

export const JobStateEnum = registerValues<JobState>('JobState', 'Where a job is in its life.', {
  QUEUED: 'Waits for a worker, for the first time or again after a lost attempt.',
  RUNNING: 'A worker runs it.',
  SUCCEEDED: 'Done: `output` is there. Final.',
  FAILED: 'Not done and not tried again: `error` says why. Final unless retried.',
  CANCELLED: 'Stopped on request. Final unless retried.',
})

@ObjectType({ description: 'How far a job is; at most ten updates a second, the last one never lost.' })
export class JobProgress {
  @Field(() => String, { description: 'What it is doing now.' })
  stage!: string
  @Field(() => Float, { description: 'How much of the stage is done, in `unit`.' })
  completed!: number
  @Field(() => Float, { nullable: true, description: 'How much the stage is in all, in `unit`; null where unknown.' })
  total!: number | null
  @Field(() => String, { description: 'What is counted: bytes, tensors, samples, tokens …' })
  unit!: string
  @Field(() => Float, { nullable: true, description: 'Units per second, lately.' })
  ratePerSecond!: number | null
  @Field(() => Float, { nullable: true, description: 'Seconds to the end of the stage at this rate.' })
  etaSeconds!: number | null
  @Field(() => JsonScalar, { nullable: true, description: 'Figures of the stage by name, e.g. loss, tokensPerSecond.' })
  metrics!: Record<string, number | string> | null
  @Field(() => Int, { description: 'Grows with every update of the job, over attempts and restarts.' })
  sequence!: number
}

@ObjectType({ description: 'Why a job failed.' })
export class JobError {
  @Field(() => ErrorCodeEnum, { description: 'Code of the one error table.' })
  code!: ErrorCode
  @Field(() => String, { description: 'A sentence that names the thing and the number.' })
  message!: string
}

/** The model of another subgraph, by its id. */
@Directive('@key(fields: "id", resolvable: false)')
@ObjectType('Model')
export class ModelReference {
  @Field(() => ID)
  id!: string
}

@Directive('@key(fields: "id")')
@ObjectType('Job', { implements: Node, description: 'Work in the pool: every operation on models is one.' })
export class Job extends Node {
  readonly record!: JobRecord

  @Field(() => JobTypeEnum, { description: 'What it does.' })
  type!: JobTypeName
  @Field(() => JobStateEnum, { description: 'Where it is in its life.' })
  state!: JobState
  @Field(() => JobProgress, { nullable: true, description: 'How far it is; null before a worker has reported.' })
  progress!: JobProgress | null
  @Field(() => Int, { description: 'How often it was started: at most 3 by itself; a retry on request begins anew.' })
  attempts!: number
  @Field(() => JobError, { nullable: true, description: 'Why it failed, or why its last attempt was lost.' })
  error!: JobError | null
  @Field(() => DateTimeScalar, { description: 'When it was enqueued.' })
  createdAt!: Date
  @Field(() => DateTimeScalar, { nullable: true, description: 'When its current or last attempt started.' })
  startedAt!: Date | null
  @Field(() => DateTimeScalar, { nullable: true, description: 'When it ended.' })
  finishedAt!: Date | null
  @Field(() => Float, { nullable: true, description: 'Milliseconds of its last attempt; of the running one so far.' })
  durationMs!: number | null
  @Field(() => Float, {
    description:
      'What it cost in DCUs over all attempts: device seconds times the price of the kind of device (CPU 1, WEBGPU 4, CUDA 20); 0 for jobs that need no device. See docs/cost.md.',
  })
  cost!: number
  @Field(() => Float, { description: 'Seconds it held a device, over all attempts; 0 for jobs that need none.' })
  deviceSeconds!: number
  @Field(() => Float, {
    description:
      'Floating-point operations of its matrix products over all attempts, of a lost one those that its worker had told of; 0 where it ran no model.',
  })
  flops!: number
  @Field(() => JsonScalar, { nullable: true, description: 'What it works on: hashes and parameters.' })
  input!: unknown
  @Field(() => JsonScalar, {
    nullable: true,
    description: 'What it brought forth: hashes and measurements; null until it has SUCCEEDED.',
  })
  output!: unknown
  @Field(() => ModelReference, { nullable: true, description: 'The model it works on, or made.' })
  model!: ModelReference | null
}

const isErrorCode = (code: string): code is ErrorCode => code in errorTable

const toJobProgress = (p: JobProgressRecord): JobProgress => Object.assign(new JobProgress(), p)

/** @param live the queue's progress of a running job, newer than the row's */
export function toJob(record: JobRecord, live: JobProgressRecord | null = null): Job {
  const { startedAt, finishedAt, error, state } = record
  const progress = live && live.sequence >= (record.progress?.sequence ?? 0) ? live : record.progress
  const until = state === 'RUNNING' ? Date.now() : finishedAt?.getTime()
  return Object.assign(new Job(), {
    record,
    id: toGlobalId('Job', record.id),
    type: jobTypeName(record.type),
    state,
    progress: progress && toJobProgress(progress),
    attempts: record.attempts,
    error:
      error &&
      Object.assign(new JobError(), {
        code: isErrorCode(error.code) ? error.code : 'INTERNAL_SERVER_ERROR',
        message: error.message,
      }),
    createdAt: record.createdAt,
    startedAt,
    finishedAt,
    durationMs: startedAt && until !== undefined ? Math.max(0, until - startedAt.getTime()) : null,
    cost: record.units,
    deviceSeconds: record.cost,
    flops: record.flops,
    input: record.input,
    output: record.output,
    model: record.modelId ? Object.assign(new ModelReference(), { id: toGlobalId('Model', record.modelId) }) : null,
  })
}

export const JobConnection = connectionOf('Job', () => Job)

export const DeviceKindEnum = registerValues<DeviceRecord['kind']>('DeviceKind', 'What computes.', {
  CPU: 'The processor.',
  WEBGPU: 'A graphics processor, by WebGPU.',
  CUDA: 'An NVIDIA graphics processor, by CUDA.',
})

@Directive('@key(fields: "id")')
@ObjectType('Device', { implements: Node, description: 'A device of the pool; it runs one heavy job at a time.' })
export class Device extends Node {
  readonly record!: DeviceRecord

  @Field(() => String, { description: 'Name as the operating system gives it.' })
  name!: string
  @Field(() => DeviceKindEnum, { description: 'What computes.' })
  kind!: DeviceRecord['kind']
  @Field(() => BigIntScalar, { nullable: true, description: 'Memory of the device in bytes; null where unknown.' })
  memoryBytes!: number | null
  @Field(() => Boolean, { description: 'Whether jobs run on it: HARTONOMOUS_DEVICES names it.' })
  chosen!: boolean
  @Field(() => String, {
    nullable: true,
    description: 'Why it does not compute, and what to install; null where it can.',
  })
  problem!: string | null
  @Field(() => Boolean, { description: 'Whether a job holds it now.' })
  busy!: boolean
  @Field(() => String, { description: 'Process id and host of its worker.' })
  worker!: string
}

export const toDevice = (record: DeviceRecord): Device =>
  Object.assign(new Device(), {
    record,
    id: toGlobalId('Device', record.id),
    name: record.name,
    kind: record.kind,
    memoryBytes: record.memoryBytes,
    chosen: record.chosen,
    problem: record.problem,
    busy: record.busy,
    worker: record.worker,
  })
