// Devices of the pool.
import { Ctx, FieldResolver, Query, Resolver, Root } from 'type-graphql'
import type { RequestContext } from '../build/platform.js'
import { jobRows } from './job.loaders.js'
import { Device, Job, toDevice } from './job.type.js'

@Resolver(() => Device)
export class DeviceResolver {
  @Query(() => [Device], { description: 'All devices of the pool.' })
  devices(@Ctx() { platform }: RequestContext): Device[] {
    return platform.queue.devices().map(toDevice)
  }

  @FieldResolver(() => Job, { nullable: true, description: 'The job that holds it now.' })
  async job(@Root() device: Device, @Ctx() context: RequestContext): Promise<Job | null> {
    const { jobId } = device.record
    return (jobId && (await jobRows(context).load(jobId))) || null
  }
}
