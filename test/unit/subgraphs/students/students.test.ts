// The students subgraph on a real database: proposals, hand-written recipes, approval, building, and what is refused.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobOutput } from '../../../../compute/pool/job-types.js'
import {
  CapabilityAnalysis,
  Job,
  ModelAtom,
  ProbeSampleCount,
  StudentModelCapabilityMapping,
  StudentModelRecipe,
  TensorPayload,
} from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { parseRecipeYaml } from '../../../../subgraphs/students/recipe-yaml.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import {
  addModel,
  cancelJob,
  failJob,
  jobOf,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let p: SubgraphPlatform
let parent: ModelAtom
let modelId: string
beforeEach(async () => {
  // The taxonomy brings probe sets and analyses, as in the platform.
  p = await openSubgraphPlatform(subgraph, taxonomy)
  parent = await addModel(p.platform, 'parent')
  modelId = toGlobalId('Model', parent.id)
})
afterEach(() => p.close())

const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)

const recipeFields =
  'recipe { id name objective status layers { from to reason } layerCount estimatedParameterCount estimatedQuality estimatedQualityInterval measuredQuality decision builtAt yaml capability { id } parentModel { id } student { id } job { id } }'
const mutate = async (field: string, input: Record<string, unknown>, selection = recipeFields) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
  return (await ask(source, { input }))[field]
}
const recipeOf = async (id: string) =>
  (await ask(`query($id: ID!) { recipe(id: $id) { ${recipeFields.slice(9, -2)} } }`, { id })).recipe
const job = 'job { id }'
const cut = [
  { from: 0, to: 5, reason: 'syntax' },
  { from: 7, to: 8 },
]
const newRecipe = async (input: Record<string, unknown> = {}) =>
  (await mutate('createRecipe', { parentModelId: modelId, name: 'cut', objective: 'test', layers: cut, ...input }))
    .recipe

/** What the worker would write for the cut. */
async function buildOutput(kept = [0, 1, 2, 3, 4, 7]): Promise<JobOutput<'student.build'>> {
  const full = makeManifest()
  const tensors = full.tensors.flatMap(t => {
    if (t.layerIndex === null) return [t]
    const layerIndex = kept.indexOf(t.layerIndex)
    return layerIndex < 0 ? [] : [{ ...t, layerIndex, name: t.name.replace(/\.\d+\./, `.${layerIndex}.`) }]
  })
  const manifest: Manifest = {
    ...full,
    dimensions: { ...full.dimensions, layerCount: kept.length },
    tensors,
    parameterCount: tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0),
    parent: { manifest: parent.manifestHash, layers: kept },
  }
  const { hash } = await p.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
  return { manifest: hash, parameterCount: manifest.parameterCount, layerCount: kept.length }
}

async function approvedRecipe(input: Record<string, unknown> = {}) {
  const recipe = await newRecipe(input)
  await mutate('approveRecipe', { recipeId: recipe.id })
  return recipe
}
const startBuild = async (recipeId: string) =>
  fromGlobalId('Job', (await mutate('buildStudent', { recipeId }, job)).job.id)

/** A finished analysis of the parent. */
async function analyse() {
  const answer = await run(
    taxonomy.schema,
    p.context(),
    'mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { job { id } } }',
    { input: { modelId, samplesPerCapability: 24 } },
  )
  const score = { loss: 2, perplexity: 7.4, accuracy: 0, sampleCount: 24, completionTokens: 300 }
  await succeed(p, 'capability.analyze', fromGlobalId('Job', answer.analyzeModel.job.id), {
    baseline: ['code_generation', 'translation'].map(capability => ({ capability, ...score })),
    layers: Array.from({ length: 8 }, (_, layerIndex) => ({
      layerIndex,
      blockInfluence: 0.1,
      activationNorm: 3,
      capabilities: ['code_generation', 'translation'].map(capability => ({
        capability,
        blockInfluence: 0.1,
        lossIncrease: 0.2,
        score: 0.5,
      })),
    })),
  })
}
const proposal = (
  capability: string,
  to: number,
  quality: number,
): JobOutput<'students.propose'>['proposals'][number] => ({
  capability,
  name: `parent-${capability}-${to + 1}l`,
  objective: `Keeps ${capability}`,
  layers: [
    { from: 0, to, reason: 'needed' },
    { from: 7, to: 8, reason: 'output' },
  ],
  parameterCount: 1040 + 768 * (to + 1),
  quality,
  qualityInterval: [quality - 0.1, quality + 0.1],
  studentLoss: 2 - Math.log(quality),
  parentLoss: 2,
})

describe('createRecipe', () => {
  test('writes a recipe with an exact parameter count and no invented quality', async () => {
    const recipe = await newRecipe({ capability: 'translation' })
    // 64 × 16 embedding + 16 norm, and per layer 16 × 16 + 32 × 16.
    expect(recipe).toMatchObject({
      status: 'PROPOSED',
      layers: [
        { from: 0, to: 5, reason: 'syntax' },
        { from: 7, to: 8, reason: null },
      ],
      layerCount: 6,
      estimatedParameterCount: 1040 + 6 * 768,
      estimatedQuality: null,
      estimatedQualityInterval: null,
      measuredQuality: null,
      parentModel: { id: modelId },
      student: null,
      job: null,
    })
    expect(recipe.capability.id).toBeTruthy()
  })

  test('reads its own YAML back, and finds the parent by name', async () => {
    const { yaml } = await newRecipe()
    expect(yaml).toContain('model: parent\n')
    const again = (await mutate('createRecipe', { yaml })).recipe
    expect(again).toMatchObject({ name: 'parent-6-of-8-layers', layerCount: 6, parentModel: { id: modelId } })
  })

  test('names the parent by id where two models share its name', async () => {
    await addModel(p.platform, 'parent', makeManifest({ seed: 'b' }))
    const { yaml } = await newRecipe()
    expect(yaml).toContain(`model: ${modelId}\n`)
    expect((await mutate('createRecipe', { yaml })).recipe.parentModel.id).toBe(modelId)
    const { userErrors } = await mutate('createRecipe', { yaml: yaml.replaceAll(modelId, 'parent') })
    expect(userErrors).toMatchObject([{ code: 'CONFLICT', field: ['input', 'yaml'] }])
    expect(userErrors[0].message).toContain('2 models are called "parent"')
  })

  test.each([
    ['layers beyond the model', { layers: [{ from: 0, to: 9 }] }, 'INVALID_RECIPE', ['layers', '0', 'to']],
    ['no layers', { layers: [] }, 'INVALID_RECIPE', ['layers']],
    ['layers and yaml', { yaml: 'x' }, 'BAD_USER_INPUT', ['yaml']],
    ['neither layers nor yaml', { layers: null }, 'BAD_USER_INPUT', ['layers']],
    ['no parent', { parentModelId: null }, 'BAD_USER_INPUT', ['parentModelId']],
    ['an unknown parent', { parentModelId: toGlobalId('Model', newId()) }, 'NOT_FOUND', ['parentModelId']],
    ['an unknown capability', { capability: 'cooking' }, 'NOT_FOUND', ['capability']],
    ['a sub-capability', { capability: 'code_generation/sql' }, 'BAD_USER_INPUT', ['capability']],
    ['an endless name', { name: 'x'.repeat(201) }, 'BAD_USER_INPUT', ['name']],
    [
      'a YAML of an unknown model',
      {
        layers: null,
        parentModelId: null,
        yaml: 'merge_method: passthrough\nslices: [{sources: [{model: nobody, layer_range: [0, 1]}]}]',
      },
      'NOT_FOUND',
      ['yaml'],
    ],
    [
      'a YAML beyond the model',
      {
        layers: null,
        parentModelId: null,
        yaml: 'merge_method: passthrough\nslices: [{sources: [{model: parent, layer_range: [0, 9]}]}]',
      },
      'INVALID_RECIPE',
      ['yaml', '0', 'to'],
    ],
  ])('refuses %s', async (_, input, code, field) => {
    const { recipe, userErrors } = await mutate('createRecipe', { parentModelId: modelId, layers: cut, ...input })
    expect(recipe).toBeNull()
    expect(userErrors).toMatchObject([{ code, field: ['input', ...field] }])
    expect(await p.platform.db.read.count(StudentModelRecipe)).toBe(0)
  })

  test('a deleted parent is not found, for new recipes, approval and building', async () => {
    const waiting = await newRecipe()
    const approved = await approvedRecipe()
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, parent.id))
    const errors = await Promise.all([
      mutate('createRecipe', { parentModelId: modelId, layers: cut }),
      mutate('approveRecipe', { recipeId: waiting.id }),
      mutate('buildStudent', { recipeId: approved.id }, job),
    ])
    expect(errors.map(e => e.userErrors[0].code)).toEqual(['NOT_FOUND', 'NOT_FOUND', 'NOT_FOUND'])
    expect(errors[1].userErrors[0].message).toContain('parent')
    expect((await recipeOf(waiting.id)).parentModel.id).toBe(modelId)
  })
})

describe('approval', () => {
  test('approving twice is a conflict', async () => {
    const { id } = await newRecipe()
    expect((await mutate('approveRecipe', { recipeId: id })).recipe).toMatchObject({
      status: 'APPROVED',
      decision: 'Approved by a person',
    })
    const { recipe, userErrors } = await mutate('approveRecipe', { recipeId: id })
    expect(recipe).toBeNull()
    expect(userErrors).toEqual([
      {
        field: ['input', 'recipeId'],
        code: 'CONFLICT',
        message:
          'Recipe "cut" is APPROVED and cannot be approved: only PROPOSED or FAILED allows it (it can be built now)',
      },
    ])
  })

  test('a rejection keeps its reason and is final', async () => {
    const { id } = await newRecipe()
    expect((await mutate('rejectRecipe', { recipeId: id, reason: 'too small' })).recipe).toMatchObject({
      status: 'REJECTED',
      decision: 'Rejected by a person: too small',
    })
    expect((await mutate('approveRecipe', { recipeId: id })).userErrors[0].code).toBe('CONFLICT')
  })

  test('unknown recipes are not found', async () => {
    for (const id of [toGlobalId('Recipe', newId()), modelId, 'nonsense']) {
      expect((await mutate('approveRecipe', { recipeId: id })).userErrors[0].code).toBe('NOT_FOUND')
      expect(await recipeOf(id)).toBeNull()
    }
  })

  test('the policy is off until it is set, and checks its limits', async () => {
    const read = '{ approvalPolicy { enabled minimumQuality maximumParameters updatedAt } }'
    expect((await ask(read)).approvalPolicy).toEqual({
      enabled: false,
      minimumQuality: null,
      maximumParameters: null,
      updatedAt: null,
    })
    for (const wrong of [
      { minimumQuality: 0 },
      { maximumParameters: 0 },
      { maximumParameters: '99999999999999999999' },
    ])
      expect(
        (await mutate('setApprovalPolicy', { enabled: true, ...wrong }, 'policy { enabled }')).userErrors[0].code,
      ).toBe('BAD_USER_INPUT')
    for (const minimumQuality of [0.8, 0.9])
      await mutate(
        'setApprovalPolicy',
        { enabled: true, minimumQuality, maximumParameters: 5_000_000_000 },
        'policy { enabled }',
      )
    expect((await ask(read)).approvalPolicy).toMatchObject({
      enabled: true,
      minimumQuality: 0.9,
      maximumParameters: 5_000_000_000,
    })
  })
})

describe('proposeStudents', () => {
  const propose = (input: Record<string, unknown> = {}) =>
    mutate('proposeStudents', { modelId, ...input }, 'job { id } recipes { id name status }')

  test.each([0, -1, 86_401])('refuses a budget of %d seconds', async budgetSeconds => {
    const { userErrors } = await propose({ budgetSeconds })
    expect(userErrors).toMatchObject([{ code: 'BAD_USER_INPUT', field: ['input', 'budgetSeconds'] }])
    expect(userErrors[0].message).toContain('expected 1 to 86400')
  })

  test('needs an analysis', async () => {
    const { userErrors, recipes } = await propose()
    expect(recipes).toEqual([])
    expect(userErrors).toMatchObject([{ code: 'CONFLICT', field: ['input', 'modelId'] }])
    expect(userErrors[0].message).toContain('run analyzeModel first')
  })

  test('hands the analysis to the search and writes what it found', async () => {
    await analyse()
    const { job, recipes } = await propose({
      capabilities: ['translation'],
      maximumParameters: 6000,
      budgetSeconds: 90,
      idempotencyKey: 'k',
    })
    expect(recipes).toEqual([])
    const jobId = fromGlobalId('Job', job.id)
    const { input } = await jobOf(p.platform, 'students.propose', jobId)
    expect(input).toMatchObject({
      modelName: 'parent',
      capabilities: ['translation'],
      maximumParameters: 6000,
      budgetSeconds: 90,
    })
    // The budget says how many samples are used.
    expect(input.samplesPerCapability).toBeUndefined()
    expect(input.mixtures).toBeUndefined()
    expect(input.layers).toHaveLength(8)
    expect(input.layers[3]!.capabilities[1]).toEqual({
      capability: 'translation',
      blockInfluence: 0.1,
      lossIncrease: 0.2,
      score: 0.5,
    })

    await succeed(p, 'students.propose', jobId, {
      proposals: [proposal('translation', 5, 0.9), proposal('translation', 3, 0.7)],
    })
    const again = await propose({
      capabilities: ['translation'],
      maximumParameters: 6000,
      budgetSeconds: 90,
      idempotencyKey: 'k',
    })
    expect(again.recipes.map((r: { name: string; status: string }) => [r.name, r.status])).toEqual([
      ['parent-translation-6l', 'PROPOSED'],
      ['parent-translation-4l', 'PROPOSED'],
    ])
    expect(await recipeOf(again.recipes[0].id)).toMatchObject({
      estimatedParameterCount: 1040 + 6 * 768,
      estimatedQuality: 0.9,
      estimatedQualityInterval: [0.9 - 0.1, 1],
      layers: [
        { from: 0, to: 5, reason: 'needed' },
        { from: 7, to: 8, reason: 'output' },
      ],
    })
  })

  test('the policy decides on new proposals and says why', async () => {
    await analyse()
    await mutate('setApprovalPolicy', { enabled: true, minimumQuality: 0.8 }, 'policy { enabled }')
    const { job } = await propose()
    await succeed(p, 'students.propose', fromGlobalId('Job', job.id), {
      proposals: [proposal('translation', 5, 0.9), proposal('code_generation', 3, 0.7)],
    })
    const { recipes } = await ask(
      'query($id: ID!) { recipes(parentModelId: $id) { totalCount nodes { status decision } } }',
      { id: modelId },
    )
    expect(recipes).toEqual({
      totalCount: 2,
      nodes: [
        { status: 'PROPOSED', decision: 'Left to a person by policy: quality 0.7 < 0.8' },
        { status: 'APPROVED', decision: 'Approved by policy: quality 0.9 ≥ 0.8' },
      ],
    })
    expect((await ask('{ recipes(status: APPROVED) { nodes { status } } }')).recipes.nodes).toHaveLength(1)
  })

  test('a cut found again is the same recipe with newer figures', async () => {
    await analyse()
    for (const quality of [0.9, 0.95]) {
      const { job } = await propose()
      await succeed(p, 'students.propose', fromGlobalId('Job', job.id), {
        proposals: [proposal('translation', 5, quality)],
      })
    }
    const rows = await p.platform.db.read.find(StudentModelRecipe)
    expect(rows.map(r => r.estimatedQuality)).toEqual([0.95])
  })

  test('heads that a proposal cuts are a stage of its recipe, named in its YAML, and another recipe than the layers alone', async () => {
    await analyse()
    const whole = proposal('translation', 5, 0.9)
    const groups = [[], [1], [], [], [], [0]]
    for (let search = 0; search < 2; search++) {
      const { job } = await propose()
      const proposals = [whole, { ...whole, name: 'parent-translation-6l-without-2-groups', groups, quality: 0.88 }]
      await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals })
    }
    const { recipes } = await ask(
      'query($id: ID!) { recipes(parentModelId: $id) { nodes { name yaml estimatedQuality headPruning { unit metric heads removePerLayer } } } }',
      { id: modelId },
    )
    expect(recipes.nodes).toHaveLength(2)
    const cut = recipes.nodes.find((r: { headPruning: unknown }) => r.headPruning)
    expect(cut).toMatchObject({
      name: 'parent-translation-6l-without-2-groups',
      estimatedQuality: 0.88,
      headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GIVEN', heads: groups, removePerLayer: [0, 1, 0, 0, 0, 1] },
    })
    expect(parseRecipeYaml(cut.yaml)).toMatchObject({
      layers: [
        { from: 0, to: 5 },
        { from: 7, to: 8 },
      ],
      stages: { headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GIVEN', heads: groups } },
    })
  })

  test('refuses a probe set without validation samples', async () => {
    await analyse()
    const { probeDatasetId } = await p.platform.db.read.findOneByOrFail(CapabilityAnalysis, { modelId: parent.id })
    await p.platform.db.tx(em => em.update(ProbeSampleCount, { probeDatasetId }, { validationCount: 0 }))
    const { userErrors } = await propose({ capabilities: ['translation'] })
    expect(userErrors).toMatchObject([{ code: 'INVALID_PROBE_DATASET' }])
    expect(userErrors[0].message).toContain('no validation samples of translation')
  })

  test.each([
    ['a capability that was not measured', { capabilities: ['cooking'] }, 'NOT_FOUND'],
    ['an empty list', { capabilities: [] }, 'BAD_USER_INPUT'],
    ['no parameters', { maximumParameters: 0 }, 'BAD_USER_INPUT'],
    ['no samples', { samplesPerCapability: 0 }, 'BAD_USER_INPUT'],
    ['another probe set', { probeDatasetId: toGlobalId('ProbeDataset', newId()) }, 'CONFLICT'],
  ])('refuses %s', async (_, input, code) => {
    await analyse()
    expect((await propose(input)).userErrors).toMatchObject([{ code }])
  })
})

describe('buildStudent', () => {
  test('builds an approved recipe: lineage, shared tensors, a measurement to follow', async () => {
    const recipe = await approvedRecipe({ capability: 'translation' })
    const jobId = await startBuild(recipe.id)
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'BUILDING', job: { id: toGlobalId('Job', jobId) } })
    expect((await jobOf(p.platform, 'student.build', jobId)).input).toEqual({
      parent: parent.manifestHash,
      layers: cut,
    })
    const payloads = await p.platform.db.read.count(TensorPayload)
    expect(await succeed(p, 'student.build', jobId, await buildOutput())).toMatchObject({ state: 'SUCCEEDED' })

    const built = await recipeOf(recipe.id)
    expect(built).toMatchObject({ status: 'BUILT', measuredQuality: null })
    const student = await p.platform.db.read.findOneByOrFail(ModelAtom, { id: fromGlobalId('Model', built.student.id) })
    expect(student).toMatchObject({
      name: 'cut',
      parentModelId: parent.id,
      isStudent: true,
      layerCount: 6,
      objective: 'test',
    })
    expect(student.parameterCount).toBe(built.estimatedParameterCount)
    expect(await p.platform.db.read.count(TensorPayload)).toBe(payloads)
    expect((await p.store.get(jobId))?.modelId).toBe(student.id)

    const evaluate = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
    expect(evaluate).toMatchObject({
      modelId: student.id,
      context: { recipeId: fromGlobalId('Recipe', recipe.id) },
      input: {
        manifest: student.manifestHash,
        reference: parent.manifestHash,
        split: 'validation',
        capabilities: ['translation'],
      },
    })
    const { _entities } = await ask(
      'query($r: [_Any!]!) { _entities(representations: $r) { ... on Model { recipe { id } recipes { totalCount } } ... on Job { recipe { id } proposals: recipes { id } } ... on Recipe { name } } }',
      {
        r: [
          { __typename: 'Model', id: built.student.id },
          { __typename: 'Model', id: modelId },
          { __typename: 'Job', id: toGlobalId('Job', jobId) },
          { __typename: 'Recipe', id: recipe.id },
          { __typename: 'Recipe', id: 'nonsense' },
        ],
      },
    )
    expect(_entities).toEqual([
      { recipe: { id: recipe.id }, recipes: { totalCount: 0 } },
      { recipe: null, recipes: { totalCount: 1 } },
      { recipe: { id: recipe.id }, proposals: [] },
      { name: 'cut' },
      null,
    ])
  })

  test('a proposed recipe hands its estimated quality to its capability until the student is measured', async () => {
    await analyse()
    const { job } = await mutate('proposeStudents', { modelId }, 'job { id }')
    await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals: [proposal('translation', 5, 0.9)] })
    const [row] = await p.platform.db.read.find(StudentModelRecipe)
    const recipeId = toGlobalId('Recipe', row!.id)
    await mutate('approveRecipe', { recipeId })
    await succeed(p, 'student.build', await startBuild(recipeId), await buildOutput())
    const mappings = await p.platform.db.read.find(StudentModelCapabilityMapping)
    expect(mappings.map(m => m.capabilityScore)).toEqual([0.9])
  })

  test('a hand-written recipe is measured on all that the parent was analysed on', async () => {
    await analyse()
    const recipe = await approvedRecipe()
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    const { input } = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
    expect((input as { capabilities: string[] }).capabilities).toHaveLength(7)
  })

  test('only approved recipes are built, and each once', async () => {
    const waiting = await newRecipe()
    const early = await mutate('buildStudent', { recipeId: waiting.id }, job)
    expect(early.userErrors).toMatchObject([{ code: 'CONFLICT', field: ['input', 'recipeId'] }])
    expect(early.userErrors[0].message).toContain('PROPOSED')
    const recipe = await approvedRecipe()
    const first = await mutate('buildStudent', { recipeId: recipe.id, idempotencyKey: 'k' }, job)
    expect((await mutate('buildStudent', { recipeId: recipe.id }, job)).userErrors[0].message).toContain('BUILDING')
    await succeed(p, 'student.build', fromGlobalId('Job', first.job.id), await buildOutput())
    expect(await mutate('buildStudent', { recipeId: recipe.id, idempotencyKey: 'k' }, job)).toEqual(first)
    expect((await mutate('buildStudent', { recipeId: recipe.id }, job)).userErrors[0].message).toContain('BUILT')
    expect((await mutate('rejectRecipe', { recipeId: recipe.id })).userErrors[0]).toMatchObject({ code: 'CONFLICT' })
    expect(await p.platform.db.read.countBy(ModelAtom, { isStudent: true })).toBe(1)
  })

  test('a recipe whose student was deleted is approved again and can be built anew', async () => {
    const recipe = await approvedRecipe()
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    const built = await recipeOf(recipe.id)
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, fromGlobalId('Model', built.student.id)))
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'APPROVED', student: null, builtAt: null })
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    const again = await recipeOf(recipe.id)
    expect(again.status).toBe('BUILT')
    expect(again.student.id).not.toBe(built.student.id)
  })

  test('a failed build says why, and can be approved and built again', async () => {
    const recipe = await approvedRecipe()
    await failJob(p, 'student.build', await startBuild(recipe.id), {
      code: 'PAYLOAD_MISSING',
      message: 'payload abc is gone',
    })
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'FAILED', decision: 'Build failed: payload abc is gone' })
    await mutate('approveRecipe', { recipeId: recipe.id })
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'BUILT' })
  })

  test('a cancelled build leaves no model row and the recipe approved', async () => {
    const recipe = await approvedRecipe()
    await cancelJob(p, 'student.build', await startBuild(recipe.id))
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'APPROVED', student: null })
    expect(await p.platform.db.read.countBy(ModelAtom, { isStudent: true })).toBe(0)
  })

  test('a parent that is deleted while the build waits fails it', async () => {
    const recipe = await approvedRecipe()
    const jobId = await startBuild(recipe.id)
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, parent.id))
    expect(await succeed(p, 'student.build', jobId, await buildOutput())).toMatchObject({
      state: 'FAILED',
      error: { code: 'NOT_FOUND' },
    })
    expect(await recipeOf(recipe.id)).toMatchObject({ status: 'FAILED' })
  })

  test('a student that differs from its recipe is refused', async () => {
    const recipe = await approvedRecipe()
    const done = await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput([0, 1, 2]))
    expect(done).toMatchObject({ state: 'FAILED', error: { code: 'INVALID_RECIPE' } })
    expect(await p.platform.db.read.countBy(ModelAtom, { isStudent: true })).toBe(0)
  })
})

test('recipes are pages, newest first', async () => {
  for (const name of ['a', 'b', 'c']) await newRecipe({ name })
  const page = '{ totalCount pageInfo { hasNextPage endCursor } nodes { name } }'
  const { recipes } = await ask(`{ recipes(first: 2) ${page} }`)
  expect(recipes).toMatchObject({
    totalCount: 3,
    pageInfo: { hasNextPage: true },
    nodes: [{ name: 'c' }, { name: 'b' }],
  })
  const rest = await ask(`query($after: String) { recipes(after: $after) ${page} }`, {
    after: recipes.pageInfo.endCursor,
  })
  expect(rest.recipes.nodes).toEqual([{ name: 'a' }])
})

test('the recipes of many models are read in one query, each model its own', async () => {
  const others = await Promise.all(['b', 'c'].map(name => addModel(p.platform, name)))
  const ids = [modelId, ...others.map(m => toGlobalId('Model', m.id))]
  for (const parentModelId of ids) await newRecipe({ parentModelId })
  let entities: { recipes: { nodes: { parentModel: { id: string } }[] } }[] = []
  const queries = await queriesOf(p.platform.db.read, async () => {
    const source =
      'query($r: [_Any!]!) { _entities(representations: $r) { ... on Model { recipes(first: 5) { nodes { parentModel { id } } } } } }'
    entities = (await ask(source, { r: ids.map(id => ({ __typename: 'Model', id })) }))._entities
  })
  expect(queries).toHaveLength(1)
  expect(entities.map(e => e.recipes.nodes.map(n => n.parentModel.id))).toEqual(ids.map(id => [id]))
})
