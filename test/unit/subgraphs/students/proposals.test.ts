// Proposals on a real database: what is searched with, what is written, what is refused.
import { describe, expect, test } from 'vitest'
import { CapabilityAnalysis, ProbeSampleCount, StudentModelRecipe } from '../../../../db/entities/index.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import { parseRecipeYaml } from '../../../../subgraphs/students/recipe-yaml.js'
import { jobOf, succeed } from '../../../testkit/subgraph-platform.js'
import { analyse, ask, modelId, mutate, p, parent, proposal, recipeOf } from './students-kit.js'

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

  test('figures of other weights are not kept, however many samples they rest on', async () => {
    await analyse()
    for (const [weight, quality, validationSamples] of [
      [0.9, 0.95, 12],
      [0.1, 0.3, 6],
    ] as const) {
      const weights = [
        { capability: 'translation', weight },
        { capability: 'code_generation', weight: 1 - weight },
      ]
      const one = { ...proposal('translation', 5, quality), capability: null, mixture: { name: 'office', weights } }
      const { job } = await propose({ modelId })
      await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals: [{ ...one, validationSamples }] })
    }
    const rows = await p.platform.db.read.find(StudentModelRecipe)
    expect(rows.map(r => [r.mixture!.weights[0]!.weight, r.estimatedQuality, r.validationSamples])).toEqual([
      [0.1, 0.3, 6],
    ])
  })

  test('a cut found again keeps figures that rest on more samples; another cut of the same name gets a number', async () => {
    const found = [
      { ...proposal('translation', 5, 0.9), validationSamples: 6 },
      { ...proposal('translation', 5, 0.5), validationSamples: 3 },
      {
        ...proposal('translation', 5, 0.8),
        validationSamples: 9,
        objective: 'another',
        layers: [{ from: 1, to: 6, reason: 'others' }],
      },
    ]
    await analyse()
    for (const one of found) {
      const { job } = await propose({ modelId })
      await succeed(p, 'students.propose', fromGlobalId('Job', job.id), { proposals: [one] })
    }
    const { recipes } = await ask(
      'query($id: ID!) { recipes(parentModelId: $id) { nodes { name estimatedQuality validationSamples } } }',
      { id: modelId },
    )
    const { name } = found[0]!
    expect(recipes.nodes.sort((a: { name: string }, b: { name: string }) => a.name.localeCompare(b.name))).toEqual([
      { name, estimatedQuality: 0.9, validationSamples: 6 },
      { name: `${name}-2`, estimatedQuality: 0.8, validationSamples: 9 },
    ])
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

  test('cuts that were fitted are a stage of the recipe, measured on the same samples, and another recipe than the layers alone', async () => {
    await analyse()
    const { job } = await propose({ correctCuts: true })
    const jobId = fromGlobalId('Job', job.id)
    const { input } = await jobOf(p.platform, 'students.propose', jobId)
    expect(input.correctCuts).toBe(true)
    const plain = proposal('translation', 5, 0.9)
    const calibration = {
      probeSet: input.probeSet,
      capabilities: ['translation'],
      samplesPerCapability: 112,
      maxTokens: 256,
    }
    await succeed(p, 'students.propose', jobId, {
      proposals: [plain, { ...plain, name: 'parent-translation-6l-fitted', calibration, quality: 0.95 }],
    })
    const { recipes } = await ask(
      'query($id: ID!) { recipes(parentModelId: $id) { nodes { id name correctCuts yaml estimatedQuality } } }',
      { id: modelId },
    )
    expect(recipes.nodes).toHaveLength(2)
    const fitted = recipes.nodes.find((r: { correctCuts: boolean }) => r.correctCuts)
    expect(fitted).toMatchObject({ name: 'parent-translation-6l-fitted', estimatedQuality: 0.95 })
    expect(parseRecipeYaml(fitted.yaml).stages).toEqual({ correctCuts: true })
    await mutate('approveRecipe', { recipeId: fitted.id }, 'recipe { status }')
    const built = await mutate('buildStudent', { recipeId: fitted.id }, 'job { id }')
    const build = await jobOf(p.platform, 'student.build', fromGlobalId('Job', built.job.id))
    expect(build.input.stages).toEqual({ correctCuts: true, calibration })
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
