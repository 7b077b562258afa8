// Devices of the pool.
import { Arg, Ctx, FieldResolver, Query, Resolver, Root } from 'type-graphql'
import type { RequestContext } from '../build/platform.js'
import { jobRows } from './job.loaders.js'
import { Device, Job, toDevice } from './job.type.js'

@Resolver(() => Device)
export class DeviceResolver {
  @Query(() => [Device], { description: 'The devices that jobs run on, the preferred first.' })
  async devices(
    @Ctx() { platform }: RequestContext,
    @Arg('offered', () => Boolean, {
      defaultValue: false,
      description:
        'Also those that this machine has beside them, and what keeps others from computing; the first time this takes a second.',
    })
    offered: boolean,
  ): Promise<Device[]> {
    const { queue } = platform
    return (offered ? await queue.offeredDevices() : queue.devices()).map(toDevice)
  }

  @FieldResolver(() => Job, { nullable: true, description: 'The job that holds it now.' })
  async job(@Root() device: Device, @Ctx() context: RequestContext): Promise<Job | null> {
    const { jobId } = device.record
    return (jobId && (await jobRows(context).load(jobId))) || null
  }
}
