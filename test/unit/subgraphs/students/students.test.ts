// The students subgraph on a real database: hand-written recipes, approval, lists, and what is refused.
import { describe, expect, test } from 'vitest'
import { StudentModelRecipe } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { newId, toGlobalId } from '../../../../lib/ids.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import { addModel, makeManifest } from '../../../testkit/subgraph-platform.js'
import { approvedRecipe, ask, cut, job, modelId, mutate, newRecipe, p, parent, recipeOf } from './students-kit.js'

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
