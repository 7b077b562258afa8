// Building on a real database: lineage, measurements to follow, failures, and what is refused.
import { describe, expect, test } from 'vitest'
import {
  Job,
  ModelAtom,
  StudentModelCapabilityMapping,
  StudentModelRecipe,
  TensorPayload,
} from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import { addProbeDataset, cancelJob, failJob, jobOf, succeed } from '../../../testkit/subgraph-platform.js'
import {
  analyse,
  approvedRecipe,
  ask,
  buildOutput,
  cut,
  job,
  modelId,
  mutate,
  newRecipe,
  p,
  parent,
  proposal,
  recipeOf,
  startBuild,
} from './students-kit.js'

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

  test('a recipe that heals is measured on the held-out texts of what it learned, whatever the parent was analysed on', async () => {
    await analyse()
    const own = await addProbeDataset(p.platform, { name: 'mine', slugs: ['translation', 'cooking'] })
    const recipe = await approvedRecipe({ healing: { probeDatasetId: toGlobalId('ProbeDataset', own.id) } })
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    const { input, context } = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
    expect(input).toMatchObject({
      probeSet: own.probeSetHash,
      split: 'validation',
      capabilities: ['translation', 'cooking'],
    })
    expect(context).toMatchObject({ probeDatasetId: own.id })
  })

  test('a recipe that names a probe set is measured on that one, though no stage of it reads any', async () => {
    await analyse()
    const own = await addProbeDataset(p.platform, { name: 'mine', slugs: ['cooking'] })
    const recipe = await approvedRecipe({ probeDatasetId: toGlobalId('ProbeDataset', own.id) })
    await succeed(p, 'student.build', await startBuild(recipe.id), await buildOutput())
    const { input } = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })
    expect(input).toMatchObject({ probeSet: own.probeSetHash, split: 'validation', capabilities: ['cooking'] })
    const missing = await mutate('createRecipe', {
      parentModelId: modelId,
      layers: [{ from: 0, to: 1 }],
      probeDatasetId: toGlobalId('ProbeDataset', newId()),
    })
    expect(missing.userErrors[0]).toMatchObject({ code: 'NOT_FOUND' })
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

  // A new build's sum began at 0: only the newest job was counted.
  test('a recipe has cost what all its builds and measurements have, in one query for all recipes', async () => {
    const [recipe, other] = [await approvedRecipe(), await approvedRecipe({ name: 'other' })]
    const costs = async () => {
      const { recipes } = await ask('{ recipes { nodes { id measuredCost } } }')
      const found = new Map(recipes.nodes.map((node: Record<string, unknown>) => [node.id, node.measuredCost]))
      return [recipe, other].map(({ id }) => found.get(id))
    }
    const spend = (where: { id?: string; type?: string }, units: number) =>
      p.platform.db.tx(em => em.update(Job, where, { units }))
    expect(await costs()).toEqual([null, null])
    const cancelled = await startBuild(recipe.id)
    await cancelJob(p, 'student.build', cancelled)
    await spend({ id: cancelled }, 4)
    expect(await costs()).toEqual([4, null])
    const build = await startBuild(recipe.id)
    await spend({ id: await startBuild(other.id) }, 8)
    expect(await costs()).toEqual([4, 8])
    await succeed(p, 'student.build', build, await buildOutput())
    await spend({ id: build }, 2)
    await spend({ type: 'model.evaluate' }, 1)
    expect(await costs()).toEqual([7, 8])
    // Built once more after its student was deleted.
    const { student } = await recipeOf(recipe.id)
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, fromGlobalId('Model', student.id)))
    await startBuild(recipe.id)
    const queries = await queriesOf(p.platform.db.read, async () => expect(await costs()).toEqual([7, 8]))
    expect(queries.filter(sql => sql.includes('"units"'))).toHaveLength(1)
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
