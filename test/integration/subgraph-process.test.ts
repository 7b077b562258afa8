// Subgraphs in processes of their own: compiled, over HTTP and graphql-transport-ws, beside the process that runs the jobs.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { createClient } from 'graphql-ws'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { defaultTenantId } from '../../db/scope.js'
import { readEnv } from '../../lib/env.js'
import { toGlobalId } from '../../lib/ids.js'
import { makeLogger } from '../../lib/log.js'
import { compiledFile } from '../../lib/project.js'
import { enqueue } from '../../subgraphs/build/enqueue.js'
import { type ServedSubgraph, serveSubgraph } from '../../subgraphs/build/serve.js'
import { subgraph as compute } from '../../subgraphs/compute/subgraph.js'
import { type Answer, addModel, openSubgraphPlatform, type SubgraphPlatform } from '../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
let served: ServedSubgraph
beforeAll(async () => {
  kit = await openSubgraphPlatform()
  const env = { ...readEnv({ HARTONOMOUS_DATA: kit.platform.env.HARTONOMOUS_DATA }), PORT: 0 }
  served = await serveSubgraph(compute, env, makeLogger('test', 'silent'))
})
afterAll(async () => {
  await served.close()
  await kit.close()
})

async function post(port: number, body: unknown): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${port}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return response.json()
}
const addJob = () =>
  kit.platform.db.tx(em => enqueue(em, kit.platform, { tenantId: defaultTenantId, type: 'storage.verify', input: {} }))

/** Starts a compiled subgraph; resolves with the port its log names. */
async function start(name: string): Promise<{ child: ChildProcess; port: number }> {
  const child = spawn(process.execPath, [compiledFile(`subgraphs/${name}/main.js`)], {
    env: { ...process.env, LOG_LEVEL: 'info', PORT: '0', HARTONOMOUS_DATA: kit.platform.env.HARTONOMOUS_DATA },
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  for await (const line of createInterface({ input: child.stderr! })) {
    const port = /"port":(\d+)/.exec(line)?.[1]
    if (port) return { child, port: Number(port) }
  }
  throw new Error(`${name} ended with ${child.exitCode}`)
}

test.each(['models', 'compute', 'node'])('the compiled %s subgraph answers, and ends on SIGTERM', async name => {
  const model = await addModel(kit.platform, 'shared')
  const { child, port } = await start(name)
  const field = {
    models: 'models { nodes { name } }',
    compute: 'devices { id }',
    node: `node(id: "${toGlobalId('Model', model.id)}") { __typename }`,
  }[name]
  const { data, errors } = await post(port, { query: `{ _service { sdl } ${field} }` })
  expect(errors).toBeUndefined()
  expect(data._service.sdl).toContain('type ')
  expect(JSON.stringify(data)).toMatch(/"name":"shared"|"devices":\[\]|"__typename":"Model"/)
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})

test('a request that is no operation, or a wrong one, is refused with its code', async () => {
  const code = async (body: unknown) => (await post(served.port, body)).errors[0].extensions.code
  expect(await code({})).toBe('BAD_REQUEST')
  expect(await code({ query: '{' })).toBe('GRAPHQL_PARSE_FAILED')
  expect(await code({ query: '{ nothing }' })).toBe('GRAPHQL_VALIDATION_FAILED')
  expect(await code({ query: '{ jobs(first: 1000) { totalCount } }' })).toBe('BAD_USER_INPUT')
})

test('a job that another process runs is followed to its end, and can be cancelled from here', async () => {
  const client = createClient({ url: `ws://127.0.0.1:${served.port}/graphql`, webSocketImpl: WebSocket })
  const follow = (id: string) =>
    client.iterate<Answer>({ query: `subscription { jobProgress(id: "${toGlobalId('Job', id)}") { state } }` })
  const job = await addJob()
  const stream = follow(job.id)
  expect((await stream.next()).value.data.jobProgress).toEqual({ state: 'QUEUED' })
  await kit.store.claim('io', 'io')
  expect((await stream.next()).value.data.jobProgress).toEqual({ state: 'RUNNING' })
  await kit.store.succeed(job.id, { payloads: 0, bytes: 0, corrupt: [] }, null, 0)
  expect((await stream.next()).value.data.jobProgress).toEqual({ state: 'SUCCEEDED' })
  expect((await stream.next()).done).toBe(true)

  const second = await addJob()
  await kit.store.claim('io', 'io')
  const cancelled = post(served.port, {
    query: `mutation { cancelJob(input: { jobId: "${toGlobalId('Job', second.id)}" }) { job { state } userErrors { code } } }`,
  })
  // What the process that runs the job does at its next poll.
  while (!(await kit.store.cancelRequests()).includes(second.id)) await new Promise(resolve => setTimeout(resolve, 20))
  await kit.store.cancel(second.id, null, 0)
  expect((await cancelled).data.cancelJob).toEqual({ job: { state: 'CANCELLED' }, userErrors: [] })

  const refused = await follow('00000000-0000-7000-8000-00000000dead').next()
  expect(refused.value.errors).toMatchObject([{ message: 'No job has this id', extensions: { code: 'NOT_FOUND' } }])
  await client.dispose()
})
