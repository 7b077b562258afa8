// Subgraphs in processes of their own behind one gateway: same answers, same streams, and what happens when one is gone.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compiledFile, projectFile } from '../../../lib/project.js'
import { type GraphqlAnswer, startTestPlatform, type TestPlatform } from '../../testkit/platform.js'

const dataFolder = mkdtempSync(join(tmpdir(), 'hartonomous-remote-'))
const processes = new Map<string, { child: ChildProcess; port: number }>()
let p: TestPlatform

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}

async function startSubgraph(name: string, port: number): Promise<void> {
  const child = spawn(process.execPath, [compiledFile(`subgraphs/${name}/main.js`)], {
    env: { ...process.env, PORT: String(port), HARTONOMOUS_DATA: dataFolder, LOG_LEVEL: 'warn' },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  processes.set(name, { child, port })
  for (const deadline = Date.now() + 40_000; ; await new Promise(resolve => setTimeout(resolve, 200))) {
    const ready = await fetch(`http://127.0.0.1:${port}/livez`).then(
      r => r.ok,
      () => false,
    )
    if (ready) return
    if (Date.now() > deadline || child.exitCode !== null) throw new Error(`The ${name} subgraph did not start`)
  }
}

async function endSubgraph(name: string, signal: NodeJS.Signals): Promise<void> {
  const { child } = processes.get(name)!
  child.kill(signal)
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

beforeAll(async () => {
  const names = ['models', 'compute', 'node']
  const ports = await Promise.all(names.map(freePort))
  // One after another: each opens the database, the first one makes it.
  for (const [i, name] of names.entries()) await startSubgraph(name, ports[i]!)
  const HARTONOMOUS_SUBGRAPHS = names.map((name, i) => `${name}=http://127.0.0.1:${ports[i]}/graphql`).join(',')
  p = await startTestPlatform({ dataFolder, env: { HARTONOMOUS_SUBGRAPHS } })
}, 120_000)

afterAll(async () => {
  await p?.stop()
  for (const name of processes.keys()) await endSubgraph(name, 'SIGKILL')
  rmSync(dataFolder, { recursive: true, force: true })
})

const code = (answer: GraphqlAnswer) => answer.errors?.[0]?.extensions.code

test('a mutation in one process is run by the pool of another and followed through a third', async () => {
  const { job } = await p.mutate(
    'ingestModel',
    { source: projectFile('demo', 'model'), name: 'far' },
    'job { id state }',
  )
  const query =
    'subscription($id: ID!) { jobProgress(id: $id) { state model { name layerCount capabilityScores { loss } } } }'
  const events: GraphqlAnswer[] = []
  for await (const e of p.subscribe(query, { id: job.id })) events.push(e)
  expect(events.flatMap(e => e.errors ?? [])).toEqual([])
  expect(events.at(-1)?.data?.jobProgress).toEqual({
    state: 'SUCCEEDED',
    model: { name: 'far', layerCount: expect.any(Number), capabilityScores: [] },
  })
  const { node } = await p.gql('query($id: ID!) { node(id: $id) { __typename ... on Job { type model { name } } } }', {
    id: job.id,
  })
  expect(node).toEqual({ __typename: 'Job', type: 'MODEL_INGEST', model: { name: 'far' } })
})

test('failures of a remote subgraph keep their codes', async () => {
  expect(code(await p.raw('{ models(after: "xx") { totalCount nodes { id } } }'))).toBe('INVALID_CURSOR')
})

test('a subgraph that is gone is SUBGRAPH_UNAVAILABLE for its fields only, and serves again when it is back', async () => {
  await endSubgraph('models', 'SIGKILL')
  const answer = await p.raw('{ jobs(first: 1) { nodes { type model { name } } } capabilities { slug } }')
  expect(code(answer)).toBe('SUBGRAPH_UNAVAILABLE')
  expect(answer.data?.jobs.nodes[0].type).toBe('MODEL_INGEST')
  expect(answer.data?.capabilities.length).toBeGreaterThan(5)
  expect((await fetch(`${p.url}/readyz`)).status).toBe(503)
  await startSubgraph('models', processes.get('models')!.port)
  expect((await p.gql('{ models(first: 1) { nodes { name } } }')).models.nodes).toEqual([{ name: 'far' }])
  expect((await fetch(`${p.url}/readyz`)).status).toBe(200)
})
