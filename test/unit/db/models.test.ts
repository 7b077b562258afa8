// Registering and deleting models on a real SQLite file: rows, references, bytes of their own.
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../../db/data-source.js'
import { ModelAtom, ModelEvent, TensorAtom, TensorPayload } from '../../../db/entities/index.js'
import {
  aliveManifests,
  deleteModel,
  dominantDtype,
  type NewModel,
  registerModel,
  storageTotals,
  uniqueBytes,
} from '../../../db/models.js'
import { defaultTenantId } from '../../../db/scope.js'
import type { Manifest } from '../../../lib/manifest.js'

const sha = (text: string) => createHash('sha256').update(text).digest('hex')

/** A manifest of `layers` layers with `perLayer` tensors of 100 bytes each, an embedding and a head that share one payload. */
function makeManifest(layers: number, perLayer: number, seed = ''): Manifest {
  const tensor = (name: string, layerIndex: number | null, component: 'EMBEDDING' | 'LM_HEAD' | 'ATTENTION') => ({
    name,
    layerIndex,
    component,
    shape: [5, 5],
    dtype: component === 'ATTENTION' ? 'Q4_1' : 'F32',
    bytes: 100,
    payload: sha(component === 'ATTENTION' ? seed + name : 'tied'),
  })
  const tensors = [
    tensor('embed', null, 'EMBEDDING'),
    ...Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: perLayer }, (_, i) => tensor(`layers.${layer}.${i}`, layer, 'ATTENTION')),
    ).flat(),
    tensor('head', null, 'LM_HEAD'),
  ]
  const parameterCount = tensors.length * 25
  return {
    manifestVersion: 1,
    format: 'gguf',
    architecture: 'llama',
    dimensions: { layerCount: layers },
    parameterCount,
    tensors,
  }
}

const newModel = (manifest: Manifest, more: Partial<NewModel> = {}): NewModel => ({
  tenantId: defaultTenantId,
  manifest,
  manifestHash: sha(JSON.stringify(manifest)),
  name: 'model',
  source: '/tmp/model.gguf',
  isStudent: false,
  jobId: null,
  ...more,
})

let folder: string
let db: Database
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'db-models-'))
  db = await openDatabase({ folder })
})
afterEach(async () => {
  await db.close()
  await rm(folder, { recursive: true, force: true })
})
const register = (manifest: Manifest, more?: Partial<NewModel>) =>
  db.tx(em => registerModel(em, newModel(manifest, more)))
/** The invariant of TensorPayloads. */
const miscounted = () =>
  db.read.query(
    'SELECT p.hash FROM TensorPayloads p WHERE p.referenceCount <> (SELECT COUNT(*) FROM TensorAtoms t WHERE t.payloadHash = p.hash) ' +
      'UNION SELECT t.payloadHash FROM TensorAtoms t WHERE t.payloadHash NOT IN (SELECT hash FROM TensorPayloads)',
  )

test('a model of 272 tensors becomes one row, its tensors with places, and one row per payload', async () => {
  const model = await register(makeManifest(30, 9))
  const tensors = await db.read.find(TensorAtom, { where: { modelId: model.id }, order: { ordinal: 'ASC' } })
  expect(tensors).toHaveLength(272)
  expect([tensors[0], tensors[11], tensors[271]].map(t => [t?.positionX, t?.positionY, t?.positionZ])).toEqual([
    [-1, 0, 0],
    [1, 1, 1],
    [30, 4, 0],
  ])
  expect(await db.read.count(TensorPayload)).toBe(271)
  expect(await miscounted()).toEqual([])
  expect(model).toMatchObject({ sizeBytes: 27_200, dtype: 'Q4_1', layerCount: 30 })
  expect(await db.read.find(ModelEvent)).toMatchObject([{ modelId: model.id, kind: 'INGESTED' }])
})

test('a second model of the same tensors adds references and no payload; neither has bytes of its own', async () => {
  const a = await register(makeManifest(4, 3))
  expect(await uniqueBytes(db.read, [a.id])).toEqual(new Map([[a.id, 1300]]))
  const b = await register(makeManifest(4, 3), { name: 'again' })
  expect(await db.read.count(TensorPayload)).toBe(13)
  expect(await uniqueBytes(db.read, [a.id, b.id, 'none'])).toEqual(
    new Map([
      [a.id, 0],
      [b.id, 0],
      ['none', 0],
    ]),
  )
  expect(await miscounted()).toEqual([])
  expect(await storageTotals(db.read, defaultTenantId)).toEqual({
    payloadCount: 13,
    storedBytes: 1300,
    modelCount: 2,
    logicalBytes: 2800,
  })
})

test('a student of two layers shares what it kept; the parent keeps the rest to itself', async () => {
  const parent = await register(makeManifest(4, 3))
  const student = await register(makeManifest(2, 3), { isStudent: true, parentModelId: parent.id, source: null })
  expect(await uniqueBytes(db.read, [parent.id, student.id])).toEqual(
    new Map([
      [parent.id, 600],
      [student.id, 0],
    ]),
  )
})

test('deleting a model leaves the payloads that others hold, keeps its row, and a second time changes nothing', async () => {
  const parent = await register(makeManifest(4, 3))
  const student = await register(makeManifest(2, 3), { isStudent: true, parentModelId: parent.id })
  const first = await db.tx(em => deleteModel(em, defaultTenantId, parent.id))
  const second = await db.tx(em => deleteModel(em, defaultTenantId, parent.id))
  expect(second.deletedAt).toEqual(first.deletedAt)
  expect(await db.read.count(TensorPayload)).toBe(7)
  expect(await miscounted()).toEqual([])
  expect(await uniqueBytes(db.read, [student.id])).toEqual(new Map([[student.id, 700]]))
  expect(await aliveManifests(db.read)).toEqual([student.manifestHash])
  expect((await db.read.findOneByOrFail(ModelAtom, { id: parent.id })).deletedAt).toBeInstanceOf(Date)
  expect(await db.read.countBy(ModelEvent, { modelId: parent.id, kind: 'DELETED' })).toBe(1)
})

test('deleting what does not exist, or belongs to another tenant, is NOT_FOUND', async () => {
  const model = await register(makeManifest(1, 1))
  const other = '00000000-0000-7000-8000-000000000002'
  await expect(db.tx(em => deleteModel(em, other, model.id))).rejects.toMatchObject({ code: 'NOT_FOUND' })
  expect(await db.read.count(TensorAtom)).toBe(3)
})

test('registrations and deletions at once leave every count right', async () => {
  const manifests = [makeManifest(4, 3), makeManifest(3, 3), makeManifest(4, 3, 'other')]
  const models = await Promise.all(Array.from({ length: 12 }, (_, i) => register(manifests[i % 3]!)))
  await Promise.all(models.slice(0, 7).map(m => db.tx(em => deleteModel(em, defaultTenantId, m.id))))
  expect(await miscounted()).toEqual([])
  await Promise.all(models.map(m => db.tx(em => deleteModel(em, defaultTenantId, m.id))))
  expect(await db.read.count(TensorPayload)).toBe(0)
})

test('the dominant dtype is that of most parameters, not of most tensors', () => {
  expect(
    dominantDtype([
      { dtype: 'F32', shape: [2] },
      { dtype: 'F32', shape: [3] },
      { dtype: 'Q8_0', shape: [32, 32] },
    ]),
  ).toBe('Q8_0')
  expect(dominantDtype([])).toBe('NONE')
})
