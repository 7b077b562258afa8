// Models as rows: what registering and deleting one does to models, tensors, payload references and events.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type EntityManager, IsNull, type QueryDeepPartialEntity } from 'typeorm'
import { DomainError } from '../lib/errors.js'
import { newId } from '../lib/ids.js'
import { type Manifest, type ManifestTensor, tensorComponents } from '../lib/manifest.js'
import {
  CapabilityAnalysis,
  ModelAtom,
  ModelEvent,
  ProbeDataset,
  StudentModelRecipe,
  TensorAtom,
  TensorPayload,
} from './entities/index.js'
import { anyOf, scoped } from './scope.js'

export interface NewModel {
  tenantId: string
  manifest: Manifest
  /** Payload of the manifest's JSON. */
  manifestHash: string
  name: string
  version?: string | null
  /** As the caller gave it; null for models built here. */
  source: string | null
  parentModelId?: string | null
  isStudent: boolean
  objective?: string | null
  jobId: string | null
  /** Sentence for the model's history; default: from the source or the parent. */
  description?: string
}

/** Rows per INSERT: SQL Server takes at most 2,100 parameters, a tensor row has 16. */
const insertChunk = 120

/** Elements of a tensor; a scalar (shape []) has one. */
export const elementCount = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** The dtype that most parameters have; the first named of equals. */
export function dominantDtype(tensors: readonly Pick<ManifestTensor, 'dtype' | 'shape'>[]): string {
  const counts = new Map<string, number>()
  for (const t of tensors) counts.set(t.dtype, (counts.get(t.dtype) ?? 0) + elementCount(t.shape))
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best), ['NONE', -1] as [string, number])[0]
}

/** x = layer (-1 before the first, layerCount after the last), y = component, z = place among its like in the layer. */
function tensorPositions(manifest: Manifest): { x: number; y: number; z: number }[] {
  const places = new Map<string, number>()
  return manifest.tensors.map(({ layerIndex, component }) => {
    const before = component === 'EMBEDDING' || component === 'OTHER'
    const x = layerIndex ?? (before ? -1 : manifest.dimensions.layerCount)
    const place = places.get(`${x} ${component}`) ?? 0
    places.set(`${x} ${component}`, place + 1)
    return { x, y: tensorComponents.indexOf(component), z: place }
  })
}

/** Adds (or takes away) references: one statement per distinct number, nearly always one. */
async function countReferences(em: EntityManager, counts: ReadonlyMap<string, number>, sign: 1 | -1) {
  const byCount = new Map<number, string[]>()
  for (const [hash, n] of counts) byCount.set(n, [...(byCount.get(n) ?? []), hash])
  for (const [n, hashes] of byCount) {
    await em.increment(TensorPayload, { hash: anyOf(hashes) }, 'referenceCount', sign * n)
  }
}

/**
 * Writes a model with its tensors, payload references and first event; returns its row. Within a transaction.
 * The payloads are shared by all models: a payload that is there already only gets more references.
 */
export async function registerModel(em: EntityManager, model: NewModel): Promise<ModelAtom> {
  const { tenantId, manifest } = model
  const createdAt = new Date()
  const row: ModelAtom = {
    id: newId(),
    tenantId,
    name: model.name,
    version: model.version ?? null,
    architecture: manifest.architecture,
    parameterCount: manifest.parameterCount,
    layerCount: manifest.dimensions.layerCount,
    dimensions: manifest.dimensions,
    dtype: dominantDtype(manifest.tensors),
    sizeBytes: manifest.tensors.reduce((sum, t) => sum + t.bytes, 0),
    manifestHash: model.manifestHash,
    source: model.source,
    license: manifest.license?.slice(0, 200) ?? null,
    isStudent: model.isStudent,
    isProduction: false,
    objective: model.objective ?? null,
    parentModelId: model.parentModelId ?? null,
    createdAt,
    lastOptimizedAt: null,
    deletedAt: null,
  }
  await em.insert(ModelAtom, row as QueryDeepPartialEntity<ModelAtom>)

  const positions = tensorPositions(manifest)
  const tensors = manifest.tensors.map(
    (t, ordinal): TensorAtom => ({
      id: newId(),
      tenantId,
      modelId: row.id,
      ordinal,
      name: t.name,
      role: t.role ?? null,
      layerIndex: t.layerIndex,
      component: t.component,
      shape: t.shape,
      slice: t.slice ?? null,
      dtype: t.dtype,
      sizeBytes: t.bytes,
      payloadHash: t.payload,
      positionX: positions[ordinal]!.x,
      positionY: positions[ordinal]!.y,
      positionZ: positions[ordinal]!.z,
    }),
  )
  const sizes = new Map(manifest.tensors.map(t => [t.payload, t.bytes]))
  const counts = new Map<string, number>()
  for (const t of manifest.tensors) counts.set(t.payload, (counts.get(t.payload) ?? 0) + 1)
  const known = await em.find(TensorPayload, { select: { hash: true }, where: { hash: anyOf([...counts.keys()]) } })
  const knownHashes = new Set(known.map(p => p.hash))
  const added = [...counts].filter(([hash]) => !knownHashes.has(hash))
  for (let i = 0; i < added.length; i += insertChunk) {
    const rows = added.slice(i, i + insertChunk)
    await em.insert(
      TensorPayload,
      rows.map(([hash, referenceCount]) => ({ hash, sizeBytes: sizes.get(hash)!, referenceCount, createdAt })),
    )
  }
  await countReferences(em, new Map([...counts].filter(([hash]) => knownHashes.has(hash))), 1)
  for (let i = 0; i < tensors.length; i += insertChunk) {
    await em.insert(TensorAtom, tensors.slice(i, i + insertChunk))
    // The driver is synchronous: requests and events get their turn between the chunks of a model with many tensors.
    await nextTurn()
  }

  const origin = model.isStudent ? `built here: ${model.objective ?? model.name}` : `ingested from ${model.source}`
  await addModelEvent(em, {
    tenantId,
    modelId: row.id,
    kind: model.isStudent ? 'BUILT' : 'INGESTED',
    description: model.description ?? `${tensors.length} tensors, ${row.sizeBytes} bytes, ${origin}`,
    jobId: model.jobId,
  })
  return row
}

/** One more line in a model's history. */
export async function addModelEvent(em: EntityManager, event: Omit<ModelEvent, 'id' | 'createdAt'>): Promise<void> {
  await em.insert(ModelEvent, { ...event, id: newId(), createdAt: new Date() })
}

/** A model that is not deleted; NOT_FOUND otherwise. For checks before a write pass the transaction's manager. */
export async function aliveModel(em: EntityManager, tenantId: string, modelId: string, field = ['input', 'modelId']) {
  const row = await em.findOneBy(ModelAtom, { ...scoped(tenantId), id: modelId })
  if (!row || row.deletedAt)
    throw new DomainError('NOT_FOUND', row ? `The model ${row.name} was deleted` : 'No model has this id', { field })
  return row
}

/** The oldest living model of a manifest. */
export const modelOfManifest = (em: EntityManager, tenantId: string, manifestHash: string) =>
  em.findOne(ModelAtom, { where: { ...scoped(tenantId), manifestHash, deletedAt: IsNull() }, order: { id: 'ASC' } })

/**
 * A model that is not deleted and has this manifest; NOT_FOUND otherwise, with the name of the one that had it.
 * @param what it is to the caller, as `teacher`
 */
export async function aliveModelOfManifest(
  em: EntityManager,
  tenantId: string,
  manifestHash: string,
  what: string,
  field = ['input', 'modelId'],
): Promise<ModelAtom> {
  const alive = await modelOfManifest(em, tenantId, manifestHash)
  if (alive) return alive
  const [last] = await em.find(ModelAtom, {
    where: { ...scoped(tenantId), manifestHash },
    order: { id: 'DESC' },
    take: 1,
  })
  const message = last ? `The ${what} ${last.name} was deleted` : `No model is the ${what} that was asked for`
  throw new DomainError('NOT_FOUND', message, { field })
}

/**
 * Deletes a model: its tensors and references go, payloads that nothing refers to any more lose their row (their bytes go with the
 * next garbage collection), the model's row stays for lineage. A second call changes nothing. Within a transaction.
 * @throws NOT_FOUND
 */
export async function deleteModel(em: EntityManager, tenantId: string, modelId: string): Promise<ModelAtom> {
  const row = await em.findOneBy(ModelAtom, { ...scoped(tenantId), id: modelId })
  if (!row) throw new DomainError('NOT_FOUND', 'No model has this id', { field: ['input', 'modelId'] })
  if (row.deletedAt) return row
  const held = await em.find(TensorAtom, { select: { payloadHash: true }, where: { ...scoped(tenantId), modelId } })
  const counts = new Map<string, number>()
  for (const { payloadHash } of held) counts.set(payloadHash, (counts.get(payloadHash) ?? 0) + 1)
  await em.delete(TensorAtom, { ...scoped(tenantId), modelId })
  await countReferences(em, counts, -1)
  await em.delete(TensorPayload, { hash: anyOf([...counts.keys()]), referenceCount: 0 })
  row.deletedAt = new Date()
  await em.update(ModelAtom, { ...scoped(tenantId), id: modelId }, { deletedAt: row.deletedAt, isProduction: false })
  // The recipe of a student that is gone may be built again.
  await em.update(
    StudentModelRecipe,
    { ...scoped(tenantId), studentModelId: modelId, status: 'BUILT' },
    { status: 'APPROVED', studentModelId: null, measuredQuality: null, builtAt: null },
  )
  await addModelEvent(em, {
    tenantId,
    modelId,
    kind: 'DELETED',
    description: `${held.length} tensors released`,
    jobId: null,
  })
  return row
}

/** Manifests and loose payloads (probe sets) that rows of any tenant refer to: what a garbage collection must keep. */
export async function alivePayloads(em: EntityManager): Promise<{ manifests: string[]; payloads: string[] }> {
  const models = await em
    .createQueryBuilder(ModelAtom, 'm')
    .select('m.manifestHash', 'hash')
    .distinct()
    .where('m.deletedAt IS NULL')
    .getRawMany<{ hash: string }>()
  const probeSets = await em
    .createQueryBuilder(ProbeDataset, 'p')
    .select('p.probeSetHash', 'hash')
    .distinct()
    .getRawMany<{ hash: string }>()
  const centroids = await em
    .createQueryBuilder(CapabilityAnalysis, 'a')
    .innerJoin(ModelAtom, 'm', 'm.id = a.modelId AND m.deletedAt IS NULL')
    .select('a.centroidsHash', 'hash')
    .distinct()
    .where('a.centroidsHash IS NOT NULL')
    .getRawMany<{ hash: string }>()
  return { manifests: models.map(m => m.hash), payloads: [...probeSets, ...centroids].map(p => p.hash) }
}

/** Manifests of all models that are not deleted, of any tenant. */
export const aliveManifests = async (em: EntityManager): Promise<string[]> => (await alivePayloads(em)).manifests

/** Bytes of the payloads that no other model refers to, by model id, in one query; a payload held twice by one model counts once. */
export async function uniqueBytes(em: EntityManager, modelIds: readonly string[]): Promise<Map<string, number>> {
  const rows = await em
    .createQueryBuilder()
    .select('h.modelId', 'modelId')
    .addSelect('SUM(p.sizeBytes)', 'bytes')
    .from(
      query =>
        query
          .select('t.modelId', 'modelId')
          .addSelect('t.payloadHash', 'payloadHash')
          .addSelect('COUNT(*)', 'n')
          .from(TensorAtom, 't')
          .where({ modelId: anyOf(modelIds) })
          .groupBy('t.modelId')
          .addGroupBy('t.payloadHash'),
      'h',
    )
    .innerJoin(TensorPayload, 'p', 'p.hash = h.payloadHash AND p.referenceCount = h.n')
    .groupBy('h.modelId')
    .getRawMany<{ modelId: string; bytes: number | string }>()
  const found = new Map(rows.map(r => [r.modelId, Number(r.bytes)]))
  return new Map(modelIds.map(id => [id, found.get(id) ?? 0]))
}

export interface StorageTotals {
  payloadCount: number
  storedBytes: number
  modelCount: number
  logicalBytes: number
}

/** What models would take without sharing (logical, this tenant's) and what the tensor payloads they refer to take (stored). */
export async function storageTotals(em: EntityManager, tenantId: string): Promise<StorageTotals> {
  const models = await em
    .createQueryBuilder(ModelAtom, 'm')
    .select('COUNT(*)', 'n')
    .addSelect('COALESCE(SUM(m.sizeBytes), 0)', 'bytes')
    .where({ ...scoped(tenantId) })
    .andWhere('m.deletedAt IS NULL')
    .getRawOne<{ n: number; bytes: number }>()
  const payloads = await em
    .createQueryBuilder(TensorPayload, 'p')
    .select('COUNT(*)', 'n')
    .addSelect('COALESCE(SUM(p.sizeBytes), 0)', 'bytes')
    .where(
      query =>
        `p.hash IN ${query.subQuery().select('t.payloadHash').from(TensorAtom, 't').where('t.tenantId = :tenantId').getQuery()}`,
      scoped(tenantId),
    )
    .getRawOne<{ n: number; bytes: number }>()
  return {
    payloadCount: Number(payloads?.n ?? 0),
    storedBytes: Number(payloads?.bytes ?? 0),
    modelCount: Number(models?.n ?? 0),
    logicalBytes: Number(models?.bytes ?? 0),
  }
}
