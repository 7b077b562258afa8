// Federated queries per second through the gateway, with our data source and with the stock one, alternating in one run.
//
// Both run the whole way of a query in the platform (checks, plan, both subgraphs, result shaping); only the data source differs. What each
// case reads is said in its `what`; the headline `ratio` is that of `node`, where no database hides what the data source costs.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LocalGraphQLDataSource } from '@apollo/gateway'
import type { GraphQLSchema } from 'graphql'
import { type GraphqlGateway, startGraphqlGateway } from '../gateway/graphql-gateway.js'
import { localDataSource } from '../gateway/local-data-source.js'
import { startPlatform } from '../gateway/platform.js'
import type { SubgraphSource } from '../gateway/source.js'
import { subgraphs } from '../gateway/subgraphs.js'
import { loadSupergraph } from '../gateway/supergraph.js'
import { readEnv } from '../lib/env.js'
import { makeLogger } from '../lib/log.js'
import { projectFile } from '../lib/project.js'
import { twoSubgraphs } from '../test/unit/gateway/two-subgraphs.js'
import type { Bench } from './main.js'

const rounds = 7
const roundMs = 1000
const warmUp = 1500

const log = makeLogger('bench', 'silent')

/** The stock data source behind our face. */
function stockSource<C extends object>(schema: GraphQLSchema): SubgraphSource<C> {
  const stock = new LocalGraphQLDataSource(schema)
  return {
    process: options => stock.process(options as never),
    subscribe: () => Promise.reject(new Error('not measured')),
    ping: async () => {},
    close: async () => {},
  }
}

interface Case {
  what: string
  supergraphSdl: string
  schemas: ReadonlyMap<string, GraphQLSchema>
  newContext: () => object
  query: string
}

async function measure({ what, supergraphSdl, schemas, newContext, query }: Case) {
  const make = async (source: (schema: GraphQLSchema) => SubgraphSource<object>) =>
    startGraphqlGateway<object>({
      supergraphSdl,
      sources: new Map([...schemas].map(([name, schema]) => [name, source(schema)])),
      log,
    })
  const ours = await make(schema => localDataSource(schema, log))
  const stock = await make(schema => stockSource(schema))
  const one = async (gateway: GraphqlGateway<object>) => {
    const outcome = await gateway.operate({ query }, newContext)
    if (outcome.kind !== 'answer' || outcome.answer.errors) throw new Error(JSON.stringify(outcome))
    return outcome.answer
  }
  const [a, b] = [JSON.stringify(await one(ours)), JSON.stringify(await one(stock))]
  if (a !== b) throw new Error(`The two answer differently: ${a} ${b}`)
  for (const gateway of [ours, stock]) for (let i = 0; i < warmUp; i++) await one(gateway)
  const round = async (gateway: GraphqlGateway<object>) => {
    const started = performance.now()
    let count = 0
    for (; performance.now() - started < roundMs; count++) await one(gateway)
    return (count / (performance.now() - started)) * 1000
  }
  const rates: { ours: number; stock: number }[] = []
  for (let i = 0; i < rounds; i++) rates.push({ ours: await round(ours), stock: await round(stock) })
  await ours.stop()
  await stock.stop()
  const median = (values: number[]) => values.sort((x, y) => x - y)[values.length >> 1] as number
  return {
    what,
    perSecond: Math.round(median(rates.map(r => r.ours))),
    stockPerSecond: Math.round(median(rates.map(r => r.stock))),
    ratio: Number(median(rates.map(r => r.ours / r.stock)).toFixed(2)),
  }
}

/** Some models and jobs, so that the queries return something. */
async function withPlatform<T>(
  work: (newContext: () => object, ids: { model: string; device: string }) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'hartonomous-bench-'))
  const platform = await startPlatform({ ...readEnv(), HARTONOMOUS_DATA: folder }, log)
  const gateway = await startGraphqlGateway<object>({
    supergraphSdl: loadSupergraph(),
    sources: new Map(subgraphs.map(s => [s.name, localDataSource(s.schema, log)])),
    log,
  })
  try {
    const run = async (query: string, variables = {}) => {
      const outcome = await gateway.operate({ query, variables }, () => platform.newContext())
      if (outcome.kind !== 'answer' || outcome.answer.errors) throw new Error(JSON.stringify(outcome))
      return outcome.answer.data as Record<string, Record<string, unknown>>
    }
    const ingest = 'mutation($input: IngestModelInput!) { ingestModel(input: $input) { userErrors { message } } }'
    for (const name of ['first', 'second', 'third'])
      await run(ingest, { input: { source: projectFile('demo', 'model'), name } })
    const finished = '{ jobs(states: [SUCCEEDED]) { totalCount } }'
    for (const deadline = Date.now() + 60_000; (await run(finished)).jobs?.totalCount !== 3; ) {
      if (Date.now() > deadline) throw new Error('The models were not ingested within a minute')
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    const found = (await run('{ models(first: 1) { nodes { id } } devices { id } }')) as {
      models?: { nodes: { id: string }[] }
      devices?: { id: string }[]
    }
    const [model, device] = [found.models?.nodes[0]?.id, found.devices?.[0]?.id]
    if (!model || !device) throw new Error('The platform has no model or no device')
    return await work(() => platform.newContext(), { model, device })
  } finally {
    await gateway.stop()
    await platform.stop(0)
    await rm(folder, { recursive: true, force: true })
  }
}

export const run: Bench = async () => {
  const real = { supergraphSdl: loadSupergraph(), schemas: new Map(subgraphs.map(s => [s.name, s.schema])) }
  const fields = 'id name architecture parameterCount layerCount hiddenSize vocabularySize contextLength'
  const onPlatform = await withPlatform(async (newContext, ids) => ({
    node: await measure({
      ...real,
      what: 'a device found by the node subgraph and completed by compute, both in memory: federation itself, real supergraph',
      newContext,
      query: `{ node(id: "${ids.device}") { id ... on Device { name kind memoryBytes busy worker } } }`,
    }),
    oneRow: await measure({
      ...real,
      what: 'devices of compute (in memory) and one model of models (one row of SQLite), real supergraph',
      newContext,
      query: `{ devices { id name kind memoryBytes busy worker } model(id: "${ids.model}") { ${fields} } }`,
    }),
    joined: await measure({
      ...real,
      what: 'three jobs of compute, each with its model of models (four queries of SQLite, which dominate), real supergraph',
      newContext,
      query: `{ jobs(first: 3) { nodes { id type state createdAt model { ${fields} } } } }`,
    }),
  }))
  const small = twoSubgraphs()
  const gatewayOnly = await measure({
    what: 'an entity of one subgraph completed by another, no database: the gateway alone',
    supergraphSdl: small.supergraphSdl,
    schemas: small.schemas,
    newContext: small.newContext,
    query: '{ job(id: "7") { completed model { name students { nodes { name } } } } }',
  })
  return { ratio: onPlatform.node.ratio, ...onPlatform, gatewayOnly, rounds, roundMs }
}
