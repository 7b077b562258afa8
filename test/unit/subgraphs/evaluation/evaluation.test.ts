// Measurements of models and students, as the evaluation subgraph writes and shows them.
import type { EntityManager } from 'typeorm'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  ModelAtom,
  ModelEvaluation,
  ModelEvent,
  StudentModelCapabilityMapping,
  StudentModelRecipe,
} from '../../../../db/entities/index.js'
import { registerModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { healingSchema } from '../../../../lib/healing.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import { chooseProbeDataset } from '../../../../subgraphs/build/probe-dataset.js'
import { compareScores, pooledLoss, quality } from '../../../../subgraphs/evaluation/quality.js'
import { subgraph } from '../../../../subgraphs/evaluation/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
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
let parent: ModelAtom
beforeEach(async () => {
  p = await openSubgraphPlatform(subgraph, taxonomy)
  parent = await addModel(p.platform, 'parent')
})
afterEach(() => p.close())

const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)
const evaluate = async (input: Record<string, unknown>) =>
  (
    await ask(
      'mutation($input: EvaluateModelInput!) { evaluateModel(input: $input) { job { id } userErrors { field message code } } }',
      { input },
    )
  ).evaluateModel
const score = (capability: string, loss: number, completionTokens = 100) => ({
  capability,
  loss,
  perplexity: Math.exp(loss),
  accuracy: 0.5,
  sampleCount: 20,
  completionTokens,
  interval: [loss - 0.5, loss + 0.5] as [number, number],
})

async function addStudent() {
  const manifest = makeManifest({ layers: 4 })
  const { hash } = await p.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
  return p.platform.db.tx(em =>
    registerModel(em, {
      tenantId: defaultTenantId,
      manifest,
      manifestHash: hash,
      name: 'student',
      source: null,
      parentModelId: parent.id,
      isStudent: true,
      jobId: null,
    }),
  )
}

test('quality is 1 for the parent’s own loss and falls with what is lost', () => {
  expect(quality(2, 2)).toBe(1)
  expect(quality(2.1, 2)).toBeCloseTo(0.904837418, 9)
  expect(quality(1.9, 2)).toBeGreaterThan(1)
  expect(pooledLoss([score('a', 1, 300), score('b', 3, 100)])).toBe(1.5)
  expect(compareScores([score('a', 2.5), score('b', 1)], [score('a', 2)])).toEqual({
    overall: Math.exp(-0.5),
    capabilities: [{ capability: 'a', quality: Math.exp(-0.5) }],
  })
  expect(compareScores([score('a', 2)], [])).toBeNull()
})

test('a model is measured on the validation split of the built-in set by default', async () => {
  const { job, userErrors } = await evaluate({ modelId: toGlobalId('Model', parent.id) })
  expect(userErrors).toEqual([])
  const jobId = fromGlobalId('Job', job.id)
  const { input } = await jobOf(p.platform, 'model.evaluate', jobId)
  expect(input).toMatchObject({ manifest: parent.manifestHash, split: 'validation', maxTokens: 256 })
  expect(input).not.toHaveProperty('reference')
  await succeed(p, 'model.evaluate', jobId, { scores: [score('translation', 2), score('summarization', 3)] })
  const page =
    '{ totalCount nodes { loss interval perplexity accuracy sampleCount split capability { id } probeDataset { id } model { id } job { id } } }'
  const { evaluations, _entities } = await ask(
    `query($id: ID!, $r: [_Any!]!) { evaluations(modelId: $id, first: 1) ${page} _entities(representations: $r) { ... on Model { evaluations { totalCount } } } }`,
    { id: toGlobalId('Model', parent.id), r: [{ __typename: 'Model', id: toGlobalId('Model', parent.id) }] },
  )
  expect(evaluations).toMatchObject({
    totalCount: 2,
    nodes: [{ loss: 3, interval: [2.5, 3.5], split: 'VALIDATION', sampleCount: 20, job: { id: job.id } }],
  })
  expect(_entities).toEqual([{ evaluations: { totalCount: 2 } }])
})

test('a student is measured beside its parent, and the taxonomy shows its quality', async () => {
  const student = await addStudent()
  const { job } = await evaluate({
    modelId: toGlobalId('Model', student.id),
    capabilities: ['translation'],
    split: 'VALIDATION',
  })
  const jobId = fromGlobalId('Job', job.id)
  expect((await jobOf(p.platform, 'model.evaluate', jobId)).input).toMatchObject({
    reference: parent.manifestHash,
    capabilities: ['translation'],
  })
  await succeed(p, 'model.evaluate', jobId, {
    scores: [score('translation', 2.2)],
    reference: [score('translation', 2)],
  })
  const { _entities } = await run(
    taxonomy.schema,
    p.context(),
    'query($r: [_Any!]!) { _entities(representations: $r) { ... on Model { capabilityQualities { quality capability { slug } } capabilityScores { loss split } } } }',
    { r: [{ __typename: 'Model', id: toGlobalId('Model', student.id) }] },
  )
  expect(_entities[0].capabilityQualities).toEqual([
    { quality: Math.exp(-(2.2 - 2)), capability: { slug: 'translation' } },
  ])
  expect(_entities[0].capabilityScores).toEqual([{ loss: 2.2, split: 'VALIDATION' }])
  expect(await p.platform.db.read.countBy(ModelEvent, { modelId: student.id, kind: 'EVALUATED' })).toBe(1)
})

/** A built recipe of the student; its id. */
async function insertRecipe(student: ModelAtom, changes: Partial<StudentModelRecipe>, within?: EntityManager) {
  const id = newId()
  const insert = (em: EntityManager) =>
    em.insert(StudentModelRecipe, {
      id,
      tenantId: defaultTenantId,
      name: 'student',
      parentModelId: parent.id,
      objective: 'test',
      capability: null,
      layers: [{ from: 0, to: 4 }],
      estimatedParameterCount: student.parameterCount,
      estimatedQuality: null,
      estimatedQualityInterval: null,
      measuredQuality: null,
      status: 'BUILT',
      decision: null,
      studentModelId: student.id,
      jobId: null,
      proposalJobId: null,
      probeDatasetId: null,
      createdAt: new Date(),
      builtAt: new Date(),
      ...changes,
    })
  await (within ? insert(within) : p.platform.db.tx(insert))
  return id
}

test('a student that was trained after a teacher is measured beside that, while it is there', async () => {
  const student = await addStudent()
  const teacher = await addModel(p.platform, 'teacher', { ...makeManifest({ layers: 4 }), sourceName: 'another' })
  const healing = healingSchema.parse({ data: 'a'.repeat(64), teacher: teacher.manifestHash })
  await insertRecipe(student, { stages: { healing } })
  const referenceNow = async () => {
    const { job } = await evaluate({ modelId: toGlobalId('Model', student.id), capabilities: ['translation'] })
    return (await jobOf(p.platform, 'model.evaluate', fromGlobalId('Job', job.id))).input.reference
  }
  expect(await referenceNow()).toBe(teacher.manifestHash)
  await p.platform.db.tx(em => em.update(ModelAtom, { id: teacher.id }, { deletedAt: new Date() }))
  expect(await referenceNow()).toBe(parent.manifestHash)
})

test('a recipe’s student gets its measured quality once, over all samples', async () => {
  const student = await addStudent()
  const [jobId, recipeId] = await p.platform.db.tx(async em => {
    const recipeId = await insertRecipe(student, {}, em)
    const probeSet = await chooseProbeDataset(em, defaultTenantId, null)
    const job = await enqueue(em, p.platform, {
      tenantId: defaultTenantId,
      type: 'model.evaluate',
      modelId: student.id,
      input: {
        manifest: student.manifestHash,
        reference: parent.manifestHash,
        probeSet: probeSet.probeSetHash,
        split: 'validation',
        maxTokens: 256,
      },
      context: { probeDatasetId: probeSet.id, recipeId },
    })
    return [job.id, recipeId] as const
  })
  await succeed(p, 'model.evaluate', jobId, {
    scores: [score('translation', 2.2, 300), score('summarization', 3, 100)],
    reference: [score('translation', 2, 300), score('summarization', 2.6, 100)],
  })
  const recipe = await p.platform.db.read.findOneByOrFail(StudentModelRecipe, { id: recipeId })
  expect(recipe.measuredQuality).toBeCloseTo(Math.exp(-(0.2 * 300 + 0.4 * 100) / 400), 12)
  expect(await p.platform.db.read.countBy(StudentModelCapabilityMapping, { studentModelId: student.id })).toBe(2)
})

test.each([
  ['an unknown model', { modelId: toGlobalId('Model', newId()) }, 'NOT_FOUND'],
  ['an unknown capability', { capabilities: ['cooking'] }, 'NOT_FOUND'],
  ['an empty list', { capabilities: [] }, 'BAD_USER_INPUT'],
  ['no samples', { samplesPerCapability: 0 }, 'BAD_USER_INPUT'],
])('refuses %s', async (_, input, code) => {
  const { userErrors } = await evaluate({ modelId: toGlobalId('Model', parent.id), ...input })
  expect(userErrors).toMatchObject([{ code }])
  expect(await p.platform.db.read.count(ModelEvaluation)).toBe(0)
})
