// Recipes that mix layers of several models: what fits, what is refused by name, and what their builds get.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { architectures, checkBuildable } from '../../../../compute/architectures/registry.js'
import { planPruning, withoutGroups } from '../../../../compute/surgery/prune.js'
import { type ModelAtom, StudentModelRecipe } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, toGlobalId } from '../../../../lib/ids.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { subgraph as models } from '../../../../subgraphs/models/subgraph.js'
import { ownHeadSize } from '../../../../subgraphs/students/recipe.service.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
import {
  addModel,
  jobOf,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
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

const fields = 'id name status estimatedParameterCount yaml layers { from to model { id } } job { id }'
const mutate = async (field: string, input: Record<string, unknown>, selection = `recipe { ${fields} }`) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
  return (await run(subgraph.schema, p.context(), source, { input }))[field]
}
const all = [{ from: 0, to: 4 }]
const create = (input: Record<string, unknown>) =>
  mutate('createRecipe', { parentModelId: modelId, layers: all, ...input })

describe('layers of several models', () => {
  const second = (change: Partial<Manifest['dimensions']> = {}): Manifest => ({
    ...(manifest as Manifest),
    dimensions: { ...manifest.dimensions, ...change },
    tensors: manifest.tensors.map(t => ({ ...t, payload: t.payload.split('').reverse().join('') })),
  })
  const mixed = (otherId: string) => [
    { from: 0, to: 2 },
    { from: 1, to: 3, modelId: otherId },
    { from: 1, to: 2 },
  ]

  test('are a recipe whose YAML names both, and a build that gets both manifests', async () => {
    const other = await addModel(p.platform, 'other', second())
    const otherId = toGlobalId('Model', other.id)
    const { recipe } = await create({ layers: mixed(otherId) })
    const row = await p.platform.db.read.findOneByOrFail(StudentModelRecipe, { id: fromGlobalId('Recipe', recipe.id) })
    expect(row.objective).toBe('5 layers of pico, other')
    expect(recipe.layers.map((l: { model: unknown }) => l.model)).toEqual([null, { id: otherId }, null])
    const perLayer = (parent.parameterCount - 64 * 32 - 32) / 4
    expect(recipe.estimatedParameterCount).toBe(parent.parameterCount + perLayer)
    expect(recipe.yaml).toContain('model: other')
    const again = (await mutate('createRecipe', { yaml: recipe.yaml })).recipe
    expect(again.layers).toEqual(recipe.layers)
    await mutate('approveRecipe', { recipeId: recipe.id })
    const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
    const { input } = await jobOf(p.platform, 'student.build', fromGlobalId('Job', job.id))
    expect(input.layers).toEqual([
      { from: 0, to: 2 },
      { from: 1, to: 3, manifest: other.manifestHash },
      { from: 1, to: 2 },
    ])
  })

  test('keep their parent in the YAML where the first are of another model', async () => {
    const other = await addModel(p.platform, 'other', second())
    const layers = [
      { from: 0, to: 1, modelId: toGlobalId('Model', other.id) },
      { from: 1, to: 4 },
    ]
    const shown = `recipe { ${fields} parentModel { id } }`
    const { recipe } = await mutate('createRecipe', { parentModelId: modelId, layers }, shown)
    const again = (await mutate('createRecipe', { yaml: recipe.yaml }, shown)).recipe
    expect(again.parentModel).toEqual({ id: modelId })
    expect(again.layers).toEqual(recipe.layers)
    const yaml = recipe.yaml.replace('parent: pico', 'parent: nobody')
    expect((await mutate('createRecipe', { yaml })).userErrors[0]).toMatchObject({
      code: 'NOT_FOUND',
      message: 'yaml: no model is called "nobody"',
    })
  })

  test('must fit each other, and exist', async () => {
    const other = await addModel(p.platform, 'other', second({ ropeTheta: 5e5 }))
    const [error] = (await create({ layers: mixed(toGlobalId('Model', other.id)) })).userErrors
    expect(error).toMatchObject({
      code: 'INVALID_RECIPE',
      message: expect.stringContaining('ropeTheta is 500000, expected 10000'),
    })
    const [beyond] = (await create({ layers: [{ from: 0, to: 5, modelId: toGlobalId('Model', other.id) }] })).userErrors
    expect(beyond.message).toContain('model "other" has 4 layers')
    const [unknown] = (await create({ layers: mixed(toGlobalId('Model', 'gone')) })).userErrors
    expect(unknown).toMatchObject({ code: 'NOT_FOUND', field: ['input', 'layers', '1', 'modelId'] })
  })

  /** Without these dimensions, as a config.json that leaves them to its family. */
  const unstated = (model: Manifest, ...keys: (keyof Manifest['dimensions'])[]): Manifest => ({
    ...model,
    dimensions: Object.fromEntries(
      Object.entries(model.dimensions).filter(([key]) => !keys.includes(key as keyof Manifest['dimensions'])),
    ) as Manifest['dimensions'],
  })
  const mix = async (first: Manifest, other: Manifest) => {
    const [a, b] = [await addModel(p.platform, 'first', first), await addModel(p.platform, 'second', other)]
    const layers = [
      { from: 0, to: 2 },
      { from: 1, to: 3, modelId: toGlobalId('Model', b.id) },
    ]
    return create({ parentModelId: toGlobalId('Model', a.id), layers })
  }

  test('may be of a model that leaves its head size unsaid and of a pruned student of it', async () => {
    const bare = unstated(manifest as Manifest, 'headSize', 'normEpsilon', 'ropeTheta', 'keyValueHeadCount')
    const full = { ...bare, dimensions: { ...bare.dimensions, keyValueHeadCount: 2 } }
    const { dimensions } = checkBuildable(full)
    const pruned = planPruning(
      full,
      [[0], [1], [0], [1]].map((heads, layer) => withoutGroups(dimensions, layer, heads)),
    )
    expect(pruned.dimensions).toMatchObject({ headSize: 8, attentionHeadCount: 2 })
    const student = { ...full, dimensions: pruned.dimensions }
    expect((await mix(full, student)).userErrors).toEqual([])
    expect((await mix(student, full)).userErrors).toEqual([])
  })

  test('of families with a head size of their own are left to the worker where one leaves it unsaid', async () => {
    const qwen3 = { ...second({ headSize: 128 }), architecture: 'qwen3' }
    expect((await mix(unstated(qwen3, 'headSize'), qwen3)).userErrors).toEqual([])
  })

  test('of families with a head size of their own: the list has all of them', () => {
    const own = architectures
      .filter(({ defaults }) => defaults({ layerCount: 1 }).headSize !== undefined)
      .map(({ name }) => name)
    expect([...ownHeadSize].sort()).toEqual(own.sort())
  })

  test.each([
    [{ headSize: 16 }, 'headSize is 16, expected 8'],
    [{ attentionHeadCount: 2, headSize: undefined }, 'headSize is 16, expected 8'],
    [{ normEpsilon: 1e-6 }, 'normEpsilon is 0.000001, expected 0.00001'],
    [{ slidingWindow: 64 }, 'slidingWindow is 64, expected not stated'],
    [
      { ropeScaling: { type: 'linear', factor: 2 } },
      'ropeScaling is {"type":"linear","factor":2}, expected not stated',
    ],
  ])(
    '%#: are refused where both say a size and it differs, or only one has what is absent otherwise',
    async (change, message) => {
      const { userErrors } = await mix(manifest as Manifest, second(change))
      expect(userErrors[0]).toMatchObject({ code: 'INVALID_RECIPE', message: expect.stringContaining(message) })
    },
  )

  test('are refused where their RoPE frequencies are divided by other factors', async () => {
    const withFactors = (payload: string): Manifest => {
      const place = { role: 'rope_factors', layerIndex: null, component: 'OTHER' } as const
      const tensor = { ...place, name: 'rope_freqs.weight', shape: [4], dtype: 'F32', bytes: 16, payload }
      return { ...(manifest as Manifest), tensors: [...manifest.tensors, tensor] }
    }
    const [a, b] = ['a'.repeat(64), 'b'.repeat(64)]
    expect((await mix(withFactors(a), withFactors(a))).userErrors).toEqual([])
    const messageOf = async (first: Manifest, other: Manifest) => (await mix(first, other)).userErrors[0].message
    expect(await messageOf(withFactors(a), withFactors(b))).toContain(
      `tensor of RoPE factors is "${b}", expected "${a}"`,
    )
    expect(await messageOf(withFactors(a), second())).toContain(`tensor of RoPE factors is absent, expected "${a}"`)
    expect(await messageOf(second(), withFactors(b))).toContain(`tensor of RoPE factors is "${b}", expected absent`)
  })

  test('fail the build where one of them was deleted while it waited', async () => {
    const other = await addModel(p.platform, 'other', second())
    const { recipe } = await create({ layers: mixed(toGlobalId('Model', other.id)) })
    await mutate('approveRecipe', { recipeId: recipe.id })
    const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
    await p.platform.db.tx(em => deleteModel(em, defaultTenantId, other.id))
    expect(await p.store.claim('io', 'test')).toMatchObject({
      id: fromGlobalId('Job', job.id),
      state: 'FAILED',
      error: { code: 'NOT_FOUND', message: expect.stringContaining('other') },
    })
  })
})
