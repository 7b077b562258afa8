// The models subgraph: models, tensors, storage.
import { parseGlobalId } from '../../lib/ids.js'
import type { RequestContext } from '../build/platform.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import { FuseResolver } from './fuse.resolver.js'
import { modelEffects } from './model.effects.js'
import { modelRows, tensorRows } from './model.loaders.js'
import { ModelResolver } from './model.resolver.js'
import { toModel } from './model.type.js'
import { QuantizeResolver } from './quantize.resolver.js'
import { StorageResolver } from './storage.resolver.js'
import { TensorResolver } from './tensor.resolver.js'
import { toTensor } from './tensor.type.js'

const rowId = (type: string, globalId: string) => {
  const parsed = parseGlobalId(globalId)
  return parsed?.type === type ? parsed.id : undefined
}

export const subgraph: Subgraph = {
  name: 'models',
  ...buildFederatedSchema(
    { resolvers: [ModelResolver, TensorResolver, StorageResolver, QuantizeResolver, FuseResolver] },
    {
      // Deleted models too: jobs, recipes and students still point at them.
      async Model({ id }: { id: string }, context: RequestContext) {
        const rowKey = rowId('Model', id)
        const row = rowKey && (await modelRows(context).load(rowKey))
        return row ? toModel(row) : null
      },
      async Tensor({ id }: { id: string }, context: RequestContext) {
        const rowKey = rowId('Tensor', id)
        const row = rowKey && (await tensorRows(context).load(rowKey))
        return row ? toTensor(row) : null
      },
    },
  ),
  effects: modelEffects,
}
