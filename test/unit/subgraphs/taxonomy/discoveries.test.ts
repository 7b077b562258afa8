// Capabilities that analyses found: proposed once, found again, and what people make of them; and what else an analysis shows.
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { DiscoveryOutput, JobOutput } from '../../../../compute/pool/job-types.js'
import { alivePayloads, deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { fromGlobalId, newId, toGlobalId } from '../../../../lib/ids.js'
import { overlap } from '../../../../subgraphs/taxonomy/discovery.service.js'
import { subgraph } from '../../../../subgraphs/taxonomy/subgraph.js'
import {
  addModel,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let p: SubgraphPlatform
let modelId: string
beforeEach(async () => {
  p = await openSubgraphPlatform(subgraph)
  modelId = (await addModel(p.platform, 'parent')).id
})
afterEach(() => p.close())

const ask = (source: string, variables?: Record<string, unknown>) =>
  run(subgraph.schema, p.context(), source, variables)

const score = (capability: string, loss = 2) => ({
  capability,
  loss,
  perplexity: Math.exp(loss),
  accuracy: 0.5,
  sampleCount: 4,
  completionTokens: 40,
  interval: null,
})
const keys = (...names: string[]) => names.map(name => name.padStart(16, '0'))
const discovery = (changes: Partial<DiscoveryOutput> = {}): DiscoveryOutput => ({
  parent: 'code_generation/sql',
  name: 'Like: group, count',
  words: ['group', 'count'],
  examples: ['Count the rows per group.'],
  samples: keys('a', 'b', 'c', 'd'),
  silhouette: 0.31,
  score: score('code_generation/sql', 1.25),
  ...changes,
})
const activation = { mean: 0.1, standardDeviation: 2, rms: 2.5, maximum: 40, kurtosis: 17 }
const output = (changes: Partial<JobOutput<'capability.analyze'>> = {}): JobOutput<'capability.analyze'> => ({
  baseline: [score('code_generation', 1.5)],
  layers: [
    {
      layerIndex: 0,
      blockInfluence: 0.1,
      activationNorm: 10,
      activation,
      capabilities: [
        {
          capability: 'code_generation',
          activation: { ...activation, rms: 3 },
          blockInfluence: 0.2,
          lossIncrease: 1,
          score: 1,
        },
      ],
    },
  ],
  heads: [{ capability: 'code_generation', keyValueHeadCount: 1, layers: [[0.5, 0.25]], entropy: [[1.5, 0.75]] }],
  subcapabilities: [score('code_generation/sql', 1.75)],
  groups: [
    {
      layerIndex: 0,
      keyValueHeadIndex: 0,
      capabilities: [{ capability: 'code_generation', importance: 0.75, lossIncrease: 0.5, interval: [0.25, 0.75] }],
    },
  ],
  clusters: [
    {
      capability: 'code_generation',
      layers: [0],
      silhouette: 0,
      lossIncrease: 1,
      role: 'SUPPORTS',
      label: 'layer 0 supports',
    },
  ],
  discoveries: [],
  centroids: 'c'.repeat(64),
  dropped: [{ capability: 'code_generation', count: 3 }],
  ...changes,
})

async function analyse(changes: Partial<JobOutput<'capability.analyze'>> = {}, model = modelId) {
  const { analyzeModel } = await ask(
    'mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { job { id } userErrors { message } } }',
    { input: { modelId: toGlobalId('Model', model) } },
  )
  await succeed(p, 'capability.analyze', fromGlobalId('Job', analyzeModel.job.id), output(changes))
}
const proposed = async () =>
  (
    await ask(
      '{ capabilities(status: PROPOSED) { id slug name level status examples parent { slug } discoveredIn { id } scores { score { loss split } model { id } } } }',
    )
  ).capabilities
const change = async (mutation: string, input: Record<string, unknown>) => {
  const type = `${mutation[0]!.toUpperCase()}${mutation.slice(1)}Input`
  const query = `mutation($input: ${type}!) { ${mutation}(input: $input) { capability { slug name status description mergedInto { slug } } userErrors { field code message } } }`
  return (await ask(query, { input }))[mutation]
}

test('an analysis shows activations, entropies, clusters, masked groups, dropped samples and its mean activations', async () => {
  await analyse()
  const {
    _entities: [{ analysis, top, sub }],
  } = await ask(
    `query($r: [_Any!]!) { _entities(representations: $r) { ... on Model {
      top: capabilityScores { capability { slug } } sub: capabilityScores(level: 1) { loss capability { slug } }
      analysis {
        centroidsHash droppedSamples { count capability { slug } }
        clusters { layers role label capability { slug } } other: clusters(capability: "translation") { label }
        maskedGroups { layerIndex keyValueHeadIndex importance lossIncrease interval capability { slug } }
        layers { activation { rms kurtosis maximum } capabilities { activation { rms } } heads { attentionEntropy } }
      } } } }`,
    { r: [{ __typename: 'Model', id: toGlobalId('Model', modelId) }] },
  )
  const capability = { slug: 'code_generation' }
  expect(analysis).toEqual({
    centroidsHash: 'c'.repeat(64),
    droppedSamples: [{ count: 3, capability }],
    clusters: [{ layers: [0], role: 'SUPPORTS', label: 'layer 0 supports', capability }],
    other: [],
    maskedGroups: [
      { layerIndex: 0, keyValueHeadIndex: 0, importance: 0.75, lossIncrease: 0.5, interval: [0.25, 0.75], capability },
    ],
    layers: [
      {
        activation: { rms: 2.5, kurtosis: 17, maximum: 40 },
        capabilities: [{ activation: { rms: 3 } }],
        heads: [{ attentionEntropy: 1.5 }, { attentionEntropy: 0.75 }],
      },
    ],
  })
  expect(top).toEqual([{ capability }])
  expect(sub).toEqual([{ loss: 1.75, capability: { slug: 'code_generation/sql' } }])
})

test('mean activations live as long as their model', async () => {
  await analyse()
  expect((await alivePayloads(p.platform.db.read)).payloads).toContain('c'.repeat(64))
  await p.platform.db.tx(em => deleteModel(em, defaultTenantId, modelId))
  expect((await alivePayloads(p.platform.db.read)).payloads).not.toContain('c'.repeat(64))
})

test('outputs of earlier versions leave empty lists and nulls', async () => {
  const { baseline, layers } = output()
  const [layer] = layers
  const old = {
    ...layer!,
    activation: undefined,
    capabilities: layer!.capabilities.map(c => ({ ...c, activation: undefined })),
  }
  await analyse({
    baseline,
    layers: [old],
    heads: undefined,
    subcapabilities: undefined,
    groups: undefined,
    clusters: undefined,
    discoveries: undefined,
    centroids: undefined,
    dropped: undefined,
  })
  const {
    _entities: [{ analysis }],
  } = await ask(
    `query($r: [_Any!]!) { _entities(representations: $r) { ... on Model { analysis { centroidsHash clusters { label } maskedGroups { importance } droppedSamples { count }
      layers { activation { rms } capabilities { activation { rms } } heads { importance } } } } } }`,
    { r: [{ __typename: 'Model', id: toGlobalId('Model', modelId) }] },
  )
  expect(analysis).toEqual({
    centroidsHash: null,
    clusters: [],
    maskedGroups: [],
    droppedSamples: [],
    layers: [{ activation: null, capabilities: [{ activation: null }], heads: [] }],
  })
})

describe('a capability that an analysis found', () => {
  test('is proposed with examples, its place in the tree and the model’s score', async () => {
    await analyse({ discoveries: [discovery()] })
    const [node, ...others] = await proposed()
    expect(others).toEqual([])
    expect(node).toMatchObject({
      name: 'Like: group, count',
      level: 2,
      status: 'PROPOSED',
      parent: { slug: 'code_generation/sql' },
      examples: ['Count the rows per group.'],
      discoveredIn: { id: toGlobalId('Model', modelId) },
      scores: [{ score: { loss: 1.25, split: 'PROBE' }, model: { id: toGlobalId('Model', modelId) } }],
    })
    const { capability } = await ask(
      '{ capability(slug: "code_generation/sql") { children { slug } probeDatasets { name } scores { score { loss } } } }',
    )
    expect(capability).toEqual({
      children: [{ slug: node.slug }],
      probeDatasets: [{ name: 'hartonomous' }],
      scores: [{ score: { loss: 1.75 } }],
    })
  })

  test('that another analysis finds again is the same node, with what that one says', async () => {
    await analyse({ discoveries: [discovery()] })
    const other = (await addModel(p.platform, 'other')).id
    await analyse(
      {
        discoveries: [
          discovery({ name: 'Like: sum', examples: ['Sum it.'], samples: keys('a', 'b', 'c', 'x', 'y', 'z') }),
          discovery({ samples: keys('m', 'n', 'o'), parent: 'code_generation' }),
        ],
      },
      other,
    )
    const [node, second, ...more] = await proposed()
    expect(more).toEqual([])
    expect(node).toMatchObject({ examples: ['Sum it.'], discoveredIn: { id: toGlobalId('Model', other) } })
    expect(node.scores).toHaveLength(2)
    expect(second).toMatchObject({ level: 1, parent: { slug: 'code_generation' } })
  })

  test('gets a name, keeps it when it is found again, and is measured', async () => {
    await analyse({ discoveries: [discovery()] })
    const [{ id, slug }] = await proposed()
    const input = { capabilityId: id, name: ' Aggregation ', description: 'Counting and summing.' }
    const { capability } = await change('renameCapability', input)
    expect(capability).toMatchObject({
      slug,
      name: 'Aggregation',
      status: 'ESTABLISHED',
      description: 'Counting and summing.',
    })
    await analyse({ discoveries: [discovery({ name: 'Like: other', score: score('code_generation/sql', 1) })] })
    expect(await proposed()).toEqual([])
    const found = (
      await ask('query($slug: String!) { capability(slug: $slug) { name status scores { score { loss } } } }', { slug })
    ).capability
    expect(found).toEqual({ name: 'Aggregation', status: 'ESTABLISHED', scores: [{ score: { loss: 1 } }] })
  })

  test('that was dismissed or merged is neither shown nor proposed again', async () => {
    const second = discovery({ samples: keys('m', 'n', 'o'), name: 'Like: join' })
    await analyse({ discoveries: [discovery(), second] })
    const [first, other] = await proposed()
    expect((await change('dismissCapability', { capabilityId: first.id })).capability.status).toBe('DISMISSED')
    const into = (await ask('{ capability(slug: "code_generation/sql") { id } }')).capability.id
    const merged = await change('mergeCapability', { capabilityId: other.id, intoCapabilityId: into })
    expect(merged.capability).toMatchObject({ status: 'MERGED', mergedInto: { slug: 'code_generation/sql' } })
    await analyse({ discoveries: [discovery(), second] })
    expect(await proposed()).toEqual([])
    const { capability, capabilities } = await ask(
      '{ capability(slug: "code_generation/sql") { children { slug } } capabilities(status: DISMISSED) { slug } }',
    )
    expect(capability.children).toEqual([])
    expect(capabilities).toEqual([{ slug: first.slug }])
  })

  test('merged into another that was found gives it its examples and samples', async () => {
    const second = discovery({ samples: keys('m', 'n', 'o'), examples: ['Join them.'] })
    await analyse({ discoveries: [discovery(), second] })
    const [first, other] = await proposed()
    await change('mergeCapability', { capabilityId: other.id, intoCapabilityId: first.id })
    const [left] = await proposed()
    expect(left.examples).toEqual(['Count the rows per group.', 'Join them.'])
  })

  test('what cannot be changed is refused by name', async () => {
    await analyse({ discoveries: [discovery()] })
    const [{ id, slug }] = await proposed()
    const sql = (await ask('{ capability(slug: "code_generation/sql") { id } }')).capability.id
    const codes = async (mutation: string, input: Record<string, unknown>) =>
      (await change(mutation, input)).userErrors.map((e: { code: string; field: string[] }) => [e.code, e.field[1]])
    expect(await codes('renameCapability', { capabilityId: sql, name: 'x' })).toEqual([['CONFLICT', 'capabilityId']])
    expect(await codes('renameCapability', { capabilityId: id, name: ' ' })).toEqual([['BAD_USER_INPUT', 'name']])
    expect(await codes('renameCapability', { capabilityId: id, name: 'x'.repeat(101) })).toEqual([
      ['BAD_USER_INPUT', 'name'],
    ])
    expect(await codes('dismissCapability', { capabilityId: toGlobalId('Capability', newId()) })).toEqual([
      ['NOT_FOUND', 'capabilityId'],
    ])
    expect(await codes('mergeCapability', { capabilityId: id, intoCapabilityId: id })).toEqual([
      ['CONFLICT', 'intoCapabilityId'],
    ])
    await change('dismissCapability', { capabilityId: id })
    const again = (await change('renameCapability', { capabilityId: id, name: 'x' })).userErrors
    expect(again).toMatchObject([{ code: 'CONFLICT', message: `${slug} is dismissed already` }])
  })
})

test('how many groups are masked is checked', async () => {
  const { analyzeModel } = await ask(
    'mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { userErrors { code message } } }',
    { input: { modelId: toGlobalId('Model', modelId), maskedGroups: 257 } },
  )
  expect(analyzeModel.userErrors).toEqual([{ code: 'BAD_USER_INPUT', message: 'maskedGroups: 257, expected 0 to 256' }])
})

test('the overlap of two sets is the share of the smaller one that both hold', () => {
  expect(overlap(['a', 'b'], ['b', 'c', 'd', 'e'])).toBe(0.5)
  expect(overlap(['a', 'b'], ['b', 'a', 'd'])).toBe(1)
  expect(overlap([], ['a'])).toBe(0)
})
