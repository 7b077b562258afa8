// The compute subgraph: jobs and devices. Other subgraphs own what their jobs mean; this one shows and steers them.
import { parseGlobalId } from '../../lib/ids.js'
import type { RequestContext } from '../build/platform.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import { DeviceResolver } from './device.resolver.js'
import { jobRows } from './job.loaders.js'
import { JobResolver } from './job.resolver.js'
import { toDevice } from './job.type.js'

export const subgraph: Subgraph = {
  name: 'compute',
  ...buildFederatedSchema(
    { resolvers: [JobResolver, DeviceResolver] },
    {
      async Job({ id }: { id: string }, context: RequestContext) {
        const parsed = parseGlobalId(id)
        return parsed?.type === 'Job' ? ((await jobRows(context).load(parsed.id)) ?? null) : null
      },
      Device({ id }: { id: string }, { platform }: RequestContext) {
        const parsed = parseGlobalId(id)
        const device = parsed?.type === 'Device' && platform.queue.devices().find(d => d.id === parsed.id)
        return device ? toDevice(device) : null
      },
    },
  ),
  effects: {},
}
