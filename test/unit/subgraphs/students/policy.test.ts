// The policy on a real database: what follows by itself from a finished job, who decided what and why, and mixtures of capabilities.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobOutput } from '../../../../compute/pool/job-types.js'
import { Job, ModelAtom, ModelEvent, StudentModelRecipe } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { subgraph as evaluation } from '../../../../subgraphs/evaluation/subgraph.js'
import { subgraph as models } from '../../../../subgraphs/models/subgraph.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
import {
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let p: SubgraphPlatform
beforeEach(async () => {
  p = await openSubgraphPlatform(subgraph, taxonomy, models, evaluation)
})
afterEach(() => p.close())

const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)
const mutate = async (field: string, input: Record<string, unknown>, selection: string) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
  return (await ask(source, { input }))[field]
}
const setPolicy = (input: Record<string, unknown>) =>
  mutate('setApprovalPolicy', { enabled: false, ...input }, 'policy { version enabled capabilities }')
const jobsOf = (type: string) => p.platform.db.read.find(Job, { where: { type }, order: { id: 'ASC' } })

/** Ingests a model; its job and its row. */
async function ingest(manifest = makeManifest()) {
  const answer = await run(
    models.schema,
    p.context(),
    'mutation($input: IngestModelInput!) { ingestModel(input: $input) { job { id } } }',
    { input: { source: '/models/parent.gguf', name: 'parent' } },
  )
  const { hash } = await p.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
  const output = { manifest: hash, tensorBytes: 1, bytesRead: 1, bytesWritten: 1, tensors: 1, seconds: 1 }
  const job = await succeed(p, 'model.ingest', fromGlobalId('Job', answer.ingestModel.job.id), output)
  expect(job.state).toBe('SUCCEEDED')
  return p.platform.db.read.findOneByOrFail(ModelAtom, { name: 'parent' })
}

const slugs = ['code_generation', 'translation']
function analysisOutput(): JobOutput<'capability.analyze'> {
  const score = { loss: 2, perplexity: 7.4, accuracy: 0, sampleCount: 24, completionTokens: 300 }
  return {
    baseline: slugs.map(capability => ({ capability, ...score })),
    layers: Array.from({ length: 8 }, (_, layerIndex) => ({
      layerIndex,
      blockInfluence: 0.1,
      activationNorm: 3,
      capabilities: slugs.map(capability => ({ capability, blockInfluence: 0.1, lossIncrease: 0.2, score: 0.5 })),
    })),
  }
}

const proposal = (capability: string | null, quality: number, more = {}) => ({
  capability,
  name: `parent-${capability ?? 'office'}`,
  objective: 'test',
  layers: [
    { from: 0, to: 5, reason: 'needed' },
    { from: 7, to: 8, reason: 'output' },
  ],
  parameterCount: 1040 + 768 * 6,
  quality,
  qualityInterval: [quality - 0.1, quality + 0.1] as [number, number],
  studentLoss: 2 - Math.log(quality),
  parentLoss: 2,
  validationSamples: 40,
  sizeBytes: 4 * (1040 + 768 * 6),
  tokensPerSecond: 321.5,
  costSeconds: 7,
  ...more,
})
const office = { name: 'office', weights: slugs.map((capability, i) => ({ capability, weight: [0.75, 0.25][i]! })) }

async function analysed() {
  const model = await ingest()
  await run(
    taxonomy.schema,
    p.context(),
    'mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { job { id } } }',
    { input: { modelId: toGlobalId('Model', model.id) } },
  )
  await succeed(p, 'capability.analyze', (await jobsOf('capability.analyze'))[0]!.id, analysisOutput())
  return model
}
const propose = async (model: ModelAtom, input: Record<string, unknown> = {}) =>
  mutate('proposeStudents', { modelId: toGlobalId('Model', model.id), ...input }, 'job { id }')
const decisions = 'decisions { outcome decidedBy person policyVersion reason checks { limit met text } }'

describe('what follows by itself', () => {
  test('nothing, where no policy says so', async () => {
    await analysed()
    expect(await jobsOf('students.propose')).toEqual([])
  })

  test('an ingest is analysed, an analysis searched, what is approved built; each a job of its own', async () => {
    await setPolicy({
      enabled: true,
      minimumQuality: 0.8,
      analyzeOnIngest: true,
      samplesPerCapability: 5,
      proposeOnAnalysis: true,
      budgetSeconds: 30,
      buildOnApproval: true,
    })
    const model = await ingest()
    const [analysis] = await jobsOf('capability.analyze')
    expect(analysis).toMatchObject({ state: 'QUEUED', modelId: model.id, input: { samplesPerCapability: 5 } })
    await succeed(p, 'capability.analyze', analysis!.id, analysisOutput())
    const [search] = await jobsOf('students.propose')
    expect(search).toMatchObject({
      state: 'QUEUED',
      modelId: model.id,
      input: {
        budgetSeconds: 30,
        mixtures: [{ name: 'general', weights: slugs.map(capability => ({ capability, weight: 1 })) }],
      },
    })
    const proposals = [proposal('translation', 0.9), proposal('code_generation', 0.7)]
    await succeed(p, 'students.propose', search!.id, { proposals })
    const builds = await jobsOf('student.build')
    expect(builds).toHaveLength(1)
    const { recipes } = await ask(`{ recipes { nodes { status name job { id } ${decisions} } } }`)
    expect(recipes.nodes).toEqual([
      expect.objectContaining({ status: 'PROPOSED', job: null }),
      expect.objectContaining({ status: 'BUILDING', job: { id: toGlobalId('Job', builds[0]!.id) } }),
    ])
    const events = await p.platform.db.read.find(ModelEvent, {
      where: { modelId: model.id, kind: 'POLICY' },
      order: { id: 'ASC' },
    })
    expect(events.map(e => [e.description, e.jobId])).toEqual([
      ['The analysis was queued by policy (version 1)', analysis!.id],
      ['The search for students was queued by policy (version 1)', search!.id],
    ])
  })

  test('an ingest that cannot be analysed stands, and its history says why nothing followed', async () => {
    await setPolicy({ analyzeOnIngest: true })
    const { tokenizer: _, ...bare } = makeManifest()
    const model = await ingest(bare)
    expect(await jobsOf('capability.analyze')).toEqual([])
    const event = await p.platform.db.read.findOneByOrFail(ModelEvent, { modelId: model.id, kind: 'POLICY' })
    expect(event.description).toBe(
      'The analysis was not queued by policy (version 1): Model "parent" came without a tokenizer that is read here',
    )
  })
})

describe('decisions', () => {
  test('of a policy name its version and every comparison', async () => {
    const model = await analysed()
    await setPolicy({ enabled: true, minimumQuality: 0.5 })
    await setPolicy({ enabled: true, minimumQuality: 0.8, capabilities: ['translation'], maximumCostSeconds: 6 })
    const { job } = await propose(model)
    await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals: [proposal('translation', 0.9)] })
    const { recipes } = await ask(`{ recipes { nodes { status ${decisions} } } }`)
    expect(recipes.nodes).toEqual([
      {
        status: 'PROPOSED',
        decisions: [
          {
            outcome: 'LEFT',
            decidedBy: 'POLICY',
            person: null,
            policyVersion: 2,
            reason: 'Left to a person by policy: quality 0.9 ≥ 0.8, made for translation, cost 7 s > 6 s',
            checks: [
              { limit: 'QUALITY', met: true, text: 'quality 0.9 ≥ 0.8' },
              { limit: 'CAPABILITY', met: true, text: 'made for translation' },
              { limit: 'COST', met: false, text: 'cost 7 s > 6 s' },
            ],
          },
        ],
      },
    ])
  })

  test('of people name who and why; the policy’s stay beside them', async () => {
    const model = await analysed()
    await setPolicy({ enabled: true, minimumQuality: 0.95 })
    const { job } = await propose(model)
    await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals: [proposal('translation', 0.9)] })
    const [row] = await p.platform.db.read.find(StudentModelRecipe)
    const recipeId = toGlobalId('Recipe', row!.id)
    const selection = `recipe { status decision ${decisions} }`
    await mutate('approveRecipe', { recipeId, decidedBy: 'Ada', reason: 'good enough' }, selection)
    const { recipe } = await mutate('rejectRecipe', { recipeId }, selection)
    expect(recipe).toMatchObject({
      status: 'REJECTED',
      decision: 'Rejected by a person',
      decisions: [
        { outcome: 'LEFT', decidedBy: 'POLICY', policyVersion: 1 },
        {
          outcome: 'APPROVED',
          decidedBy: 'PERSON',
          person: 'Ada',
          policyVersion: null,
          reason: 'Approved by Ada: good enough',
          checks: [],
        },
        { outcome: 'REJECTED', decidedBy: 'PERSON', person: null, reason: 'Rejected by a person' },
      ],
    })
  })
})

describe('a policy is refused', () => {
  test.each([
    ['capabilities nobody knows', { capabilities: ['cooking'] }, 'NOT_FOUND', 'cooking'],
    ['no capabilities', { capabilities: [] }, 'BAD_USER_INPUT', 'is empty'],
    ['a cost of 0', { maximumCostSeconds: 0 }, 'BAD_USER_INPUT', 'maximumCostSeconds: 0, expected a number above 0'],
    ['a budget of 0', { budgetSeconds: 0 }, 'BAD_USER_INPUT', 'budgetSeconds: 0, expected 1 to 86400'],
    ['no samples', { samplesPerCapability: 0 }, 'BAD_USER_INPUT', 'samplesPerCapability: 0'],
  ])('with %s', async (_, input, code, message) => {
    const { policy, userErrors } = await setPolicy(input)
    expect(policy).toBeNull()
    expect(userErrors).toMatchObject([{ code, field: ['input', Object.keys(input)[0]] }])
    expect(userErrors[0].message).toContain(message)
    expect((await ask('{ approvalPolicy { version enabled } }')).approvalPolicy).toEqual({ version: 0, enabled: false })
  })
})

describe('mixtures', () => {
  test('are searched for as they are named, and their student is measured on all of their capabilities', async () => {
    const model = await analysed()
    const { job } = await propose(model, { mixtures: [office], budgetTokens: 5000 })
    const [search] = await jobsOf('students.propose')
    expect(search!.input).toMatchObject({ mixtures: [office], capabilities: [], budgetTokens: 5000 })
    await succeed(p, 'students.propose', fromGlobalId('Job', job.id), {
      proposals: [proposal(null, 0.9, { mixture: office })],
    })
    const { recipes } = await ask(
      '{ recipes { nodes { id capability { id } mixture { name weights { capability weight } } estimatedSizeBytes estimatedTokensPerSecond estimatedCostSeconds validationSamples } } }',
    )
    expect(recipes.nodes).toEqual([
      {
        id: expect.any(String),
        capability: null,
        mixture: office,
        estimatedSizeBytes: 4 * (1040 + 768 * 6),
        estimatedTokensPerSecond: 321.5,
        estimatedCostSeconds: 7,
        validationSamples: 40,
      },
    ])
    const recipeId = recipes.nodes[0].id
    await mutate('approveRecipe', { recipeId }, 'recipe { status }')
    await mutate('buildStudent', { recipeId }, 'job { id }')
    const full = makeManifest()
    const kept = [0, 1, 2, 3, 4, 7]
    const tensors = full.tensors.flatMap(t => {
      if (t.layerIndex === null) return [t]
      const layerIndex = kept.indexOf(t.layerIndex)
      return layerIndex < 0 ? [] : [{ ...t, layerIndex, name: t.name.replace(/\.\d+\./, `.${layerIndex}.`) }]
    })
    const parameterCount = 1040 + 768 * 6
    const dimensions = { ...full.dimensions, layerCount: 6 }
    const built = {
      ...full,
      dimensions,
      tensors,
      parameterCount,
      parent: { manifest: model.manifestHash, layers: kept },
    }
    const { hash } = await p.platform.payloads.put([Buffer.from(JSON.stringify(built))])
    const [build] = await jobsOf('student.build')
    await succeed(p, 'student.build', build!.id, { manifest: hash, parameterCount, layerCount: 6 })
    const [measure] = await jobsOf('model.evaluate')
    expect((measure!.input as { capabilities: string[] }).capabilities.toSorted()).toEqual(slugs)
    const score = (capability: string, loss: number, completionTokens: number) => ({
      capability,
      loss,
      perplexity: Math.exp(loss),
      accuracy: 0,
      sampleCount: 9,
      completionTokens,
    })
    await succeed(p, 'model.evaluate', measure!.id, {
      scores: [score('code_generation', 1.4, 900), score('translation', 3, 10)],
      reference: [score('code_generation', 1, 900), score('translation', 2, 10)],
    })
    const { recipe } = await ask('query($id: ID!) { recipe(id: $id) { measuredQuality } }', { id: recipeId })
    // By the weights, however many tokens each capability has.
    expect(recipe.measuredQuality).toBeCloseTo(Math.exp(-(0.75 * 0.4 + 0.25 * 1)), 12)
  })

  test.each([
    ['one capability', [{ ...office, weights: office.weights.slice(0, 1) }], 'at least 2 make a mixture'],
    [
      'a weight of 0',
      [{ ...office, weights: [office.weights[0], { capability: 'translation', weight: 0 }] }],
      'the weight of translation is 0',
    ],
    [
      'a capability twice',
      [{ ...office, weights: [office.weights[0], office.weights[0]] }],
      'names a capability twice',
    ],
    ['a name twice', [office, office], 'two are called "office"'],
    ['a name that is none', [{ ...office, name: 'Office work' }], '"Office work" is no name'],
    ['none', [], '0, expected 1 to 20'],
  ])('are refused with %s', async (_, mixtures, message) => {
    const { job, userErrors } = await propose(await analysed(), { mixtures })
    expect(job).toBeNull()
    expect(userErrors).toMatchObject([{ code: 'BAD_USER_INPUT' }])
    expect(userErrors[0].message).toContain(message)
  })

  test('are refused with a capability that was not measured', async () => {
    const weights = [...office.weights, { capability: 'cooking', weight: 1 }]
    const { userErrors } = await propose(await analysed(), { mixtures: [{ name: 'kitchen', weights }] })
    expect(userErrors).toMatchObject([{ code: 'NOT_FOUND', field: ['input', 'mixtures'] }])
    expect(userErrors[0].message).toContain('"cooking"')
  })
})

describe('a search', () => {
  test('with a budget of no tokens is refused', async () => {
    const { userErrors } = await propose(await analysed(), { budgetTokens: 0 })
    expect(userErrors).toMatchObject([{ code: 'BAD_USER_INPUT', field: ['input', 'budgetTokens'] }])
  })

  test('whose model is deleted while it runs fails and leaves no recipes', async () => {
    const model = await analysed()
    const { job } = await propose(model)
    const jobId = fromGlobalId('Job', job.id)
    for (let row = await p.store.get(jobId); row?.state === 'QUEUED'; row = await p.store.get(jobId))
      await p.store.claim(row.lane, 'test')
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, model.id))
    const after = await p.store.succeed(jobId, { proposals: [proposal('translation', 0.9)] }, null, 0)
    expect(after).toMatchObject({
      state: 'FAILED',
      error: { code: 'NOT_FOUND', message: 'The model parent was deleted' },
    })
    expect(await p.platform.db.read.count(StudentModelRecipe)).toBe(0)
  })
})
