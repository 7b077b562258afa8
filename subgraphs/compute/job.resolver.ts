// Queries, mutations and subscriptions of jobs.
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root, Subscription } from 'type-graphql'
import { fromGlobalId, parseGlobalId } from '../../lib/ids.js'
import type { Page } from '../build/connection.js'
import { toRecord } from '../build/enqueue.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import {
  CancelJobInput,
  CancelJobPayload,
  JobProgressArguments,
  JobsArguments,
  JobsChangedArguments,
  RetryJobInput,
  RetryJobPayload,
} from './job.inputs.js'
import { jobRows } from './job.loaders.js'
import { cancelJob, listJobs, retryJob } from './job.service.js'
import { Device, Job, JobConnection, jobTypeName, toDevice, toJob } from './job.type.js'
import { readJob, watchJob, watchJobs } from './job-events.js'

@Resolver(() => Job)
export class JobResolver {
  @Query(() => Job, { nullable: true, description: 'A job by its id; null where there is none.' })
  async job(@Arg('id', () => ID, { description: 'Global id of the job.' }) id: string, @Ctx() context: RequestContext) {
    const parsed = parseGlobalId(id)
    return parsed?.type === 'Job' ? ((await jobRows(context).load(parsed.id)) ?? null) : null
  }

  @Query(() => JobConnection, { description: 'Jobs, newest first.' })
  async jobs(@Args(() => JobsArguments) args: JobsArguments, @Ctx() context: RequestContext): Promise<Page<Job>> {
    const { queue } = context.platform
    return (await listJobs(context, args)).map(row =>
      toJob(toRecord(row), row.state === 'RUNNING' ? queue.progress(row.id) : null),
    )
  }

  @FieldResolver(() => Device, {
    nullable: true,
    description: 'The device it runs or ran on; null for jobs without one, or where the device is gone.',
  })
  device(@Root() job: Job, @Ctx() { platform }: RequestContext): Device | null {
    const device = job.record.deviceId && platform.queue.devices().find(d => d.id === job.record.deviceId)
    return device ? toDevice(device) : null
  }

  @Mutation(() => CancelJobPayload, {
    description: 'Stops a queued or running job within a second; nothing half-made stays.',
  })
  cancelJob(
    @Arg('input', () => CancelJobInput, { description: 'Which job.' }) input: CancelJobInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<CancelJobPayload>(async () => {
      const id = await cancelJob(context, input.jobId)
      return { job: await readJob(context.platform, context.tenantId, id) }
    })
  }

  @Mutation(() => RetryJobPayload, { description: 'Puts a failed or cancelled job on the queue again.' })
  retryJob(
    @Arg('input', () => RetryJobInput, { description: 'Which job.' }) input: RetryJobInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<RetryJobPayload>(async () => {
      const id = await retryJob(context, input.jobId)
      return { job: await readJob(context.platform, context.tenantId, id) }
    })
  }

  @Subscription(() => Job, {
    description:
      'A job from now to its end: a snapshot first, then every change (progress at most ten times a second), the final state last; then it completes.',
    subscribe: ({ args, context }: { args: JobProgressArguments; context: RequestContext }) =>
      watchJob(context.platform, context.tenantId, fromGlobalId('Job', args.id), args.afterSequence ?? null) as never,
  })
  jobProgress(@Root() job: Job, @Args(() => JobProgressArguments) _: JobProgressArguments): Job {
    return job
  }

  @Subscription(() => Job, {
    description: 'Changes of all jobs as they happen; a slow reader loses the oldest.',
    subscribe: ({ args, context }: { args: JobsChangedArguments; context: RequestContext }) =>
      watchJobs(
        context.platform,
        context.tenantId,
        job => (args.states?.includes(job.state) ?? true) && (args.types?.includes(jobTypeName(job.type)) ?? true),
      ) as never,
  })
  jobsChanged(@Root() job: Job, @Args(() => JobsChangedArguments) _: JobsChangedArguments): Job {
    return job
  }
}
