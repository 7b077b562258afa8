// Verification and garbage collection over a store with models, strays and damage.
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  checkDerivedFits,
  ensureFloat32,
  keepFiles,
  readTensorFloat32,
} from '../../../../compute/formats/float-weights.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { collectGarbage } from '../../../../compute/handlers/collect-garbage.js'
import { openCutRecords } from '../../../../compute/handlers/cut-records.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { verifyStorage } from '../../../../compute/handlers/verify-storage.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { ggufBytes } from '../../../testkit/weight-files.js'

let context: TestHandlerContext
let folder: string
let manifest: string
beforeEach(async () => {
  context = await handlerContext()
  folder = await mkdtemp(join(tmpdir(), 'source-'))
  await writeFile(join(folder, 'm.gguf'), ggufBytes())
  manifest = (await ingestModel({ source: folder }, context)).manifest
})
afterEach(async () => {
  await context.dispose()
  await rm(folder, { recursive: true, force: true })
})

const count = async () => {
  let payloads = 0
  for await (const _ of context.payloads.list()) payloads++
  return payloads
}
const quantised = async () => (await readManifest(context.payloads, manifest)).tensors.find(t => t.dtype === 'Q8_0')!

test('verification finds a changed byte and nothing else', async () => {
  const sound = await verifyStorage({}, context)
  expect(sound).toMatchObject({ payloads: await count(), corrupt: [] })
  const { payload } = await quantised()
  await writeFile(context.payloads.path(payload), Buffer.alloc(34, 1))
  expect((await verifyStorage({}, context)).corrupt).toEqual([payload])
})

test('verification names payloads that living models need and that are gone, with the parts of the models they are', async () => {
  const { payload, name } = await quantised()
  const header = (await readManifest(context.payloads, manifest)).sourceFiles![0]!.header
  await context.payloads.remove(payload)
  await context.payloads.remove(header)
  const probeSet = 'ab'.repeat(32)
  const { corrupt, missing, affected } = await verifyStorage({ manifests: [manifest], payloads: [probeSet] }, context)
  expect(corrupt).toEqual([])
  expect(missing.toSorted()).toEqual([payload, header, probeSet].toSorted())
  expect(affected).toEqual([
    { hash: probeSet, part: 'probe set or mean activations' },
    { hash: payload, part: `tensor ${name}`, manifest },
    { hash: header, part: 'header of m.gguf', manifest },
  ])
})

test('a corrupt payload is set aside with what was made of it, is missing until the source is ingested again, and then whole', async () => {
  const tensor = await quantised()
  const derived = await ensureFloat32(context, tensor)
  await writeFile(context.payloads.path(tensor.payload), Buffer.alloc(34, 1))
  const exporting = () => exportModel({ manifest, name: 'm', format: 'GGUF' }, context)
  await expect(exporting()).rejects.toMatchObject({
    code: 'PAYLOAD_CORRUPT',
    message: expect.stringContaining(`tensor ${tensor.name}`),
  })
  expect(await readdir(join(context.dataFolder, 'exports'))).toEqual([])

  const living = { manifests: [manifest], payloads: [] }
  expect(await verifyStorage(living, context)).toMatchObject({
    corrupt: [tensor.payload],
    missing: [],
    affected: [{ hash: tensor.payload, part: `tensor ${tensor.name}`, manifest }],
  })
  expect(existsSync(derived)).toBe(false)
  expect(await verifyStorage(living, context)).toMatchObject({ corrupt: [], missing: [tensor.payload] })
  for (const use of [exporting, () => ensureFloat32(context, tensor)])
    await expect(use()).rejects.toMatchObject({ code: 'PAYLOAD_MISSING', message: expect.stringMatching(/ingest/) })

  expect((await ingestModel({ source: folder }, context)).manifest).toBe(manifest)
  expect(await verifyStorage(living, context)).toMatchObject({ corrupt: [], missing: [], affected: [] })
  const { files } = await exporting()
  expect(await readFile(join(context.dataFolder, 'exports', files[0]!.path))).toEqual(Buffer.from(ggufBytes()))
  await collectGarbage({ manifests: [manifest], payloads: [] }, context)
  expect(await readdir(join(context.payloads.root, 'quarantine'))).toEqual([])
})

test('garbage is what no living manifest or probe set needs, temporary files and derived files of dead payloads included', async () => {
  const before = await count()
  const probeSet = (await context.payloads.put([Buffer.from('probes')])).hash
  const stray = await context.payloads.put([Buffer.from('stray payload')])
  await writeFile(join(context.payloads.root, 'tmp', '999999999-left'), 'half')
  await mkdir(join(context.dataFolder, 'exports', '.tmp-dead'), { recursive: true })
  const derived = await ensureFloat32(context, await quantised())
  const kept = await collectGarbage({ manifests: [manifest], payloads: [probeSet] }, context)
  expect(kept).toEqual({ removed: 1, bytes: stray.bytes, exports: 0 })
  expect(await count()).toBe(before + 1)
  expect(existsSync(derived)).toBe(true)
  expect(await readdir(join(context.payloads.root, 'tmp'))).toEqual([])
  expect(await readdir(join(context.dataFolder, 'exports'))).toEqual([])
  await collectGarbage({ manifests: [], payloads: [] }, context)
  expect(await count()).toBe(0)
  expect(existsSync(derived)).toBe(false)
})

test('a collection removes the exports of all jobs but those it is told to keep', async () => {
  for (const jobId of ['gone', 'kept'])
    await exportModel({ manifest, name: 'm', format: 'GGUF' }, { ...context, jobId })
  const input = { manifests: [manifest], payloads: [] }
  expect(await collectGarbage(input, context)).toMatchObject({ exports: 0 })
  const removed = await collectGarbage({ ...input, exports: ['kept'] }, context)
  expect(removed).toEqual({ removed: 0, bytes: ggufBytes().length, exports: 1 })
  expect(await readdir(join(context.dataFolder, 'exports'))).toEqual(['kept'])
})

test('a collection forgets where searches began that will not go on', async () => {
  for (const job of ['waits', 'ended']) await openCutRecords(context.dataFolder, manifest, job)
  const marks = async () => (await readdir(join(context.dataFolder, 'derived', 'analyses'))).sort()
  const [ended, waits] = await marks()
  const input = { manifests: [manifest], payloads: [] }
  await collectGarbage(input, context)
  expect(await marks()).toEqual([ended, waits])
  await collectGarbage({ ...input, searches: ['waits'] }, context)
  expect(await marks()).toEqual([waits])
})

test('a living manifest that cannot be read stops the collection before anything is removed', async () => {
  const before = await count()
  const missing = 'ab'.repeat(32)
  await expect(collectGarbage({ manifests: [missing], payloads: [] }, context)).rejects.toMatchObject({
    code: 'PAYLOAD_MISSING',
  })
  expect(await count()).toBe(before)
})

test('a float32 file is made once, by several makers at once, and holds the tensor’s values', async () => {
  const tensor = await quantised()
  const paths = await Promise.all([1, 2, 3].map(() => ensureFloat32(context, tensor)))
  expect(new Set(paths).size).toBe(1)
  const values = await readTensorFloat32(context.payloads, tensor)
  expect(values).toHaveLength(32)
  // 32 values q * d, d the half in the first two bytes (32 and 33 as little-endian half: 0x2120).
  expect(values[0]).toBeCloseTo(34 * (2 ** (8 - 15) * (1 + 0x120 / 1024)), 6)
  expect(await readdir(join(paths[0]!, '..'))).toHaveLength(1)
})

test('the payload itself is the float32 file where it is float32', async () => {
  const tensor = (await readManifest(context.payloads, manifest)).tensors.find(t => t.dtype === 'F32')!
  expect(await ensureFloat32(context, tensor)).toBe(context.payloads.path(tensor.payload))
})

test('a tensor whose bytes do not fit its shape is refused with both numbers', async () => {
  const tensor = { ...(await quantised()), shape: [2, 32] }
  await expect(ensureFloat32(context, tensor)).rejects.toThrow(/34 bytes, expected 68/)
})

test('files of the model being opened are not evicted for its later ones, however long those take; others are', async () => {
  const long = new Date(Date.now() - 3600_000)
  const tight = { ...context, env: { ...context.env, HARTONOMOUS_DERIVED_BYTES: 200 } }
  const tensorOf = async (byte: number) => {
    const { hash } = await context.payloads.put([Buffer.alloc(64, byte)])
    return { name: `t${byte}`, dtype: 'F16', shape: [32], bytes: 64, payload: hash }
  }
  const other = await ensureFloat32(tight, await tensorOf(1))
  const kept = keepFiles()
  const own = await ensureFloat32({ ...tight, kept }, await tensorOf(2))
  for (const path of [other, own]) await utimes(path, long, long)
  await ensureFloat32({ ...tight, kept }, await tensorOf(3))
  expect([existsSync(other), existsSync(own)]).toEqual([false, true])
})

test('a model whose float32 form is larger than the cache may be is refused with both numbers', async () => {
  const tensor = await quantised()
  expect(() => checkDerivedFits([tensor], { HARTONOMOUS_DERIVED_BYTES: 127 }, 'm')).toThrow(/^m: .* 128 bytes, .* 127;/)
  checkDerivedFits([tensor, tensor], { HARTONOMOUS_DERIVED_BYTES: 128 }, 'm')
})
