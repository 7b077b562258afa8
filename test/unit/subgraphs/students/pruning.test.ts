// Recipes that remove heads and units: what is asked for, counted, refused, queued and registered.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { llama } from '../../../../compute/architectures/llama.js'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { extractLayers } from '../../../../compute/surgery/extract-layers.js'
import { planPruning, withoutGroups } from '../../../../compute/surgery/prune.js'
import { Job, type ModelAtom, ProbeSampleCount, StudentModelRecipe, TensorAtom } from '../../../../db/entities/index.js'
import { fromGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { type Manifest, manifestSchema } from '../../../../lib/manifest.js'
import { subgraph as models } from '../../../../subgraphs/models/subgraph.js'
import { llamaNames } from '../../../../subgraphs/students/recipe-exports.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
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
  'id name status estimatedParameterCount yaml layers { from to model { id } } headPruning { unit metric removePerLayer heads seed correct } feedForwardPruning { metric keepPerLayer correct } student { id } job { id }'
const mutate = async (field: string, input: Record<string, unknown>, selection = `recipe { ${fields} }`) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
  return (await run(subgraph.schema, p.context(), source, { input }))[field]
}
const all = [{ from: 0, to: 4 }]
const create = (input: Record<string, unknown>) =>
  mutate('createRecipe', { parentModelId: modelId, layers: all, ...input })

/** A group: 16 rows of q, 8 of k and of v, 16 columns of o, 32 numbers each. */
const group = 32 * (16 + 8 + 8 + 16)

describe('a recipe that prunes', () => {
  test('shows what goes by layer, counts exactly, and comes back from its YAML', async () => {
    const { recipe, userErrors } = await create({
      headPruning: { metric: 'GRADIENT', removePerLayer: [1, 0, 1, 1] },
      feedForwardPruning: { keep: 40, correct: true },
      samplesPerCapability: 4,
    })
    expect(userErrors).toEqual([])
    expect(recipe).toMatchObject({
      estimatedParameterCount: parent.parameterCount - 3 * group - 4 * 3 * 32 * 8,
      headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GRADIENT', removePerLayer: [1, 0, 1, 1], heads: null, seed: 0 },
      feedForwardPruning: { metric: 'ACTIVATION', keepPerLayer: [40, 40, 40, 40], correct: true },
    })
    const again = await mutate('createRecipe', { yaml: recipe.yaml })
    expect(again.recipe).toMatchObject({
      headPruning: recipe.headPruning,
      feedForwardPruning: recipe.feedForwardPruning,
      estimatedParameterCount: recipe.estimatedParameterCount,
    })
  })

  test.each([
    [{ headPruning: { metric: 'TASK_LOSS', remove: 2 } }, 'layer 0: 2 of 2 key/value heads would be removed'],
    [{ headPruning: { metric: 'GIVEN', heads: [[0, 1], [], [], []] } }, '2 of 2 key/value heads would be removed'],
    [{ headPruning: { metric: 'GIVEN', heads: [[0]] } }, 'headPruning names 1 layers, the student has 4'],
    [{ headPruning: { metric: 'GIVEN', remove: 1 } }, 'with metric GIVEN the heads are named in `heads`'],
    [{ headPruning: { metric: 'RANDOM', heads: [[0]], remove: 1 } }, 'heads are named with metric GIVEN only'],
    [{ headPruning: { metric: 'RANDOM' } }, 'give one of remove and removePerLayer'],
    [{ headPruning: { metric: 'RANDOM', remove: -1 } }, 'headPruning: '],
    [{ headPruning: { metric: 'MAGNITUDE', remove: 1 } }, 'chooses worse than chance'],
    [
      { feedForwardPruning: { keep: 49 } },
      'layer 0: 49 hidden units of its feed-forward block are to stay, expected 1 to 48',
    ],
    [{ feedForwardPruning: { keep: 0 } }, 'layer 0: 0 hidden units'],
    [{ feedForwardPruning: {} }, 'give one of keep and keepPerLayer'],
  ])('%#: is refused where it cannot be built', async (input, message) => {
    const { recipe, userErrors } = await create(input)
    expect(recipe).toBeNull()
    expect(userErrors[0]).toMatchObject({ code: 'INVALID_RECIPE', message: expect.stringContaining(message) })
  })

  test('a capability without samples to measure on is refused', async () => {
    const { userErrors } = await create({
      headPruning: { metric: 'GRADIENT', remove: 1 },
      probeDatasetId: 'UHJvYmU6eA==',
    })
    expect(userErrors[0]).toMatchObject({ code: 'NOT_FOUND', field: ['input', 'probeDatasetId'] })
  })

  test('waits for a device where it measures, and not where heads are named', async () => {
    const laneOf = async (headPruning: Record<string, unknown>) => {
      const { recipe } = await create({ headPruning })
      await mutate('approveRecipe', { recipeId: recipe.id })
      const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
      return (await p.platform.db.read.findOneByOrFail(Job, { id: fromGlobalId('Job', job.id) })).lane
    }
    expect(await laneOf({ metric: 'TASK_LOSS', remove: 1 })).toBe('device')
    expect(await laneOf({ metric: 'GIVEN', heads: [[0], [0], [0], [0]] })).toBe('io')
  })
})

describe('a recipe that quantises', () => {
  const own = 'quantization { type symmetric blockSize method embeddings head raised calibrationTokens requantize }'
  const shown = `recipe { id yaml estimatedSizeBytes estimatedParameterCount ${own} }`

  test('shows how, counts its bytes, waits for a device, and comes back from its YAML', async () => {
    const { recipe, userErrors } = await mutate(
      'createRecipe',
      { parentModelId: modelId, layers: all, quantization: { type: 'INT4', head: 'KEEP', raised: ['layers.1.gate'] } },
      shown,
    )
    expect(userErrors).toEqual([])
    expect(recipe.quantization).toEqual({
      type: 'INT4',
      symmetric: true,
      blockSize: 32,
      method: 'CALIBRATED',
      embeddings: 'INT8',
      head: 'KEEP',
      raised: ['layers.1.gate'],
      calibrationTokens: 8192,
      requantize: false,
    })
    expect(Number(recipe.estimatedParameterCount)).toBe(parent.parameterCount)
    expect(Number(recipe.estimatedSizeBytes)).toBeLessThan(parent.sizeBytes)
    const again = await mutate('createRecipe', { yaml: recipe.yaml }, shown)
    expect(again.recipe.quantization).toEqual(recipe.quantization)
    await mutate('approveRecipe', { recipeId: recipe.id })
    const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
    const { lane, input } = await jobOf(p.platform, 'student.build', fromGlobalId('Job', job.id))
    expect(lane).toBe('device')
    expect(input.stages?.quantization?.probeSet).toMatch(/^[0-9a-f]{64}$/)
  })

  test.each([
    [{ type: 'INT4', blockSize: 48 }, 'quantization.blockSize: 48, expected 32, 64 or 128', 'blockSize'],
    [{ type: 'INT4', calibrationTokens: 1 }, 'quantization.calibrationTokens', 'calibrationTokens'],
    [{ type: 'INT4', raised: ['layers.4.down'] }, 'the student has no quantised matrix layers.4.down', 'raised'],
    [{ type: 'INT4', maximumBytes: 1000 }, '1000, but with all layers at the fewest bits', 'maximumBytes'],
  ])('%#: is refused where an option is out of range', async (quantization, message, option) => {
    const { recipe, userErrors } = await create({ quantization })
    expect(recipe).toBeNull()
    expect(userErrors[0]).toMatchObject({
      code: 'INVALID_RECIPE',
      field: ['input', 'quantization', option],
      message: expect.stringContaining(message),
    })
  })

  test('a limit beyond the model itself is no estimate of its bytes', async () => {
    const quantization = { type: 'INT4', head: 'KEEP', maximumBytes: 1_000_000_000 }
    const { recipe } = await mutate('createRecipe', { parentModelId: modelId, layers: all, quantization }, shown)
    expect(Number(recipe.estimatedSizeBytes)).toBe(parent.sizeBytes)
  })

  test('is refused for matrices that are stored the other way', async () => {
    const turned = manifest.tensors.map(t => (t.role?.endsWith('.up') ? { ...t, shape: t.shape.toReversed() } : t))
    const row = await addModel(p.platform, 'turned', { ...manifest, tensors: turned })
    const { userErrors } = await create({ parentModelId: toGlobalId('Model', row.id), quantization: { type: 'INT8' } })
    expect(userErrors[0]).toMatchObject({ code: 'UNSUPPORTED_FORMAT', message: expect.stringContaining('[in, out]') })
  })

  test('a YAML with a key that its stage does not have is refused, not read without it', async () => {
    const slices = `merge_method: passthrough\nslices: [{sources: [{model: pico, layer_range: [0, 4]}]}]\n`
    const yaml = `${slices}hartonomous: {headPruning: {metric: RANDOM, remove: 1, removePerLayer: [1, 1, 0, 0]}}\n`
    const { recipe, userErrors } = await mutate('createRecipe', { yaml })
    expect(recipe).toBeNull()
    expect(userErrors[0]).toMatchObject({
      code: 'INVALID_RECIPE',
      message: 'yaml.hartonomous.headPruning: has no removePerLayer',
    })
  })

  test.each([
    ['quantization: {type: INT4, probeSet: HASH}', 'quantization.probeSet'],
    ['fusion: {probeSet: HASH}', 'fusion.probeSet'],
    ['healing: {data: HASH}', 'healing.data'],
  ])('a YAML whose %s is no probe set is refused, and none is printed', async (stage, path) => {
    const slices = `merge_method: passthrough\nslices: [{sources: [{model: pico, layer_range: [0, 4]}]}]\n`
    // A payload that is there: the parent's manifest.
    const yaml = `${slices}hartonomous: {${stage.replace('HASH', parent.manifestHash)}}\n`
    const { recipe, userErrors } = await mutate('createRecipe', { yaml })
    expect(recipe).toBeNull()
    expect(userErrors[0]).toMatchObject({ code: 'NOT_FOUND', message: expect.stringContaining(path) })
    const asked = await create({ quantization: { type: 'INT4' }, fusion: {} })
    expect(asked.recipe.yaml).not.toContain('probeSet')
  })

  test('is refused for a parent that is rounded already, unless its source is kept or its values are to be taken', async () => {
    const rounded = {
      ...manifest,
      tensors: manifest.tensors.map(t => (t.shape.length === 2 ? { ...t, dtype: 'Q4_0' } : t)),
    }
    const came = await addModel(p.platform, 'came', rounded)
    const lost = await addModel(p.platform, 'lost', { ...rounded, quantisedFrom: 'ab'.repeat(32) })
    // The parent's manifest is here, its tensors are not.
    const lineage = await addModel(p.platform, 'lineage', { ...rounded, quantisedFrom: parent.manifestHash })
    const { hash: payload } = await p.platform.payloads.put([Buffer.alloc(4)])
    const tensors = manifest.tensors.map(t => ({ ...t, payload }))
    const tokenizer = manifest.tokenizer && { ...manifest.tokenizer, tokenizerJson: payload, tokenizerConfig: payload }
    const whole = await addModel(p.platform, 'whole', { ...manifest, tensors, tokenizer })
    const kept = await addModel(p.platform, 'kept', { ...rounded, quantisedFrom: whole.manifestHash })
    const ask = (row: ModelAtom, requantize = false) =>
      create({ parentModelId: toGlobalId('Model', row.id), quantization: { type: 'INT8', requantize } })
    const refused = { code: 'CONFLICT', field: ['input', 'quantization', 'requantize'] }
    expect((await ask(came)).userErrors[0]).toMatchObject({
      ...refused,
      message: expect.stringContaining('came quantised'),
    })
    for (const row of [lost, lineage])
      expect((await ask(row)).userErrors[0]).toMatchObject({
        ...refused,
        message: expect.stringContaining('was deleted'),
      })
    expect((await ask(lineage, true)).userErrors).toEqual([])
    expect((await ask(kept)).userErrors).toEqual([])
    expect((await ask(came, true)).userErrors).toEqual([])
    // Healing that does not help leaves the student as it was.
    const healed = await create({
      ...{ parentModelId: toGlobalId('Model', came.id), quantization: { type: 'INT8' }, healing: { train: 'ALL' } },
    })
    expect(healed.userErrors[0]).toMatchObject(refused)
  })
})

test('a recipe says what it is expected to cost before, and what it cost after', async () => {
  const ask = async (id: string) =>
    (
      await run(subgraph.schema, p.context(), 'query($id: ID!) { recipe(id: $id) { estimatedCost measuredCost } }', {
        id,
      })
    ).recipe
  const counts = await p.platform.db.read.find(ProbeSampleCount)
  const validation = counts.reduce((sum, { validationCount }) => sum + validationCount, 0)
  expect(validation).toBeGreaterThan(0)
  const plain = (await create({})).recipe
  // Nothing has run here yet: 3e10 operations a second.
  const judged = (validation * 130 * 2 * 2 * parent.parameterCount) / 3e10
  const before = await ask(plain.id)
  expect(before.estimatedCost).toBeCloseTo(judged, 12)
  expect(before.measuredCost).toBeNull()
  const measured = (await create({ headPruning: { metric: 'TASK_LOSS', remove: 1 } })).recipe
  const capabilities = new Set(counts.map(({ slug }) => slug.split('/')[0])).size
  // Four layers of two candidates each, half of the model on average.
  const passes = (4 * 2) / 2
  const student = parent.parameterCount - 4 * group
  const expected =
    validation * 130 * 2 * (parent.parameterCount + student) +
    passes * capabilities * 8 * 130 * 2 * parent.parameterCount
  expect((await ask(measured.id)).estimatedCost).toBeCloseTo(expected / 3e10, 12)

  await mutate('approveRecipe', { recipeId: plain.id })
  const { job } = await mutate('buildStudent', { recipeId: plain.id }, 'job { id }')
  const update = (changes: Partial<Pick<Job, 'lane' | 'state' | 'cost' | 'flops'>>) =>
    p.platform.db.tx(em => em.update(Job, { id: fromGlobalId('Job', job.id) }, { units: 4, ...changes }))
  await update({ lane: 'device', state: 'RUNNING', cost: 10, flops: 6e10 })
  expect(await ask(plain.id)).toEqual({ estimatedCost: expect.closeTo(judged, 12), measuredCost: 4 })
  // Jobs that have ended say how fast this platform is.
  await update({ state: 'FAILED' })
  expect((await ask(plain.id)).estimatedCost).toBeCloseTo(5 * judged, 12)
})

/** What a worker would make of it. */
async function prunedOutput(removed: number[][]) {
  const student = extractLayers(manifest as Manifest, [0, 1, 2, 3], parent.manifestHash)
  const { dimensions: d } = checkBuildable(student)
  const { cuts, dimensions } = planPruning(
    student,
    removed.map((own, layer) => withoutGroups(d, layer, own)),
  )
  const tensors = student.tensors.map((tensor, i) => {
    const kept = cuts.get(i)
    if (!kept) return tensor
    const shape = tensor.shape.map((size, axis) => kept[axis]?.reduce((sum, [from, to]) => sum + to - from, 0) ?? size)
    const slice = { tensor: tensor.name, payload: tensor.payload, shape: tensor.shape, kept }
    return {
      ...tensor,
      shape,
      bytes: shape.reduce((a, b) => a * b, 4),
      payload: tensor.payload.replaceAll('a', 'b'),
      slice,
    }
  })
  const parameterCount = tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0)
  const made = manifestSchema.parse({ ...student, dimensions, tensors, parameterCount })
  const { hash } = await p.platform.payloads.put([Buffer.from(JSON.stringify(made))])
  const stage = { key: 'c'.repeat(64), manifest: hash, seconds: 1, reused: false }
  const stages = [
    { ...stage, stage: 'extract' },
    { ...stage, stage: 'pruneHeads', flops: 5, measurements: { removed } },
  ]
  return { manifest: hash, parameterCount, layerCount: 4, stages }
}

describe('exports of a recipe', () => {
  test('are queued as jobs of their own when the student is registered', async () => {
    const heads = { metric: 'GIVEN', heads: [[0], [1], [0], [1]] }
    const { recipe } = await create({ headPruning: heads, exports: ['SAFETENSORS_PARENT', 'GGUF_Q8_0'] })
    const again = await mutate('createRecipe', { yaml: recipe.yaml }, 'recipe { exports }')
    expect(again.recipe.exports).toEqual(['SAFETENSORS_PARENT', 'GGUF_Q8_0'])
    await mutate('approveRecipe', { recipeId: recipe.id })
    const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
    const output = await prunedOutput([[0], [1], [0], [1]])
    await succeed(p, 'student.build', fromGlobalId('Job', job.id), output)
    const jobs = await p.platform.db.read.find(Job, { where: { type: 'model.export' }, order: { id: 'ASC' } })
    expect(jobs.map(({ state, input }) => ({ state, input }))).toEqual([
      {
        state: 'QUEUED',
        input: { manifest: output.manifest, name: recipe.name, format: 'SAFETENSORS', quantization: 'PARENT' },
      },
      {
        state: 'QUEUED',
        input: { manifest: output.manifest, name: recipe.name, format: 'GGUF', quantization: 'Q8_0' },
      },
    ])
    const shown = await run(subgraph.schema, p.context(), 'query($id: ID!) { recipe(id: $id) { exportJobs { id } } }', {
      id: recipe.id,
    })
    expect(shown.recipe.exportJobs).toEqual(jobs.map(({ id }) => ({ id: toGlobalId('Job', id) })))
  })

  test('in a format that cannot hold the student are refused, naming the one that can', async () => {
    const headPruning = { metric: 'RANDOM', removePerLayer: [1, 0, 1, 1] }
    const { userErrors } = await create({ headPruning, exports: ['SAFETENSORS'] })
    expect(userErrors[0]).toMatchObject({ code: 'INVALID_RECIPE', message: expect.stringContaining('GGUF can say it') })
    expect((await create({ headPruning, exports: ['ONNX_Q4_0'] })).userErrors[0]).toMatchObject({
      code: 'INVALID_RECIPE',
    })
    expect((await create({ headPruning, exports: ['GGUF'] })).userErrors).toEqual([])
  })

  const uneven = [
    ['groups', { headPruning: { metric: 'RANDOM', removePerLayer: [1, 0, 1, 1] } }],
    ['query heads', { headPruning: { unit: 'QUERY_HEAD', metric: 'RANDOM', removePerLayer: [1, 0, 1, 1] } }],
    ['named query heads', { headPruning: { unit: 'QUERY_HEAD', metric: 'GIVEN', heads: [[0, 2], [], [], []] } }],
    ['widths', { feedForwardPruning: { metric: 'RANDOM', keepPerLayer: [48, 40, 40, 40] } }],
  ] as const
  const families = { llama: manifest as Manifest, qwen2: { ...(manifest as Manifest), architecture: 'qwen2' } }
  const problems = async (family: keyof typeof families, stages: object, format: string) => {
    const row = await addModel(p.platform, family, families[family])
    const input = { parentModelId: toGlobalId('Model', row.id), ...stages, exports: [format] }
    return (await create(input)).userErrors.map((e: { message: string }) => e.message)
  }

  test.each(uneven)(
    'of layers with other %s are refused where the writers would refuse them, only there',
    async (what, stages) => {
      expect(await problems('llama', stages, 'GGUF_F16')).toEqual([])
      const onnx = await problems('llama', stages, 'ONNX')
      if (what === 'groups')
        expect(onnx).toEqual([expect.stringMatching(/key\/value heads .*GGUF can say it, for llama/)])
      else expect(onnx).toEqual([])
      expect(await problems('qwen2', stages, 'ONNX')).toHaveLength(what === 'groups' ? 1 : 0)
      expect(await problems('qwen2', stages, 'SAFETENSORS_BF16')).toEqual([
        expect.stringContaining(
          'config.json has one number for all of them, and GGUF can say it for llama models only',
        ),
      ])
      expect(await problems('qwen2', stages, 'GGUF')).toEqual([
        expect.stringContaining('cannot be written as GGUF of qwen2 models, only of llama ones'),
      ])
    },
  )

  test('of layers that are pruned alike are fine in every format', async () => {
    const headPruning = { metric: 'RANDOM', removePerLayer: [1, 1, 1, 1] }
    const feedForwardPruning = { metric: 'RANDOM', keep: 40 }
    for (const format of ['SAFETENSORS', 'GGUF', 'ONNX'])
      expect(await problems('qwen2', { headPruning, feedForwardPruning }, format)).toEqual([])
  })

  test('of layers of models of different widths are refused too', async () => {
    const wide = await addModel(p.platform, 'qwen', families.qwen2)
    const narrow = await addModel(p.platform, 'narrow qwen', {
      ...families.qwen2,
      dimensions: { ...manifest.dimensions, intermediateSize: 40 },
    })
    const layers = [
      { from: 0, to: 2 },
      { from: 2, to: 4, modelId: toGlobalId('Model', narrow.id) },
    ]
    const asked = { parentModelId: toGlobalId('Model', wide.id), layers }
    expect((await create({ ...asked, exports: ['GGUF'] })).userErrors[0]).toMatchObject({
      ...{ code: 'INVALID_RECIPE', field: ['input', 'exports'] },
      message: expect.stringContaining('GGUF of qwen2 models'),
    })
    expect((await create({ ...asked, exports: ['ONNX'] })).userErrors).toEqual([])
  })

  test('know the families that GGUF can say it for by the names that the writer knows', () => {
    expect([...llamaNames].sort()).toEqual([...llama.aliases].sort())
  })
})

describe('pruneHeads', () => {
  test('writes an approved recipe of all layers, queues its build, and registers the student with its slices', async () => {
    const key = { idempotencyKey: 'once' }
    const input = { modelId, metric: 'GRADIENT', remove: 1, ...key }
    const selection = `recipe { ${fields} } job { id stages { stage reused measurements flops } }`
    const { recipe, job, userErrors } = await mutate('pruneHeads', input, selection)
    expect(userErrors).toEqual([])
    expect(recipe).toMatchObject({
      name: 'pico-pruned',
      status: 'BUILDING',
      layers: [{ from: 0, to: 4, model: null }],
      estimatedParameterCount: parent.parameterCount - 4 * group,
    })
    expect((await mutate('pruneHeads', input, selection)).recipe.id).toBe(recipe.id)
    const jobId = fromGlobalId('Job', job.id)
    const { input: queued } = await jobOf(p.platform, 'student.build', jobId)
    expect(queued.stages?.headPruning).toMatchObject({ metric: 'GRADIENT', unit: 'KEY_VALUE_GROUP', remove: 1 })
    expect(queued.stages?.calibration?.samplesPerCapability).toBe(8)

    const done = await succeed(p, 'student.build', jobId, await prunedOutput([[0], [1], [0], [1]]))
    expect(done.state).toBe('SUCCEEDED')
    const row = await p.platform.db.read.findOneByOrFail(StudentModelRecipe, { id: fromGlobalId('Recipe', recipe.id) })
    expect(row.status).toBe('BUILT')
    const sliced = await p.platform.db.read.findOneByOrFail(TensorAtom, {
      modelId: row.studentModelId!,
      name: 'model.layers.1.self_attn.o_proj.weight',
    })
    const tensor = await run(
      models.schema,
      p.context(),
      'query($id: ID!) { model(id: $id) { keyValueHeadCount tensors(layerIndex: 1, first: 20) { nodes { name slice { tensor payloadHash shape kept { from to } changed } } } history { description } } }',
      { id: toGlobalId('Model', row.studentModelId!) },
    )
    const nodes = tensor.model.tensors.nodes as { name: string; slice: unknown }[]
    expect(nodes.find(n => n.name === sliced.name)?.slice).toEqual({
      tensor: sliced.name,
      payloadHash: sliced.slice?.payload,
      shape: [32, 32],
      kept: [[{ from: 0, to: 32 }], [{ from: 0, to: 16 }]],
      changed: false,
    })
    expect(nodes.find(n => n.name.includes('gate'))?.slice).toBeNull()
    expect(tensor.model.history[0].description).toContain('4 of the 4 layers of pico, then pruneHeads')
    const { job: shown } = await run(
      subgraph.schema,
      p.context(),
      'query($id: ID!) { _entities(representations: [{ __typename: "Job", id: $id }]) { ... on Job { stages { stage flops measurements } } } }',
      { id: job.id },
    ).then(answer => ({ job: answer._entities[0] }))
    expect(shown.stages).toEqual([
      { stage: 'extract', flops: null, measurements: null },
      { stage: 'pruneHeads', flops: 5, measurements: { removed: [[0], [1], [0], [1]] } },
    ])
  })

  test('of all heads is refused, and no recipe is left', async () => {
    const { recipe, userErrors } = await mutate('pruneHeads', { modelId, metric: 'RANDOM', remove: 2 })
    expect(recipe).toBeNull()
    expect(userErrors[0]).toMatchObject({ code: 'INVALID_RECIPE' })
    expect(await p.platform.db.read.count(StudentModelRecipe)).toBe(0)
  })
})
