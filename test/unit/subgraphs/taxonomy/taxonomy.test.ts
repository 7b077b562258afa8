// The taxonomy subgraph on a real database: start-up, analysis, imports, and what is refused.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobOutput } from '../../../../compute/pool/job-types.js'
import { Job, ModelEvent, ModelLayerCapability, StudentModelCapabilityMapping } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import { readBuiltInProbes } from '../../../../subgraphs/taxonomy/built-in-probes.js'
import { subgraph } from '../../../../subgraphs/taxonomy/subgraph.js'
import { nameOfSlug, withAncestors } from '../../../../subgraphs/taxonomy/taxonomy.service.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import {
  addModel,
  jobOf,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let p: SubgraphPlatform
beforeEach(async () => {
  p = await openSubgraphPlatform(subgraph)
})
afterEach(() => p.close())

const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)

const score = (capability: string, loss = 2) => ({
  capability,
  loss,
  perplexity: Math.exp(loss),
  accuracy: 0.25,
  sampleCount: 40,
  completionTokens: 400,
  interval: [loss - 0.25, loss + 0.25] as [number, number],
})
const analysisOutput = (layers = 8): JobOutput<'capability.analyze'> => ({
  baseline: [score('code_generation', 1.5), score('translation', 2.5)],
  layers: Array.from({ length: layers }, (_, layerIndex) => ({
    layerIndex,
    blockInfluence: 0.1 * (layerIndex + 1),
    activationNorm: 10 + layerIndex,
    angularDistances: [0.1, 0.2].slice(0, layers - layerIndex),
    capabilities: ['code_generation', 'translation'].map((capability, i) => ({
      capability,
      blockInfluence: 0.2,
      lossIncrease: (layerIndex + 1) * (i + 1) * 0.05,
      score: (layerIndex + 1) / layers,
    })),
  })),
  heads: ['code_generation', 'translation'].map((capability, i) => ({
    capability,
    keyValueHeadCount: 2,
    layers: Array.from({ length: layers }, (_, layer) => [0, 1, 2, 3].map(head => layer + head / 10 + i)),
  })),
})

const analyze = async (input: Record<string, unknown>) =>
  (
    await ask(
      'mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { job { id } userErrors { field message code } } }',
      { input },
    )
  ).analyzeModel

test('the built-in probe set is there after the start, with its tree of capabilities', async () => {
  const { capabilities, probeDatasets } = await ask(`{
    capabilities(level: 0) { slug name level description probeSampleCount parent { slug } children { slug level parent { slug } probeSampleCount } }
    probeDatasets { name version sampleCount hash capabilities { slug } samples { probe validation capability { slug } } }
  }`)
  expect(capabilities.map((c: { slug: string }) => c.slug)).toEqual([
    'conversation',
    'code_generation',
    'mathematical_reasoning',
    'creative_writing',
    'question_answering',
    'summarization',
    'translation',
  ])
  expect(capabilities[1]).toMatchObject({ name: 'Code Generation', level: 0, parent: null, probeSampleCount: 60 })
  expect(capabilities[1].children[2]).toMatchObject({
    slug: 'code_generation/sql',
    level: 1,
    parent: { slug: 'code_generation' },
    probeSampleCount: 12,
  })
  expect(probeDatasets).toHaveLength(1)
  expect(probeDatasets[0]).toMatchObject({ name: 'hartonomous', version: 1, sampleCount: 360 })
  expect(probeDatasets[0].capabilities).toHaveLength(7)
  expect(probeDatasets[0].samples).toHaveLength(30)
  expect(
    probeDatasets[0].samples.every((s: { probe: number; validation: number }) => s.probe >= 8 && s.validation >= 4),
  ).toBe(true)
  const stored = Buffer.from(await p.platform.payloads.get(probeDatasets[0].hash)).toString('utf8')
  expect(stored).toBe((await readBuiltInProbes()).jsonl)
})

test('a second start makes no second version', async () => {
  await subgraph.start?.(p.platform)
  const { probeDatasets, capabilities } = await ask('{ probeDatasets { version } capabilities { slug } }')
  expect(probeDatasets).toEqual([{ version: 1 }])
  expect(capabilities).toHaveLength(37)
})

test('an unknown slug is null', async () => {
  expect(
    await ask('{ a: capability(slug: "code_generation/sql") { level } b: capability(slug: "cooking") { id } }'),
  ).toEqual({
    a: { level: 1 },
    b: null,
  })
})

describe('analyzeModel', () => {
  test('queues a job whose result becomes layers, scores and history', async () => {
    const model = await addModel(p.platform, 'parent')
    const modelId = toGlobalId('Model', model.id)
    const { job, userErrors } = await analyze({ modelId, samplesPerCapability: 12 })
    expect(userErrors).toEqual([])
    const jobId = fromGlobalId('Job', job.id)
    const queued = await jobOf(p.platform, 'capability.analyze', jobId)
    expect(queued).toMatchObject({
      state: 'QUEUED',
      modelId: model.id,
      input: { manifest: model.manifestHash, samplesPerCapability: 12, maxTokens: 256 },
    })
    await succeed(p, 'capability.analyze', jobId, analysisOutput())

    const {
      _entities: [found, done],
    } = await ask(
      `query($r: [_Any!]!) { _entities(representations: $r) {
        ... on Model {
          analysis { id samplesPerCapability probeDataset { name } model { id } job { id } baseline { loss interval capability { slug } }
            layers { layerIndex blockInfluence activationNorm angularDistances capabilities { score lossIncrease blockInfluence capability { slug } }
              heads { headIndex keyValueHeadIndex importance } translation: heads(capability: "translation") { importance } other: heads(capability: "x") { importance } } }
          capabilityScores { loss interval perplexity accuracy sampleCount split measuredAt capability { name } probeDataset { version } }
          capabilityQualities { quality }
        }
        ... on Job { analysis { id } probeDataset { id } }
      } }`,
      {
        r: [
          { __typename: 'Model', id: modelId },
          { __typename: 'Job', id: job.id },
        ],
      },
    )
    expect(found.analysis).toMatchObject({
      samplesPerCapability: 12,
      probeDataset: { name: 'hartonomous' },
      model: { id: modelId },
    })
    expect(found.analysis.layers).toHaveLength(8)
    expect(found.analysis.layers[7]).toMatchObject({ layerIndex: 7, activationNorm: 17, angularDistances: [0.1] })
    expect(found.analysis.baseline[0].interval).toEqual([1.25, 1.75])
    expect(found.analysis.layers[7].capabilities[1]).toMatchObject({ score: 1, capability: { slug: 'translation' } })
    expect(found.analysis.layers[7].capabilities[1].lossIncrease).toBeCloseTo(0.8, 12)
    const importance = (heads: { importance: number }[]) => heads.map(h => Math.round(h.importance * 1e6) / 1e6)
    expect(importance(found.analysis.layers[3].heads)).toEqual([3.5, 3.6, 3.7, 3.8])
    expect(found.analysis.layers[3].heads.map((h: { keyValueHeadIndex: number }) => h.keyValueHeadIndex)).toEqual([
      0, 0, 1, 1,
    ])
    expect(importance(found.analysis.layers[3].translation)).toEqual([4, 4.1, 4.2, 4.3])
    expect(found.analysis.layers[3].other).toEqual([])
    expect(found.capabilityScores).toHaveLength(2)
    expect(found.capabilityScores[0]).toMatchObject({
      loss: 1.5,
      interval: [1.25, 1.75],
      split: 'PROBE',
      capability: { name: 'Code Generation' },
    })
    expect(done).toEqual({ analysis: { id: found.analysis.id }, probeDataset: null })
    expect(
      await ask('query($id: ID!) { analysis(id: $id) { layers { layerIndex } } }', { id: found.analysis.id }),
    ).toMatchObject({
      analysis: { layers: { length: 8 } },
    })
    expect(await p.platform.db.read.countBy(ModelLayerCapability, { modelId: model.id })).toBe(16)
    expect(await p.platform.db.read.findOneByOrFail(ModelEvent, { modelId: model.id, kind: 'ANALYZED' })).toMatchObject(
      {
        jobId,
      },
    )
  })

  test('shows the newest of several analyses, and that of one probe set where asked', async () => {
    const model = await addModel(p.platform, 'parent')
    const modelId = toGlobalId('Model', model.id)
    const jobs: string[] = []
    for (let i = 0; i < 2; i++) {
      const { job } = await analyze({ modelId })
      jobs.push(job.id)
      await succeed(p, 'capability.analyze', fromGlobalId('Job', job.id), analysisOutput())
    }
    const set = (await ask('{ probeDatasets { id } }')).probeDatasets[0].id
    const {
      _entities: [found],
    } = await ask(
      `query($r: [_Any!]!, $set: ID!, $other: ID!) { _entities(representations: $r) { ... on Model {
        analysis { job { id } } own: analysis(probeDatasetId: $set) { job { id } } none: analysis(probeDatasetId: $other) { id }
        capabilityScores(split: PROBE) { loss } validation: capabilityScores(split: VALIDATION) { loss } } } }`,
      { r: [{ __typename: 'Model', id: modelId }], set, other: toGlobalId('ProbeDataset', newId()) },
    )
    expect(found.analysis.job.id).toBe(jobs[1])
    expect(found.own.job.id).toBe(jobs[1])
    expect(found.none).toBeNull()
    expect(found.capabilityScores).toHaveLength(2)
    expect(found.validation).toEqual([])
  })

  test('the same idempotency key gives the same job, with another input a conflict', async () => {
    const modelId = toGlobalId('Model', (await addModel(p.platform, 'parent')).id)
    const first = await analyze({ modelId, idempotencyKey: 'k' })
    expect(await analyze({ modelId, idempotencyKey: 'k' })).toEqual(first)
    const other = await analyze({ modelId, samplesPerCapability: 3, idempotencyKey: 'k' })
    expect(other.userErrors[0].code).toBe('IDEMPOTENCY_CONFLICT')
  })

  test.each([
    ['an unknown model', () => ({ modelId: toGlobalId('Model', newId()) }), 'NOT_FOUND', 'modelId'],
    ['an id of another type', () => ({ modelId: toGlobalId('Job', newId()) }), 'NOT_FOUND', 'modelId'],
    ['no id at all', () => ({ modelId: 'nonsense' }), 'NOT_FOUND', 'modelId'],
    [
      'an unknown probe set',
      (id: string) => ({ modelId: id, probeDatasetId: toGlobalId('ProbeDataset', newId()) }),
      'NOT_FOUND',
      'probeDatasetId',
    ],
    [
      'no samples',
      (id: string) => ({ modelId: id, samplesPerCapability: 0 }),
      'BAD_USER_INPUT',
      'samplesPerCapability',
    ],
  ])('refuses %s', async (_, input, code, field) => {
    const model = await addModel(p.platform, 'parent')
    const { job, userErrors } = await analyze(input(toGlobalId('Model', model.id)))
    expect(job).toBeNull()
    expect(userErrors).toMatchObject([{ code, field: ['input', field] }])
    expect(await p.platform.db.read.count(Job)).toBe(0)
  })

  test('refuses a model without a tokenizer, and one of unknown architecture', async () => {
    const mute = await addModel(p.platform, 'mute', { ...makeManifest(), tokenizer: undefined })
    const odd = await addModel(p.platform, 'odd', makeManifest({ architecture: 'unknown' }))
    const errors = await Promise.all([mute, odd].map(m => analyze({ modelId: toGlobalId('Model', m.id) })))
    expect(errors.map(e => e.userErrors[0].code)).toEqual(['NO_TOKENIZER', 'UNSUPPORTED_ARCHITECTURE'])
    expect(errors[0].userErrors[0].message).toContain('"mute"')
  })

  test('the result for a model that was deleted meanwhile is refused', async () => {
    const model = await addModel(p.platform, 'parent')
    const { job } = await analyze({ modelId: toGlobalId('Model', model.id) })
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, model.id))
    const finish = succeed(p, 'capability.analyze', fromGlobalId('Job', job.id), analysisOutput())
    expect(await finish).toMatchObject({ state: 'FAILED', error: { code: 'NOT_FOUND' } })
    const again = await analyze({ modelId: toGlobalId('Model', model.id) })
    expect(again.userErrors[0]).toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('importProbeDataset', () => {
  const importSet = async (input: Record<string, unknown>) =>
    (
      await ask(
        'mutation($input: ImportProbeDatasetInput!) { importProbeDataset(input: $input) { job { id } probeDataset { name version } userErrors { field code } } }',
        { input },
      )
    ).importProbeDataset
  const output = (hash: string): JobOutput<'probes.import'> => ({
    probeSet: hash.repeat(64),
    sampleCount: 9,
    capabilities: [
      { capability: 'cooking', subtask: 'deep_frying', probe: 5, validation: 2 },
      { capability: 'translation', subtask: 'english_french', probe: 1, validation: 1 },
    ],
  })

  test('adds unknown tasks to the taxonomy and versions by content', async () => {
    for (const [hash, version] of [
      ['a', 1],
      ['a', 1],
      ['b', 2],
    ] as const) {
      const { job } = await importSet({ name: 'mine', source: '/tmp/mine.jsonl' })
      await succeed(p, 'probes.import', fromGlobalId('Job', job.id), output(hash))
      const {
        _entities: [done],
      } = await ask(
        'query($r: [_Any!]!) { _entities(representations: $r) { ... on Job { probeDataset { name version sampleCount } } } }',
        { r: [{ __typename: 'Job', id: job.id }] },
      )
      expect(done.probeDataset).toEqual({ name: 'mine', version, sampleCount: 9 })
    }
    const { cooking, frying, french } = await ask(`{
      cooking: capability(slug: "cooking") { name level children { slug } probeSampleCount }
      frying: capability(slug: "cooking/deep_frying") { name level }
      french: capability(slug: "translation/english_french") { name probeSampleCount }
    }`)
    expect(cooking).toEqual({
      name: 'Cooking',
      level: 0,
      children: [{ slug: 'cooking/deep_frying' }],
      probeSampleCount: 7,
    })
    expect(frying).toEqual({ name: 'Deep Frying', level: 1 })
    expect(french).toEqual({ name: 'English to French', probeSampleCount: 14 })
  })

  test('the same key returns the finished set', async () => {
    const input = { name: 'mine', source: '/tmp/mine.jsonl', idempotencyKey: 'k' }
    const { job } = await importSet(input)
    await succeed(p, 'probes.import', fromGlobalId('Job', job.id), output('a'))
    expect(await importSet(input)).toEqual({ job, probeDataset: { name: 'mine', version: 1 }, userErrors: [] })
  })

  test.each([
    [{ name: '', source: 'x' }, 'name'],
    [{ name: 'hartonomous', source: 'x' }, 'name'],
    [{ name: 'mine', source: ' ' }, 'source'],
  ])('refuses %j', async (input, field) => {
    expect((await importSet(input)).userErrors).toEqual([{ field: ['input', field], code: 'BAD_USER_INPUT' }])
  })
})

test('the students of all capabilities are read in one query, each capability its own', async () => {
  const { capabilities } = await ask('{ capabilities(level: 0) { id } }')
  for (const [i, { id }] of capabilities.entries()) {
    const model = await addModel(p.platform, `student ${i}`)
    const mapping = { studentModelId: model.id, taxonomyId: fromGlobalId('Capability', id), capabilityScore: 0.5 }
    await p.platform.db.tx(em =>
      em.insert(StudentModelCapabilityMapping, { id: newId(), tenantId: defaultTenantId, ...mapping }),
    )
  }
  let answer: Awaited<ReturnType<typeof ask>>
  const queries = await queriesOf(p.platform.db.read, async () => {
    answer = await ask('{ capabilities(level: 0) { id students(first: 5) { nodes { id } } } }')
  })
  expect(queries).toHaveLength(2)
  const ids = answer!.capabilities.map((c: { students: { nodes: { id: string }[] } }) =>
    c.students.nodes.map(n => n.id),
  )
  expect(ids.map((own: string[]) => own.length)).toEqual(ids.map(() => 1))
  expect(new Set(ids.flat()).size).toBe(capabilities.length)
})

test('students of a capability come best first, without deleted ones', async () => {
  const id = (await ask('{ capability(slug: "translation") { id } }')).capability.id
  const models = await Promise.all(['a', 'b', 'c'].map(name => addModel(p.platform, name)))
  await p.platform.db.tx(async em => {
    for (const [i, quality] of [0.7, 0.9, 0.8].entries())
      await em.insert(StudentModelCapabilityMapping, {
        id: newId(),
        tenantId: defaultTenantId,
        studentModelId: models[i]!.id,
        taxonomyId: fromGlobalId('Capability', id),
        capabilityScore: quality,
      })
    await deleteModel(em, defaultTenantId, models[2]!.id)
  })
  const page =
    'totalCount pageInfo { hasNextPage endCursor } nodes { id capabilityQualities { quality capability { slug } } }'
  const first = (await ask(`{ capability(slug: "translation") { students(first: 1) { ${page} } } }`)).capability
    .students
  expect(first).toMatchObject({
    totalCount: 2,
    pageInfo: { hasNextPage: true },
    nodes: [
      {
        id: toGlobalId('Model', models[1]!.id),
        capabilityQualities: [{ quality: 0.9, capability: { slug: 'translation' } }],
      },
    ],
  })
  const rest = await ask(
    `query($after: String) { capability(slug: "translation") { students(after: $after) { ${page} } } }`,
    {
      after: first.pageInfo.endCursor,
    },
  )
  expect(rest.capability.students.nodes.map((n: { id: string }) => n.id)).toEqual([toGlobalId('Model', models[0]!.id)])
})

test('entities are found by id, unknown ones are null', async () => {
  const { capability, probeDatasets } = await ask('{ capability(slug: "translation") { id } probeDatasets { id } }')
  const { _entities } = await ask(
    'query($r: [_Any!]!) { _entities(representations: $r) { ... on Capability { slug } ... on ProbeDataset { name } } }',
    {
      r: [
        { __typename: 'Capability', id: capability.id },
        { __typename: 'ProbeDataset', id: probeDatasets[0].id },
        { __typename: 'Capability', id: toGlobalId('Capability', newId()) },
        { __typename: 'Capability', id: 'nonsense' },
      ],
    },
  )
  expect(_entities).toEqual([{ slug: 'translation' }, { name: 'hartonomous' }, null, null])
})

test('slugs get readable names, ancestors come first and once', () => {
  expect(nameOfSlug('code_generation/customer_support')).toBe('Customer Support')
  expect(withAncestors([{ slug: 'a/b', name: 'B' }, { slug: 'a/c' }, { slug: 'a', name: 'A' }])).toEqual([
    { slug: 'a', name: 'A' },
    { slug: 'a/b', name: 'B' },
    { slug: 'a/c' },
  ])
})
