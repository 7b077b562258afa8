// Recipes that train their student, and training as a mutation of its own: what is asked for, refused, queued and shown.
import { Like } from 'typeorm'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { writeManifest } from '../../../../compute/formats/manifest.js'
import { Job, ModelAtom, ProbeSampleCount, StudentModelRecipe } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { subgraph as models } from '../../../../subgraphs/models/subgraph.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import {
  addModel,
  jobOf,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'
import { picoManifest } from '../../compute/surgery/pico-manifest.js'

let p: SubgraphPlatform
let parent: ModelAtom
let modelId: string
const { sourceFiles: _, sourceConfig: __, ...manifest } = picoManifest({ layerCount: 4 })
beforeEach(async () => {
  p = await openSubgraphPlatform(subgraph, taxonomy, models)
  parent = await addModel(p.platform, 'pico', manifest)
  modelId = toGlobalId('Model', parent.id)
})
afterEach(() => p.close())

const fields =
  'id name status layerCount job { id } healing { tokens sequence rowsPerStep learningRate schedule train lora { rank alpha targets keepAdapter } recompute crossEntropy temperature hidden attention seed }'
const mutate = async (field: string, input: Record<string, unknown>) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const job = ['createRecipe', 'approveRecipe'].includes(field) ? '' : 'job { id }'
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { recipe { ${fields} } ${job} userErrors { field message code } } }`
  return (await run(subgraph.schema, p.context(), source, { input }))[field]
}
const create = (healing: Record<string, unknown>) =>
  mutate('createRecipe', { parentModelId: modelId, layers: [{ from: 0, to: 3 }], healing })

describe('a recipe that heals', () => {
  test('shows how, and builds with what it says on a device', async () => {
    const { recipe, userErrors } = await create({
      tokens: 8192,
      batchRows: 2,
      accumulation: 2,
      crossEntropy: 0.25,
      capabilities: ['translation'],
    })
    expect(userErrors).toEqual([])
    expect(recipe.healing).toEqual({
      tokens: 8192,
      sequence: 256,
      rowsPerStep: 4,
      learningRate: 0.0002,
      schedule: 'COSINE',
      train: 'ALL',
      lora: null,
      recompute: null,
      crossEntropy: 0.25,
      temperature: 1,
      hidden: 0,
      attention: 0,
      seed: 1,
    })
    await run(
      subgraph.schema,
      p.context(),
      'mutation($i: ApproveRecipeInput!) { approveRecipe(input: $i) { userErrors { message } } }',
      { i: { recipeId: recipe.id } },
    )
    const { buildStudent } = await run(
      subgraph.schema,
      p.context(),
      'mutation($i: BuildStudentInput!) { buildStudent(input: $i) { job { id } userErrors { message } } }',
      { i: { recipeId: recipe.id } },
    )
    const job = await jobOf(p.platform, 'student.build', fromGlobalId('Job', buildStudent.job.id))
    expect(job.lane).toBe('device')
    const { stages } = job.input
    expect(stages!.healing).toMatchObject({ capabilities: ['translation'], batchRows: 2, required: false })
    expect(stages!.healing!.data).toMatch(/^[0-9a-f]{64}$/)
  })

  test('learns as much from the texts themselves as from its teacher where nobody says', async () => {
    expect((await create({})).recipe.healing.crossEntropy).toBe(0.5)
    expect((await create({ crossEntropy: 0 })).recipe.healing.crossEntropy).toBe(0)
  })

  test('is expected to cost what its own teacher does, deleted or not, all such recipes in one query', async () => {
    const teacher = await addModel(p.platform, 'teacher', { ...picoManifest({ layerCount: 8 }), sourceName: 'large' })
    expect(teacher.parameterCount).toBeGreaterThan(parent.parameterCount)
    const teacherId = toGlobalId('Model', teacher.id)
    const wishes = [{}, { teacherId }, { teacherId, crossEntropy: 1 }]
    for (const wish of wishes) await create(wish)
    const counts = await p.platform.db.read.find(ProbeSampleCount)
    const judging = counts.reduce((sum, { validationCount }) => sum + validationCount, 0) * 130 * 2
    const { estimatedParameterCount: student } = await p.platform.db.read.findOneByOrFail(StudentModelRecipe, {})
    // 40,960 tokens, at 3e10 operations a second: nothing has run here yet.
    const cost = (judge: number, asked: number) =>
      (judging * (judge + student) + 40_960 * (6 * student + 2 * asked)) / 3e10
    const { parameterCount: large } = teacher
    const expected = [cost(parent.parameterCount, parent.parameterCount), cost(large, large), cost(large, 0)]
    const estimates = async () => {
      const { recipes } = await run(subgraph.schema, p.context(), '{ recipes { nodes { estimatedCost } } }')
      return recipes.nodes.map((node: { estimatedCost: number }) => node.estimatedCost).reverse()
    }
    const close = expected.map(value => expect.closeTo(value, 12))
    const queries = await queriesOf(p.platform.db.read, async () => expect(await estimates()).toEqual(close))
    expect(queries.filter(sql => sql.includes('"manifestHash" IN'))).toHaveLength(1)
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, teacher.id))
    expect(await estimates()).toEqual(close)
  })

  test('needs texts to train on and to hold out', async () => {
    const { probeDatasetId } = await p.platform.db.read.findOneByOrFail(ProbeSampleCount, {
      slug: Like('translation/%'),
    })
    await p.platform.db.tx(em => em.update(ProbeSampleCount, { probeDatasetId }, { validationCount: 0 }))
    expect((await create({})).userErrors).toMatchObject([{ code: 'INVALID_PROBE_DATASET' }])
  })

  test.each([
    [{ learningRate: 2 }, 'INVALID_RECIPE', 'healing.learningRate'],
    [{ tokens: 10 }, 'INVALID_RECIPE', 'healing.tokens'],
    [{ crossEntropy: 1.5 }, 'INVALID_RECIPE', 'healing.crossEntropy'],
    [{ lora: { rank: 0 } }, 'INVALID_RECIPE', 'healing.lora.rank'],
    [{ teacherId: toGlobalId('Model', '00000000-0000-7000-8000-000000000000') }, 'NOT_FOUND', 'No model has this id'],
    [{ capabilities: ['flying'] }, 'NOT_FOUND', 'flying'],
    [{ lora: { keepAdapter: true } }, 'INVALID_RECIPE', 'healing.lora.keepAdapter: needs train LORA'],
    [{ train: 'LAYERS' }, 'INVALID_RECIPE', 'healing.layers is missing'],
    [{ onPolicy: 0.5, crossEntropy: 1 }, 'INVALID_RECIPE', 'nobody judges what the student writes'],
    [{ train: 'NORMS', lora: { keepAdapter: true } }, 'INVALID_RECIPE', '(--keep-adapter needs --train lora)'],
  ])('%j is refused with %s', async (healing, code, words) => {
    const { recipe, userErrors } = await create(healing)
    expect(recipe).toBeNull()
    expect(userErrors).toHaveLength(1)
    expect(userErrors[0].code).toBe(code)
    expect(userErrors[0].message).toContain(words)
  })
})

test('an adapter is kept where low-rank changes are trained, and lora may say that it is not where they are not', async () => {
  const kept = await create({ train: 'LORA', lora: { keepAdapter: true } })
  expect(kept.recipe.healing.lora.keepAdapter).toBe(true)
  expect((await create({ train: 'ALL', lora: { keepAdapter: false } })).userErrors).toEqual([])
})

describe('distillStudent', () => {
  // It was trained without a word, and there was no adapter to export.
  test('keeps no adapter of what is not trained by low-rank changes, and says so', async () => {
    const { recipe, userErrors } = await mutate('distillStudent', {
      modelId,
      teacherId: modelId,
      lora: { keepAdapter: true },
    })
    expect(recipe).toBeNull()
    expect(userErrors).toMatchObject([{ code: 'INVALID_RECIPE', message: expect.stringContaining('train is ALL') }])
  })

  test('writes a recipe of all layers, approves it and queues its build, which must help', async () => {
    const teacher = await addModel(p.platform, 'teacher', { ...manifest, sourceName: 'another' })
    const { recipe, job, userErrors } = await mutate('distillStudent', {
      modelId,
      teacherId: toGlobalId('Model', teacher.id),
      train: 'LORA',
      lora: { rank: 4 },
    })
    expect(userErrors).toEqual([])
    expect(recipe).toMatchObject({
      name: 'pico-distilled',
      status: 'BUILDING',
      layerCount: 4,
      healing: {
        train: 'LORA',
        lora: { rank: 4, alpha: 32, targets: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'], keepAdapter: false },
      },
    })
    const { input } = await jobOf(p.platform, 'student.build', fromGlobalId('Job', job.id))
    expect(input.stages!.healing).toMatchObject({
      teacher: teacher.manifestHash,
      required: true,
      lora: { rank: 4, alpha: 32 },
    })

    // It is to be what its teacher is: that is what it is measured beside.
    const { hash } = await writeManifest(p.platform.payloads, { ...manifest, sourceName: 'trained' })
    const { parameterCount, layerCount } = parent
    await succeed(p, 'student.build', fromGlobalId('Job', job.id), { manifest: hash, parameterCount, layerCount })
    const { input: evaluation } = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
    expect(evaluation).toMatchObject({ manifest: hash, reference: teacher.manifestHash })
    const against = '{ parentModel { id } measuredAgainst { id } }'
    const shown = await run(subgraph.schema, p.context(), `query($id: ID!) { recipe(id: $id) ${against} }`, {
      id: recipe.id,
    })
    expect(shown.recipe).toEqual({
      parentModel: { id: modelId },
      measuredAgainst: { id: toGlobalId('Model', teacher.id) },
    })
    // What 1 stands for is not the parent, only because the teacher is gone.
    await p.platform.db.tx(em => em.update(ModelAtom, { id: teacher.id }, { deletedAt: new Date() }))
    const gone = await run(subgraph.schema, p.context(), `query($id: ID!) { recipe(id: $id) ${against} }`, {
      id: recipe.id,
    })
    expect(gone.recipe).toEqual({ parentModel: { id: modelId }, measuredAgainst: null })
  })

  describe('whose teacher is deleted', () => {
    const deleted = { code: 'NOT_FOUND', message: 'The teacher teacher was deleted' }
    const addTeacher = () => addModel(p.platform, 'teacher', { ...manifest, sourceName: 'another' })
    const remove = (row: ModelAtom) => p.platform.db.tx(em => deleteModel(em, defaultTenantId, row.id))
    const distil = async (teacher: ModelAtom) => {
      const asked = await mutate('distillStudent', { modelId, teacherId: toGlobalId('Model', teacher.id) })
      return { recipeId: asked.recipe.id, jobId: fromGlobalId('Job', asked.job.id) }
    }
    const built = async () => {
      const { hash } = await writeManifest(p.platform.payloads, { ...manifest, sourceName: 'trained' })
      return { manifest: hash, parameterCount: parent.parameterCount, layerCount: parent.layerCount }
    }

    test('before it is built: it cannot be, and no job is queued', async () => {
      const teacher = await addTeacher()
      const { recipe } = await create({ teacherId: toGlobalId('Model', teacher.id) })
      await mutate('approveRecipe', { recipeId: recipe.id })
      await remove(teacher)
      const { job, userErrors } = await mutate('buildStudent', { recipeId: recipe.id })
      expect([job, userErrors]).toEqual([null, [{ ...deleted, field: ['input', 'recipeId'] }]])
      expect(await p.platform.db.read.countBy(Job, { type: 'student.build' })).toBe(0)
    })

    test('before it is built, and a model with the same tensors is left: it is built after that one', async () => {
      const [teacher] = [await addTeacher(), await addModel(p.platform, 'twin', { ...manifest, sourceName: 'another' })]
      const { recipe } = await create({ teacherId: toGlobalId('Model', teacher.id) })
      await mutate('approveRecipe', { recipeId: recipe.id })
      await remove(teacher)
      expect((await mutate('buildStudent', { recipeId: recipe.id })).userErrors).toEqual([])
    })

    test('while it waits: it is built, with what garbage collections leave it', async () => {
      const teacher = await addTeacher()
      const { jobId } = await distil(teacher)
      await remove(teacher)
      expect(await p.store.claim('device', 'test')).toMatchObject({ id: jobId, state: 'RUNNING' })
    })

    test('while it runs: what was trained is kept, and measured beside what the teacher was', async () => {
      const teacher = await addTeacher()
      const { jobId } = await distil(teacher)
      await p.store.claim('device', 'test')
      await remove(teacher)
      expect(await succeed(p, 'student.build', jobId, await built())).toMatchObject({ state: 'SUCCEEDED' })
      const evaluation = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
      expect(evaluation.input).toMatchObject({ reference: teacher.manifestHash })
    })
  })

  test('without a teacher it takes the parent, and says so where there is none', async () => {
    expect((await mutate('distillStudent', { modelId })).userErrors).toEqual([
      {
        field: ['input', 'teacherId'],
        message: 'teacherId: is missing, and "pico" has no parent that could be its teacher',
        code: 'BAD_USER_INPUT',
      },
    ])
  })
})
