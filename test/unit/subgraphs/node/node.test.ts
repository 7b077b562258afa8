// node(id) and nodes(ids): what exists, as a reference of its type; everything else null.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { TensorAtom } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { newId, toGlobalId } from '../../../../lib/ids.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import { subgraph } from '../../../../subgraphs/node/subgraph.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import { addModel, openSubgraphPlatform, run, type SubgraphPlatform } from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
beforeEach(async () => {
  kit = await openSubgraphPlatform()
})
afterEach(() => kit.close())
const ask = (query: string, variables = {}) => run(subgraph.schema, kit.context(), query, variables)

test('what exists is found with its type, the rest is null, in the order asked, one query per type', async () => {
  const { db } = kit.platform
  const model = await addModel(kit.platform, 'a')
  const gone = await addModel(kit.platform, 'b')
  await db.tx(em => deleteModel(em, defaultTenantId, gone.id))
  const tensor = await db.read.findOneByOrFail(TensorAtom, { modelId: model.id })
  const job = await db.tx(em =>
    enqueue(em, kit.platform, { tenantId: defaultTenantId, type: 'storage.verify', input: {} }),
  )
  const ids = [
    toGlobalId('Job', job.id),
    'nonsense',
    toGlobalId('Model', model.id),
    toGlobalId('Model', gone.id),
    toGlobalId('Tensor', tensor.id),
    toGlobalId('Recipe', newId()),
    toGlobalId('Tensor', model.id),
  ]
  const query = 'query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }'
  const { nodes } = await ask(query, { ids })
  expect(nodes).toEqual([
    { __typename: 'Job', id: ids[0] },
    null,
    { __typename: 'Model', id: ids[2] },
    null,
    { __typename: 'Tensor', id: ids[4] },
    null,
    null,
  ])
  expect(await queriesOf(db.read, () => ask(query, { ids }))).toHaveLength(4)
  expect(await ask('query ($id: ID!) { node(id: $id) { __typename } }', { id: ids[2] })).toEqual({
    node: { __typename: 'Model' },
  })
})

test('more than 100 ids are refused with the number', async () => {
  const ids = Array.from({ length: 101 }, () => 'x')
  await expect(ask('query ($ids: [ID!]!) { nodes(ids: $ids) { id } }', { ids })).rejects.toThrow('101 ids, at most 100')
})
