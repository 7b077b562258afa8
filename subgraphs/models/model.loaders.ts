// Batched reads of the models subgraph: one query per kind and tick, however many models a page has.
import { ModelAtom, ModelEvent, TensorAtom } from '../../db/entities/index.js'
import { uniqueBytes } from '../../db/models.js'
import { anyOf, scoped } from '../../db/scope.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { readManifest } from '../build/read-manifest.js'
import { type Tensor, toTensor } from './tensor.type.js'

/** Rows by id, deleted ones too. */
export const modelRows = (context: RequestContext) =>
  loader(context, 'models.rows', async (ids: readonly string[], { platform, tenantId }) => {
    const rows = await platform.db.read.find(ModelAtom, { where: { ...scoped(tenantId), id: anyOf(ids) } })
    return new Map(rows.map(r => [r.id, r]))
  })

export const tensorRows = (context: RequestContext) =>
  loader(context, 'models.tensorRows', async (ids: readonly string[], { platform, tenantId }) => {
    const rows = await platform.db.read.find(TensorAtom, { where: { ...scoped(tenantId), id: anyOf(ids) } })
    return new Map(rows.map(r => [r.id, r]))
  })

/** Students that are not deleted, newest first, by parent id. */
export const studentRows = (context: RequestContext) =>
  loader(context, 'models.students', async (parentIds: readonly string[], { platform, tenantId }) => {
    const rows = await platform.db.read
      .createQueryBuilder(ModelAtom, 'm')
      .where({ ...scoped(tenantId), parentModelId: anyOf(parentIds) })
      .andWhere('m.deletedAt IS NULL')
      .orderBy('m.id', 'DESC')
      .getMany()
    return groupBy(rows, r => r.parentModelId ?? '')
  })

export const uniqueByteCounts = (context: RequestContext) =>
  loader(context, 'models.uniqueBytes', (ids: readonly string[], { platform }) => uniqueBytes(platform.db.read, ids))

/** Events, oldest first, by model id. */
export const eventRows = (context: RequestContext) =>
  loader(context, 'models.events', async (ids: readonly string[], { platform, tenantId }) => {
    const where = { ...scoped(tenantId), modelId: anyOf(ids) }
    return groupBy(await platform.db.read.find(ModelEvent, { where, order: { id: 'ASC' } }), r => r.modelId)
  })

/** Tensors in the order of the manifest, by model id. */
export const tensorsOfModel = (context: RequestContext) =>
  loader(context, 'models.tensors', async (ids: readonly string[], { platform, tenantId }) => {
    const where = { ...scoped(tenantId), modelId: anyOf(ids) }
    const rows = await platform.db.read.find(TensorAtom, { where, order: { modelId: 'ASC', ordinal: 'ASC' } })
    return groupBy<string, Tensor>(rows.map(toTensor), t => t.row.modelId)
  })

/** Ids of the models that hold a payload, newest first, by payload hash. */
export const holdersOfPayload = (context: RequestContext) =>
  loader(context, 'models.holders', async (hashes: readonly string[], { platform, tenantId }) => {
    const rows = await platform.db.read
      .createQueryBuilder(TensorAtom, 't')
      .select('t.payloadHash', 'hash')
      .addSelect('t.modelId', 'modelId')
      .distinct()
      .where({ ...scoped(tenantId), payloadHash: anyOf(hashes) })
      .orderBy('t.modelId', 'DESC')
      .getRawMany<{ hash: string; modelId: string }>()
    return new Map([...groupBy(rows, r => r.hash)].map(([hash, held]) => [hash, held.map(r => r.modelId)]))
  })

export const manifests = (context: RequestContext) =>
  loader(context, 'models.manifests', async (hashes: readonly string[], { platform }) => {
    const read = await Promise.all(
      hashes.map(async hash => [hash, await readManifest(platform.payloads, hash)] as const),
    )
    return new Map(read)
  })
