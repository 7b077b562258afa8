// What the tests of the students subgraph share: a platform with one model for each test, and the operations they ask.
import { afterEach, beforeEach } from 'vitest'
import type { JobOutput } from '../../../../compute/pool/job-types.js'
import { ModelAtom } from '../../../../db/entities/index.js'
import { fromGlobalId, toGlobalId } from '../../../../lib/ids.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { subgraph } from '../../../../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../../../../subgraphs/taxonomy/subgraph.js'
import {
  addModel,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

/** Of the test that runs. */
export let p: SubgraphPlatform
export let parent: ModelAtom
export let modelId: string
beforeEach(async () => {
  // The taxonomy brings probe sets and analyses, as in the platform.
  p = await openSubgraphPlatform(subgraph, taxonomy)
  parent = await addModel(p.platform, 'parent')
  modelId = toGlobalId('Model', parent.id)
})
afterEach(() => p.close())

export const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)

export const recipeFields =
  'recipe { id name objective status layers { from to reason } layerCount estimatedParameterCount estimatedQuality estimatedQualityInterval measuredQuality decision builtAt yaml capability { id } parentModel { id } student { id } job { id } }'
export const mutate = async (field: string, input: Record<string, unknown>, selection = recipeFields) => {
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const source = `mutation($input: ${type}!) { ${field}(input: $input) { ${selection} userErrors { field message code } } }`
  return (await ask(source, { input }))[field]
}
export const recipeOf = async (id: string) =>
  (await ask(`query($id: ID!) { recipe(id: $id) { ${recipeFields.slice(9, -2)} } }`, { id })).recipe
export const job = 'job { id }'
export const cut = [
  { from: 0, to: 5, reason: 'syntax' },
  { from: 7, to: 8 },
]
export const newRecipe = async (input: Record<string, unknown> = {}) =>
  (await mutate('createRecipe', { parentModelId: modelId, name: 'cut', objective: 'test', layers: cut, ...input }))
    .recipe

/** What the worker would write for the cut. */
export async function buildOutput(kept = [0, 1, 2, 3, 4, 7]): Promise<JobOutput<'student.build'>> {
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

export async function approvedRecipe(input: Record<string, unknown> = {}) {
  const recipe = await newRecipe(input)
  await mutate('approveRecipe', { recipeId: recipe.id })
  return recipe
}
export const startBuild = async (recipeId: string) =>
  fromGlobalId('Job', (await mutate('buildStudent', { recipeId }, job)).job.id)

/** A finished analysis of the parent. */
export async function analyse() {
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
export const proposal = (
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
