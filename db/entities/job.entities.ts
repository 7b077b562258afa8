// Jobs: the only rows that both planes meet in (workers see them through the pool, never through the database).
import { Entity, ForeignKey, Index } from 'typeorm'
import {
  FlagColumn,
  IdColumn,
  IdPrimaryColumn,
  IntegerColumn,
  JsonColumn,
  NameColumn,
  RealColumn,
  TextColumn,
  TimeColumn,
} from '../columns.js'
import { ModelAtom } from './model.entities.js'

export const jobStates = ['QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'] as const
export type JobState = (typeof jobStates)[number]

export interface JobProgressValue {
  stage: string
  completed: number
  total: number | null
  unit: string
  ratePerSecond: number | null
  etaSeconds: number | null
  metrics: Record<string, number | string> | null
  sequence: number
}

@Entity('Jobs')
@Index('IX_Jobs_State', ['state', 'id'])
@Index('IX_Jobs_Model', ['modelId', 'id'])
export class Job {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  /** A JobName of compute/pool/job-types.ts. */
  @NameColumn({}, 60) type!: string
  /** Where it runs: `io`, `device` or `interactive`; decided when it is enqueued. */
  @NameColumn({ default: 'io' }, 20) lane!: string
  @NameColumn({}, 20) state!: JobState
  @JsonColumn() input!: unknown
  @JsonColumn({ nullable: true }) output!: unknown
  /** What the owner needs when the job ends (names, row ids); workers never see it. */
  @JsonColumn({ nullable: true }) context!: unknown
  /** The model the job works on, or made. */
  @ForeignKey(() => ModelAtom)
  @IdColumn({ nullable: true })
  modelId!: string | null
  @IntegerColumn() attempts!: number
  @FlagColumn() cancelRequested!: boolean
  @JsonColumn({ nullable: true }) error!: { code: string; message: string } | null
  /** Last progress; kept in memory while running, written when the job ends. */
  @JsonColumn({ nullable: true }) progress!: JobProgressValue | null
  @NameColumn({ nullable: true }, 60) deviceId!: string | null
  @TimeColumn() createdAt!: Date
  @TimeColumn({ nullable: true }) startedAt!: Date | null
  @TimeColumn({ nullable: true }) finishedAt!: Date | null
  /** Device seconds over all attempts. */
  @RealColumn() cost!: number
  /** Floating-point operations of matrix products over all attempts; of a lost one those that its worker had told of. */
  @RealColumn({ default: 0 }) flops!: number
  /** DCUs over all attempts (docs/cost.md). */
  @RealColumn({ default: 0 }) units!: number
}

/** Creating mutations: the same key and input give the same result. */
@Entity('IdempotencyKeys')
@Index('UX_IdempotencyKeys', ['tenantId', 'mutation', 'key'], { unique: true })
export class IdempotencyKey {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @NameColumn({}, 60) mutation!: string
  @NameColumn({}, 200) key!: string
  @IdColumn({}, 64) inputHash!: string
  /** Ids that the mutation returned. */
  @JsonColumn() result!: unknown
  @TimeColumn() createdAt!: Date
}

@Entity('Tenants')
export class Tenant {
  @IdPrimaryColumn() id!: string
  @NameColumn() name!: string
  @TextColumn({ nullable: true }) description!: string | null
  @TimeColumn() createdAt!: Date
}
