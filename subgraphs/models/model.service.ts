// What the models subgraph does, as functions of the request: rows in, rows and job ids out.
import type { EntityManager, SelectQueryBuilder } from 'typeorm'
import type { JobInput, JobName } from '../../compute/pool/job-types.js'
import { Job, ModelAtom, TensorAtom } from '../../db/entities/index.js'
import { aliveModel, deleteModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId } from '../../lib/ids.js'
import { checkText } from '../build/check-text.js'
import { type Page, paginate, paginateEach } from '../build/connection.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import type { RequestContext } from '../build/platform.js'
import type { ExportModelInput, IngestModelInput, ModelsArguments, TensorsArguments } from './model.inputs.js'
import { checkSource } from './source.js'

/** What a finished ingest needs to make the model's row. */
export interface IngestContext {
  name: string
  version: string | null
  source: string
}

/** Names are no longer (the column's width); SQLite refuses patterns of some 50,000. */
const maximumNameLength = 400

/** `name LIKE %text%` whatever the case; `%`, `_` and `\` in the text mean themselves. */
function andNameContains<T extends object>(query: SelectQueryBuilder<T>, text: string) {
  if (text.length > maximumNameLength)
    throw new DomainError('BAD_USER_INPUT', `nameContains: ${text.length} characters, at most ${maximumNameLength}`, {
      field: ['nameContains'],
    })
  // Lower case as SQLite's LOWER knows it: of ASCII letters only.
  const lower = text.replace(/[A-Z]/g, letter => letter.toLowerCase())
  const pattern = `%${lower.replace(/[\\%_[]/g, '\\$&')}%`
  return query.andWhere(`LOWER(${query.alias}.name) LIKE :nameContains ESCAPE '\\'`, { nameContains: pattern })
}

/** Models that are not deleted, newest first. */
export function listModels({ platform, tenantId }: RequestContext, args: ModelsArguments): Promise<Page<ModelAtom>> {
  const query = platform.db.read
    .createQueryBuilder(ModelAtom, 'm')
    .where(scoped(tenantId))
    .andWhere('m.deletedAt IS NULL')
  if (args.nameContains) andNameContains(query, args.nameContains)
  if (args.architecture != null) query.andWhere('m.architecture = :architecture', { architecture: args.architecture })
  if (args.isStudent != null) query.andWhere({ isStudent: args.isStudent })
  return paginate(query, args, 'models')
}

/** Pages of several models' tensors in the order of their manifests, by model id. */
export function listTensors(
  { platform, tenantId }: RequestContext,
  modelIds: readonly string[],
  args: TensorsArguments,
): Promise<Map<string, Page<TensorAtom>>> {
  const query = platform.db.read.createQueryBuilder(TensorAtom, 't').where(scoped(tenantId))
  if (args.layerIndex != null) query.andWhere('t.layerIndex = :layer', { layer: args.layerIndex })
  if (args.component != null) query.andWhere('t.component = :component', { component: args.component })
  if (args.nameContains) andNameContains(query, args.nameContains)
  return paginateEach(query, args, 'modelId', modelIds, id => `tensors ${id}`, [{ property: 'ordinal' }])
}

/** Trimmed; what is given must not be empty. */
function checkGiven(name: string, text: string | null | undefined, maximum: number): string | null {
  const checked = checkText(text, maximum, name)
  if (text != null && checked === null)
    throw new DomainError('BAD_USER_INPUT', `${name}: empty, expected 1 to ${maximum} characters`, {
      field: ['input', name],
    })
  return checked
}

/** Enqueues an ingest; the second of two calls with one key gets the first one's job, and its model once it is there. */
export async function ingestModel(
  { platform, tenantId }: RequestContext,
  input: IngestModelInput,
): Promise<{ jobId: string; model: ModelAtom | null }> {
  const suggested = checkSource(input.source, platform.env)
  const name = checkGiven('name', input.name, 200) ?? suggested.name
  const version = checkText(input.version, 100, 'version')
  const revision = checkGiven('revision', input.revision, 200)
  if (revision !== null && !/^hf:/i.test(input.source))
    throw new DomainError('BAD_USER_INPUT', 'revision: only hf: sources have revisions', {
      field: ['input', 'revision'],
    })
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'ingestModel', input.idempotencyKey, input, async () => {
      const context: IngestContext = { name, version, source: input.source }
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'model.ingest',
        input: { source: input.source, ...(revision !== null && { revision }) },
        context,
      })
      return { jobId: job.id }
    })
    const job = await em.findOneBy(Job, { ...scoped(tenantId), id: jobId })
    const model = job?.modelId ? await em.findOneBy(ModelAtom, { ...scoped(tenantId), id: job.modelId }) : null
    return { jobId, model }
  })
}

/** Enqueues a job once per key; returns its id. */
const enqueueOnce = <K extends JobName>(
  { platform, tenantId }: RequestContext,
  mutation: string,
  input: { idempotencyKey?: string | null },
  job: (em: EntityManager) => Promise<{ type: K; input: JobInput<K>; modelId?: string }>,
): Promise<string> =>
  platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, mutation, input.idempotencyKey, input, async () => {
      const enqueued = await enqueue(em, platform, { tenantId, ...(await job(em)) })
      return { jobId: enqueued.id }
    })
    return jobId
  })

export const exportModel = (context: RequestContext, input: ExportModelInput) =>
  enqueueOnce(context, 'exportModel', input, async em => {
    const model = await aliveModel(em, context.tenantId, fromGlobalId('Model', input.modelId, ['input', 'modelId']))
    const { manifestHash: manifest, name } = model
    const { format, quantization } = input
    return {
      type: 'model.export',
      input: { manifest, name, format, ...(quantization ? { quantization } : {}) },
      modelId: model.id,
    }
  })

export const verifyStorage = (context: RequestContext, input: { idempotencyKey?: string | null }) =>
  enqueueOnce(context, 'verifyStorage', input, async () => ({ type: 'storage.verify', input: {} }))

/** The input is filled in when the job is claimed: what is alive may change until then. */
export const collectGarbage = (context: RequestContext, input: { idempotencyKey?: string | null }) =>
  enqueueOnce(context, 'collectGarbage', input, async () => ({
    type: 'storage.collect',
    input: { manifests: [], payloads: [] },
  }))

export const removeModel = ({ platform, tenantId }: RequestContext, modelId: string) => {
  const id = fromGlobalId('Model', modelId, ['input', 'modelId'])
  return platform.db.tx(em => deleteModel(em, tenantId, id))
}
