// A model's life through the gateway with real workers: ingested twice, cut, exported, deleted, collected; bytes that others share stay.
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { writePicoLlama } from '../testkit/pico-llama.js'
import { startTestPlatform, type TestPlatform } from '../testkit/platform.js'

let platform: TestPlatform
let source: string
beforeAll(async () => {
  source = await mkdtemp(join(tmpdir(), 'pico-'))
  await writePicoLlama(source)
  platform = await startTestPlatform()
}, 60_000)
afterAll(async () => {
  await platform?.stop()
  await rm(source, { recursive: true, force: true })
})

/** Files in the payload store. */
async function storedPayloads(): Promise<string[]> {
  const entries = await readdir(join(platform.dataFolder, 'payloads'), { recursive: true, withFileTypes: true })
  return entries.filter(e => e.isFile() && /^[0-9a-f]{64}$/.test(e.name)).map(e => e.name)
}
const storage = async () =>
  (await platform.gql('{ storage { modelCount payloadCount storedBytes logicalBytes savedBytes } }')).storage
const collect = async () =>
  (await platform.succeeded((await platform.mutate('collectGarbage', {}, 'job { id }')).job.id)).output
const verify = async () =>
  (await platform.succeeded((await platform.mutate('verifyStorage', {}, 'job { id }')).job.id)).output
const fields =
  'query ($id: ID!) { model(id: $id) { name sizeBytes uniqueBytes parent { name } students { nodes { name } } } }'
const show = async (id: string) => (await platform.gql(fields, { id })).model

test('bytes are stored once for all who share them, and go when the last one has gone', async () => {
  await collect()
  const before = await storedPayloads()

  const first = await platform.ingest(source, 'first')
  const afterFirst = await storedPayloads()
  const second = await platform.ingest(source, 'second')
  expect(second.job.output.bytesWritten).toBe(0)
  expect(await storedPayloads()).toEqual(afterFirst)
  expect(await storage()).toMatchObject({ modelCount: 2, savedBytes: (await show(first.id)).sizeBytes })
  expect(await show(second.id)).toMatchObject({ uniqueBytes: 0 })

  const { recipe } = await platform.mutate(
    'createRecipe',
    { parentModelId: first.id, name: 'cut', objective: 'half of it', layers: [{ from: 0, to: 1, reason: 'a test' }] },
    'recipe { id }',
  )
  await platform.mutate('approveRecipe', { recipeId: recipe.id }, 'recipe { status }')
  const built = await platform.mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
  await platform.succeeded(built.job.id)
  const student = (await platform.gql('query ($id: ID!) { recipe(id: $id) { student { id } } }', { id: recipe.id }))
    .recipe.student
  expect(await show(student.id)).toMatchObject({ uniqueBytes: 0, parent: { name: 'first' } })
  expect(await show(first.id)).toMatchObject({ students: { nodes: [{ name: expect.any(String) }] } })

  // The student's tensors outlive both models they came from.
  for (const { id } of [first, second]) await platform.mutate('deleteModel', { modelId: id }, 'model { deletedAt }')
  expect((await collect()).removed).toBeGreaterThan(0)
  expect(await verify()).toMatchObject({ corrupt: [] })
  const { sizeBytes, uniqueBytes } = await show(student.id)
  expect(uniqueBytes).toBe(sizeBytes)
  expect(await storage()).toMatchObject({ modelCount: 1, storedBytes: sizeBytes, savedBytes: 0 })
  const exported = await platform.mutate('exportModel', { modelId: student.id, format: 'SAFETENSORS' }, 'job { id }')
  const { files } = (await platform.succeeded(exported.job.id)).output
  const file = files.find((f: { path: string }) => f.path.endsWith('model.safetensors'))
  const response = await fetch(`${platform.url}${file.url}`)
  expect((await response.arrayBuffer()).byteLength).toBe(file.sizeBytes)

  await platform.mutate('deleteModel', { modelId: student.id }, 'model { deletedAt }')
  await collect()
  expect(new Set(await storedPayloads())).toEqual(new Set(before))
})

test('a job and the model of another subgraph come in one selection, by query and by subscription', async () => {
  const { job } = await platform.mutate('ingestModel', { source, name: 'third' }, 'job { id }')
  let last: unknown
  const query =
    'subscription ($id: ID!) { jobProgress(id: $id) { state model { name parameterCount students { totalCount } } } }'
  for await (const event of platform.subscribe(query, { id: job.id })) last = event.data?.jobProgress
  expect(last).toMatchObject({ state: 'SUCCEEDED', model: { name: 'third', students: { totalCount: 0 } } })
  const { node } = await platform.gql(
    'query ($id: ID!) { node(id: $id) { __typename ... on Job { state model { name } } } }',
    { id: job.id },
  )
  expect(node).toEqual({ __typename: 'Job', state: 'SUCCEEDED', model: { name: 'third' } })
})
