// Arguments, inputs and payloads of the compute subgraph.
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { JobState } from '../../compute/pool/queue.js'
import { UserError } from '../build/common-types.js'
import { ConnectionArguments } from '../build/connection.js'
import { Job, JobStateEnum, JobTypeEnum, type JobTypeName } from './job.type.js'

@ArgsType()
export class JobsArguments extends ConnectionArguments {
  @Field(() => [JobStateEnum], { nullable: true, description: 'Only jobs in one of these states.' })
  states?: JobState[] | null
  @Field(() => [JobTypeEnum], { nullable: true, description: 'Only jobs of these types.' })
  types?: JobTypeName[] | null
  @Field(() => ID, { nullable: true, description: 'Only jobs that work on this model, or made it.' })
  modelId?: string | null
}

@ArgsType()
export class JobProgressArguments {
  @Field(() => ID, { description: 'The job.' })
  id!: string
  @Field(() => Int, {
    nullable: true,
    description:
      'After a reconnect: the sequence seen last; progress up to it is not sent again. The final state always is.',
  })
  afterSequence?: number | null
}

@ArgsType()
export class JobsChangedArguments {
  @Field(() => [JobStateEnum], { nullable: true, description: 'Only jobs in one of these states.' })
  states?: JobState[] | null
  @Field(() => [JobTypeEnum], { nullable: true, description: 'Only jobs of these types.' })
  types?: JobTypeName[] | null
}

const userErrors = { description: 'What was wrong with the input; empty where all went well.' }

@InputType({ description: 'Which job to cancel.' })
export class CancelJobInput {
  @Field(() => ID, { description: 'The job.' })
  jobId!: string
}

@ObjectType({ description: 'The cancelled job.' })
export class CancelJobPayload {
  @Field(() => Job, { nullable: true, description: 'The job: CANCELLED, or how it ended just before.' })
  job?: Job | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}

@InputType({ description: 'Which job to try again.' })
export class RetryJobInput {
  @Field(() => ID, { description: 'The job.' })
  jobId!: string
}

@ObjectType({ description: 'The job, on the queue again.' })
export class RetryJobPayload {
  @Field(() => Job, { nullable: true, description: 'The job: QUEUED.' })
  job?: Job | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}
