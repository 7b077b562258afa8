// The models subgraph on a real database and payload store: fields, filters, mutations, effects.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Job, ModelAtom, TensorAtom } from '../../../../db/entities/index.js'
import { deleteModel, registerModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { buildStagesSchema } from '../../../../lib/build-stages.js'
import { parseGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import { subgraph } from '../../../../subgraphs/models/subgraph.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import {
  addModel,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
beforeEach(async () => {
  kit = await openSubgraphPlatform(subgraph)
})
afterEach(() => kit.close())

const ask = (query: string, variables = {}) => run(subgraph.schema, kit.context(), query, variables)
const gid = (row: ModelAtom) => toGlobalId('Model', row.id)

/** A student that keeps the first `layers` layers, as a build would register it. */
async function addStudent(parent: ModelAtom, layers: number, name = 'student') {
  const manifest = makeManifest({ layers })
  const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
  return kit.platform.db.tx(em =>
    registerModel(em, {
      tenantId: defaultTenantId,
      manifest,
      manifestHash: hash,
      name,
      source: null,
      parentModelId: parent.id,
      isStudent: true,
      objective: 'test',
      jobId: null,
    }),
  )
}
/** Runs the oldest queued job as the pool would, with this output. */
async function finish(output: object) {
  const job = await kit.store.claim('io', 'io')
  return { claimed: job!, after: await kit.store.succeed(job!.id, output, null, 0) }
}

test('a model shows its dimensions, layers, tensors, tokenizer and history', async () => {
  const row = await addModel(kit.platform, 'one', makeManifest({ chatTemplate: '{{ messages }}' }))
  const { model } = await ask(
    `query ($id: ID!) { model(id: $id) {
      id name architecture parameterCount layerCount hiddenSize contextLength dtype quantization sizeBytes uniqueBytes isStudent
      source manifestHash chatTemplate tokenizer { kind vocabularySize eosTokenIds addBos }
      layers { index parameterCount sizeBytes tensors { name } }
      tensors(first: 2, layerIndex: 3) { totalCount nodes { name component shape dtype quantization position { x y z } model { name } } }
      norms: tensors(component: NORM) { nodes { name layerIndex position { x } } }
      named: tensors(nameContains: "MLP.UP_") { totalCount }
      escaped: tensors(nameContains: "q%proj") { totalCount }
      history { kind description job { id } createdAt } parent { id } } }`,
    { id: gid(row) },
  )
  expect(model).toMatchObject({
    name: 'one',
    architecture: 'llama',
    parameterCount: 7184,
    layerCount: 8,
    hiddenSize: 16,
    contextLength: null,
    dtype: 'F32',
    quantization: 'NONE',
    sizeBytes: 28_736,
    uniqueBytes: 28_736,
    isStudent: false,
    chatTemplate: '{{ messages }}',
    tokenizer: { kind: 'BPE', vocabularySize: 64, eosTokenIds: [0], addBos: false },
    norms: { nodes: [{ name: 'model.norm.weight', layerIndex: null, position: { x: 8 } }] },
    named: { totalCount: 8 },
    escaped: { totalCount: 0 },
    history: [{ kind: 'INGESTED', job: null }],
    parent: null,
  })
  expect(model.layers).toHaveLength(8)
  expect(model.layers[5]).toEqual({
    index: 5,
    parameterCount: 768,
    sizeBytes: 3072,
    tensors: [{ name: 'model.layers.5.self_attn.q_proj.weight' }, { name: 'model.layers.5.mlp.up_proj.weight' }],
  })
  expect(model.tensors).toMatchObject({
    totalCount: 2,
    nodes: [
      { component: 'ATTENTION', shape: [16, 16], position: { x: 3, y: 1, z: 0 }, model: { name: 'one' } },
      { component: 'FEED_FORWARD' },
    ],
  })
})

test('lineage goes both ways, and shared tensors name who shares them', async () => {
  const parent = await addModel(kit.platform, 'parent')
  const student = await addStudent(parent, 3)
  const { model } = await ask(
    `query ($id: ID!) { model(id: $id) { isStudent uniqueBytes parent { name uniqueBytes students(first: 1) { totalCount nodes { name } } }
       tensors(first: 1) { nodes { payloadHash sharedWith { totalCount nodes { name } } } } } }`,
    { id: gid(student) },
  )
  expect(model).toMatchObject({
    isStudent: true,
    uniqueBytes: 0,
    parent: { name: 'parent', uniqueBytes: 5 * 3072, students: { totalCount: 1, nodes: [{ name: 'student' }] } },
    tensors: { nodes: [{ sharedWith: { totalCount: 1, nodes: [{ name: 'parent' }] } }] },
  })
  const hash = model.tensors.nodes[0].payloadHash
  const { payload, none, storage } = await ask(
    `query ($hash: String!) { payload(hash: $hash) { sizeBytes referenceCount models { nodes { name } } } none: payload(hash: "00") { hash }
       storage { modelCount payloadCount storedBytes logicalBytes savedBytes deduplicationRatio } }`,
    { hash },
  )
  expect(payload).toEqual({
    sizeBytes: 4096,
    referenceCount: 2,
    models: { nodes: [{ name: 'student' }, { name: 'parent' }] },
  })
  expect(none).toBeNull()
  expect(storage).toEqual({
    modelCount: 2,
    payloadCount: 18,
    storedBytes: 28_736,
    logicalBytes: 28_736 + 13_376,
    savedBytes: 13_376,
    deduplicationRatio: 42_112 / 28_736,
  })
})

test('models are listed newest first and filtered', async () => {
  const parent = await addModel(kit.platform, 'Alpha 100%')
  await addModel(kit.platform, 'beta', makeManifest({ architecture: 'gpt2' }))
  const odd = await addModel(kit.platform, 'É[a-z]_x')
  await addStudent(parent, 2, 'alpha-cut')
  const names = async (args: string) =>
    (await ask(`{ models${args} { nodes { name } } }`)).models.nodes.map((n: { name: string }) => n.name)
  expect(await names('(nameContains: "É[A-Z]_")')).toEqual(['É[a-z]_x'])
  expect(await names('(nameContains: "_")')).toEqual(['É[a-z]_x'])
  await kit.platform.db.tx(em => deleteModel(em, defaultTenantId, odd.id))
  expect(await names('')).toEqual(['alpha-cut', 'beta', 'Alpha 100%'])
  expect(await names('(nameContains: "ALPHA")')).toEqual(['alpha-cut', 'Alpha 100%'])
  expect(await names('(nameContains: "100%")')).toEqual(['Alpha 100%'])
  expect(await names('(architecture: "gpt2")')).toEqual(['beta'])
  expect(await names('(isStudent: true)')).toEqual(['alpha-cut'])
  expect(await names('(isStudent: false, last: 1)')).toEqual(['Alpha 100%'])
})

test('twenty models with everything about them cost as many queries as one', async () => {
  const parent = await addModel(kit.platform, 'parent')
  const query =
    '{ models(first: 100) { nodes { name uniqueBytes parent { name } students { nodes { name } } layers { index tensors { sharedWith { nodes { name } } } } history { kind } } } }'
  const tensors =
    '{ models(first: 100) { nodes { tensors(last: 3, nameContains: "_PROJ") { totalCount nodes { name } } } } }'
  const one = await queriesOf(kit.platform.db.read, () => ask(query))
  for (let i = 0; i < 20; i++) await addStudent(parent, 2, `s${i}`)
  const many = await queriesOf(kit.platform.db.read, () => ask(query))
  // The list itself, unique bytes, parents, students, tensors, holders, holding models, events.
  expect(one.length).toBeLessThanOrEqual(8)
  expect(many.length).toBeLessThanOrEqual(8)
  // The list, its tensors, their totals.
  expect(await queriesOf(kit.platform.db.read, () => ask(tensors))).toHaveLength(3)
})

test('pages of tensors are each model’s own, from either end, in one query or one by one', async () => {
  const parent = await addModel(kit.platform, 'parent')
  await addStudent(parent, 2)
  const of = async (args: string, filter = '') =>
    (
      await ask(
        `{ models${filter} { nodes { tensors(${args}) { totalCount nodes { layerIndex name } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } } }`,
      )
    ).models.nodes.map((n: { tensors: object }) => n.tensors)
  for (const args of [
    'first: 2',
    'last: 2',
    'first: 2, component: ATTENTION',
    'last: 100',
    'first: 0',
    'first: 1, layerIndex: 5',
  ]) {
    const together = await of(args)
    expect(together).toEqual([...(await of(args, '(isStudent: true)')), ...(await of(args, '(isStudent: false)'))])
  }
  const [student, whole] = await of('last: 2, component: ATTENTION')
  expect(student).toMatchObject({
    totalCount: 2,
    nodes: [{ layerIndex: 0 }, { layerIndex: 1 }],
    pageInfo: { hasPreviousPage: false },
  })
  expect(whole).toMatchObject({
    totalCount: 8,
    nodes: [{ layerIndex: 6 }, { layerIndex: 7 }],
    pageInfo: { hasPreviousPage: true },
  })
  const before = `last: 2, component: ATTENTION, before: "${whole.pageInfo.startCursor}"`
  expect((await of(before, '(isStudent: false)'))[0].nodes).toMatchObject([{ layerIndex: 4 }, { layerIndex: 5 }])
  await expect(of(before)).rejects.toMatchObject({ code: 'INVALID_CURSOR' })
})

test('an unknown, malformed or deleted id is null; as an entity a deleted model is still there', async () => {
  const row = await addModel(kit.platform, 'gone')
  const student = await addStudent(row, 2)
  const { deleteModel } = await ask(
    'mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { model { name deletedAt tensors { totalCount } tokenizer { kind } } userErrors { code } } }',
    { id: gid(row) },
  )
  expect(deleteModel).toMatchObject({
    model: { name: 'gone', tensors: { totalCount: 0 }, tokenizer: null },
    userErrors: [],
  })
  const ids = [
    gid(row),
    'nonsense',
    toGlobalId('Job', row.id),
    toGlobalId('Model', '00000000-0000-7000-8000-000000000009'),
  ]
  for (const id of ids) expect(await ask('query ($id: ID!) { model(id: $id) { id } }', { id })).toEqual({ model: null })
  const entities = await ask(
    'query ($refs: [_Any!]!) { _entities(representations: $refs) { ... on Model { name deletedAt } } }',
    { refs: ids.map(id => ({ __typename: 'Model', id })) },
  )
  expect(entities._entities).toEqual([{ name: 'gone', deletedAt: expect.anything() }, null, null, null])
  const after = await ask(
    'query ($id: ID!) { model(id: $id) { uniqueBytes sizeBytes parent { name } } models { totalCount } }',
    { id: gid(student) },
  )
  expect(after.model).toEqual({
    uniqueBytes: after.model.sizeBytes,
    sizeBytes: after.model.sizeBytes,
    parent: { name: 'gone' },
  })
  expect(after.models.totalCount).toBe(1)
})

test('deleting twice changes nothing; deleting what is not there is a user error', async () => {
  const row = await addModel(kit.platform, 'x')
  const remove = (id: string) =>
    ask(
      'mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { model { deletedAt } userErrors { code field message } } }',
      { id },
    )
  const [first, second] = [await remove(gid(row)), await remove(gid(row))]
  expect(second).toEqual(first)
  expect((await remove('abc')).deleteModel).toEqual({
    model: null,
    userErrors: [{ code: 'NOT_FOUND', field: ['input', 'modelId'], message: 'No Model has the id "abc"' }],
  })
})

const ingest =
  'mutation ($input: IngestModelInput!) { ingestModel(input: $input) { model { name } job { id } userErrors { code field message } } }'

test('an ingest becomes a job; when it has succeeded the model is there, once', async () => {
  const input = { source: '/data/SmolLM2.gguf', version: '2', idempotencyKey: 'k' }
  const [a, b] = await Promise.all([ask(ingest, { input }), ask(ingest, { input })])
  expect(a).toEqual(b)
  expect(a.ingestModel).toMatchObject({ model: null, userErrors: [], job: { id: expect.any(String) } })
  expect(await kit.platform.db.read.count(Job)).toBe(1)

  const manifest = makeManifest()
  const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
  const output = {
    manifest: hash,
    tensorBytes: 28_736,
    newTensorBytes: 12_000,
    bytesRead: 30_000,
    bytesWritten: 28_736,
    tensors: 18,
    seconds: 1,
  }
  const { claimed, after } = await finish(output)
  expect(claimed.input).toEqual({ source: '/data/SmolLM2.gguf' })
  const row = await kit.platform.db.read.findOneByOrFail(ModelAtom, { id: after.modelId! })
  expect(row).toMatchObject({ name: 'SmolLM2', version: '2', source: '/data/SmolLM2.gguf', manifestHash: hash })
  expect(await kit.platform.db.read.countBy(TensorAtom, { modelId: row.id })).toBe(18)
  expect((await ask(ingest, { input })).ingestModel.model).toEqual({ name: 'SmolLM2' })
  const { models } = await ask('{ models { nodes { history { kind description } } } }')
  expect(models.nodes[0].history).toEqual([
    { kind: 'INGESTED', description: '18 tensors, 28.7 kB, 12.0 kB of it new to the store, from /data/SmolLM2.gguf' },
  ])
  const conflict = await ask(ingest, { input: { ...input, name: 'other' } })
  expect(conflict.ingestModel.userErrors).toMatchObject([
    { code: 'IDEMPOTENCY_CONFLICT', field: ['input', 'idempotencyKey'] },
  ])
})

test('two ingests of one file without a key are two models of one set of payloads', async () => {
  const input = { source: 'hf:HuggingFaceTB/SmolLM2-135M-Instruct' }
  await Promise.all([ask(ingest, { input }), ask(ingest, { input })])
  const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(makeManifest()))])
  const output = { manifest: hash, tensorBytes: 28_736, bytesRead: 0, bytesWritten: 0, tensors: 18, seconds: 1 }
  await finish(output)
  await finish(output)
  const { storage, models } = await ask('{ storage { modelCount payloadCount } models { nodes { name uniqueBytes } } }')
  expect(storage).toEqual({ modelCount: 2, payloadCount: 18 })
  expect(models.nodes).toEqual([
    { name: 'SmolLM2-135M-Instruct', uniqueBytes: 0 },
    { name: 'SmolLM2-135M-Instruct', uniqueBytes: 0 },
  ])
})

test.each([
  ['', 'BAD_USER_INPUT', 'source'],
  ['ftp://x/y.gguf', 'SOURCE_REFUSED', 'source'],
  ['http://example.com/y.gguf', 'SOURCE_REFUSED', 'source'],
  ['https://user:pw@example.com/y.gguf', 'SOURCE_REFUSED', 'source'],
  ['hf:onlyowner', 'BAD_USER_INPUT', 'source'],
])('the source %j is refused with %s and leaves no job', async (source, code, name) => {
  const { ingestModel } = await ask(ingest, { input: { source } })
  expect(ingestModel).toMatchObject({ job: null, userErrors: [{ code, field: ['input', name] }] })
  expect(await kit.platform.db.read.count(Job)).toBe(0)
})

test('a source of 5,000 characters is a mistake', async () => {
  const { ingestModel } = await ask(ingest, { input: { source: 'x'.repeat(5000) } })
  expect(ingestModel).toMatchObject({ job: null, userErrors: [{ code: 'BAD_USER_INPUT', field: ['input', 'source'] }] })
})

test.each([
  [{ name: ' ' }, 'name'],
  [{ name: 'n'.repeat(201) }, 'name'],
  [{ name: 'a\0b' }, 'name'],
  [{ version: '1\0' }, 'version'],
  [{ idempotencyKey: 'a\0b' }, 'idempotencyKey'],
])('what names an ingest is checked: case %#', async (more, field) => {
  const { ingestModel } = await ask(ingest, { input: { source: '/models/x.gguf', ...more } })
  expect(ingestModel).toMatchObject({ job: null, userErrors: [{ code: 'BAD_USER_INPUT', field: ['input', field] }] })
})

test('a revision is for hf: sources only', async () => {
  const { ingestModel } = await ask(ingest, { input: { source: '/models/x.gguf', revision: 'main' } })
  expect(ingestModel).toMatchObject({
    job: null,
    userErrors: [{ code: 'BAD_USER_INPUT', field: ['input', 'revision'] }],
  })
  const hub = await ask(ingest, { input: { source: 'hf:owner/name', revision: 'main' } })
  expect(hub.ingestModel).toMatchObject({ job: { id: expect.any(String) }, userErrors: [] })
})

test('a filter text longer than any name is refused, not a database error', async () => {
  const query = 'query ($text: String) { models(nameContains: $text) { totalCount } }'
  await expect(ask(query, { text: 'x'.repeat(60_000) })).rejects.toMatchObject({ code: 'BAD_USER_INPUT' })
})

test('a finished export has addresses to download from, and is in the history', async () => {
  const row = await addModel(kit.platform, 'x')
  const { exportModel } = await ask(
    'mutation ($id: ID!) { exportModel(input: { modelId: $id, format: SAFETENSORS }) { job { id } userErrors { code } } }',
    { id: gid(row) },
  )
  const jobId = parseGlobalId(exportModel.job.id)!.id
  const sha256 = row.manifestHash
  const { claimed, after } = await finish({ files: [{ path: `${jobId}/my model.safetensors`, sizeBytes: 5, sha256 }] })
  expect(claimed).toMatchObject({
    modelId: row.id,
    input: { manifest: row.manifestHash, name: 'x', format: 'SAFETENSORS' },
  })
  expect(after.output).toEqual({
    files: [
      { path: `${jobId}/my model.safetensors`, url: `/exports/${jobId}/my%20model.safetensors`, sizeBytes: 5, sha256 },
    ],
  })
  const { model } = await ask('query ($id: ID!) { model(id: $id) { history { kind job { id } } } }', { id: gid(row) })
  expect(model.history[1]).toEqual({ kind: 'EXPORTED', job: { id: exportModel.job.id } })
})

test('exporting a deleted model is a user error', async () => {
  const row = await addModel(kit.platform, 'x')
  await ask('mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { userErrors { code } } }', { id: gid(row) })
  const { exportModel } = await ask(
    'mutation ($id: ID!) { exportModel(input: { modelId: $id, format: GGUF }) { job { id } userErrors { code message } } }',
    { id: gid(row) },
  )
  expect(exportModel).toEqual({ job: null, userErrors: [{ code: 'NOT_FOUND', message: 'The model x was deleted' }] })
})

test('a collection is given what is alive when it starts: models, probe sets, and what waiting jobs need', async () => {
  const kept = await addModel(kit.platform, 'kept')
  const waiting = await addModel(kit.platform, 'waiting', makeManifest({ seed: 'b' }))
  const dropped = await addModel(kit.platform, 'dropped', makeManifest({ seed: 'c' }))
  const { collectGarbage, verifyStorage } = await ask(
    'mutation { collectGarbage { job { id } userErrors { code } } verifyStorage(input: {}) { job { id } userErrors { code } } }',
  )
  expect([collectGarbage.userErrors, verifyStorage.userErrors]).toEqual([[], []])
  await ask('mutation ($id: ID!) { exportModel(input: { modelId: $id, format: GGUF }) { job { id } } }', {
    id: gid(waiting),
  })
  for (const row of [waiting, dropped])
    await ask('mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { userErrors { code } } }', { id: gid(row) })
  const job = await kit.platform.db.tx(async em => {
    const input = { manifests: [], payloads: [] }
    return subgraph.effects['storage.collect']!.claim!(em, {} as never, input)
  })
  expect(new Set(job.manifests)).toEqual(new Set([kept.manifestHash, waiting.manifestHash]))
  expect(job.exports).toEqual([])
})

test('a collection keeps the teacher and the layers’ models of builds that wait, not of those that have ended', async () => {
  const rows = await Promise.all(
    ['parent', 'teacher', 'layers'].map(seed => addModel(kit.platform, seed, makeManifest({ seed }))),
  )
  const [parent, teacher, other] = rows.map(row => row.manifestHash) as [string, string, string]
  const { id: modelId, tenantId } = rows[0]!
  const input = {
    parent,
    layers: [
      { from: 0, to: 1 },
      { from: 1, to: 2, manifest: other },
    ],
    stages: buildStagesSchema.parse({ healing: { data: 'ab'.repeat(32), teacher } }),
  }
  const { id } = await kit.platform.db.tx(em =>
    enqueue(em, kit.platform, { tenantId, type: 'student.build', modelId, input }),
  )
  for (const row of rows) await kit.platform.db.tx(em => deleteModel(em, tenantId, row.id))
  const kept = async () => {
    const given = { manifests: [], payloads: [] }
    const collect = subgraph.effects['storage.collect']!
    return (await kit.platform.db.tx(em => collect.claim!(em, {} as never, given))).manifests
  }
  expect(new Set(await kept())).toEqual(new Set([parent, teacher, other]))
  await kit.store.requestCancel(id)
  expect(await kept()).toEqual([])
})

test('a verification is given what living models need, and names the models that damage is in', async () => {
  const kept = await addModel(kit.platform, 'kept')
  const twin = await addModel(kit.platform, 'twin')
  const dropped = await addModel(kit.platform, 'dropped', makeManifest({ seed: 'c' }))
  await ask('mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { userErrors { code } } }', {
    id: gid(dropped),
  })
  const effect = subgraph.effects['storage.verify']!
  const input = await kit.platform.db.tx(em => effect.claim!(em, {} as never, {}))
  expect(input).toEqual({ manifests: [kept.manifestHash], payloads: [] })
  const hash = 'ab'.repeat(32)
  const damage = { hash, part: 'tensor x', manifest: twin.manifestHash }
  const output = { payloads: 1, bytes: 1, corrupt: [hash], missing: [], affected: [damage] }
  await kit.platform.db.tx(em => effect.succeeded!(em, {} as never, output, kit.platform))
  expect(output.affected).toEqual([{ ...damage, models: ['kept', 'twin'] }])
})

test('a collection keeps the exports of models that are not deleted', async () => {
  const exported = async (name: string) => {
    const row = await addModel(kit.platform, name)
    const { exportModel } = await ask(
      'mutation ($id: ID!) { exportModel(input: { modelId: $id, format: SAFETENSORS }) { job { id } } }',
      { id: gid(row) },
    )
    const jobId = parseGlobalId(exportModel.job.id)!.id
    await succeed(kit, 'model.export', jobId, { files: [] })
    return { row, jobId }
  }
  const kept = await exported('kept')
  const dropped = await exported('dropped')
  await ask('mutation ($id: ID!) { deleteModel(input: { modelId: $id }) { userErrors { code } } }', {
    id: gid(dropped.row),
  })
  const { exports } = await kit.platform.db.tx(em =>
    subgraph.effects['storage.collect']!.claim!(em, {} as never, { manifests: [], payloads: [] }),
  )
  expect(exports).toEqual([kept.jobId])
})

test('a collection is told which searches for students may go on', async () => {
  const row = await addModel(kit.platform, 'searched')
  const enqueued = (type: 'students.propose' | 'capability.analyze') =>
    kit.platform.db.tx(async em => {
      const input = { manifest: row.manifestHash, probeSet: row.manifestHash, modelName: 'searched', layers: [] }
      return (await enqueue(em, kit.platform, { tenantId: row.tenantId, type, input } as never)).id
    })
  const search = await enqueued('students.propose')
  await enqueued('capability.analyze')
  const { searches } = await kit.platform.db.tx(em =>
    subgraph.effects['storage.collect']!.claim!(em, {} as never, { manifests: [], payloads: [] }),
  )
  expect(searches).toEqual([search])
})
