// The server as clients meet it: one process, its port, its limits, its end.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createClient } from 'graphql-sse'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import { parseGlobalId } from '../../../lib/ids.js'
import { compiledFile, projectFile } from '../../../lib/project.js'
import { type GraphqlAnswer, startTestPlatform, type TestPlatform } from '../../testkit/platform.js'

let p: TestPlatform
beforeAll(async () => {
  p = await startTestPlatform()
})
afterAll(() => p?.stop())

const code = (answer: GraphqlAnswer | undefined) => answer?.errors?.[0]?.extensions?.code

/** A raw HTTP request, path and headers as given. */
const http = (path: string, headers: Record<string, string> = {}, method = 'GET', body?: string) =>
  new Promise<{ status: number; headers: Record<string, unknown>; text: string }>((resolve, reject) => {
    const { hostname, port } = new URL(p.url)
    const req = request({ hostname, port, path, method, headers }, res => {
      let text = ''
      res.setEncoding('utf8').on('data', d => {
        text += d
      })
      res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text }))
    })
    req.on('error', reject).end(body)
  })

test('the processor is a device, with an id of its own', async () => {
  const { devices } = await p.gql('{ devices { id kind name busy job { id } memoryBytes } }')
  expect(devices[0]).toMatchObject({ kind: 'CPU', busy: false, job: null })
  expect(parseGlobalId(devices[0].id)?.type).toBe('Device')
})

const progressQuery =
  'subscription($id: ID!) { jobProgress(id: $id) { state progress { completed sequence } model { name tensors(first: 1) { totalCount } } } }'

describe('subscriptions', () => {
  test('events of an ingest carry fields of another subgraph, snapshot first, final state last, over WebSocket and SSE', async () => {
    const { job } = await p.mutate('ingestModel', { source: projectFile('demo', 'model'), name: 'demo' }, 'job { id }')
    const collect = async (events: AsyncIterable<GraphqlAnswer>) => {
      const all: GraphqlAnswer[] = []
      for await (const e of events) all.push(e)
      return all
    }
    const both = await Promise.all([
      collect(p.subscribe(progressQuery, { id: job.id })),
      collect(p.sse(progressQuery, { id: job.id })),
    ])
    for (const events of both) {
      expect(events.flatMap(e => e.errors ?? [])).toEqual([])
      const jobs = events.map(e => e.data?.jobProgress)
      expect(jobs.at(-1)).toMatchObject({
        state: 'SUCCEEDED',
        model: { name: 'demo', tensors: { totalCount: expect.any(Number) } },
      })
      const sequences = jobs.map(j => j.progress?.sequence ?? 0)
      expect(sequences).toEqual([...sequences].sort((a, b) => a - b))
    }
  })
  test('queries and mutations go over WebSocket and SSE too', async () => {
    const seen: GraphqlAnswer[] = []
    for await (const e of p.subscribe('{ __typename }')) seen.push(e)
    for await (const e of p.sse('mutation { cancelJob(input: { jobId: "nope" }) { userErrors { code } } }'))
      seen.push(e)
    expect(seen).toEqual([
      { data: { __typename: 'Query' } },
      { data: { cancelJob: { userErrors: [{ code: 'NOT_FOUND' }] } } },
    ])
  })
  test('the client of graphql-sse understands the event stream', async () => {
    const client = createClient({ url: `${p.url}/graphql`, singleConnection: false, retryAttempts: 0 })
    const seen: unknown[] = []
    for await (const e of client.iterate({ query: '{ __typename }' })) seen.push(e)
    client.dispose()
    expect(seen).toEqual([{ data: { __typename: 'Query' } }])
  })
  test('a subscription over plain HTTP is refused with what to do instead', async () => {
    const answer = await p.raw('subscription { jobsChanged { id } }')
    expect(code(answer)).toBe('BAD_REQUEST')
    expect(answer.errors?.[0]?.message).toContain('text/event-stream')
  })
  test('a job that does not exist is refused with NOT_FOUND', async () => {
    for await (const e of p.subscribe(progressQuery, { id: 'nope' })) expect(code(e)).toBe('NOT_FOUND')
    for await (const e of p.sse(progressQuery, { id: 'nope' })) expect(code(e)).toBe('NOT_FOUND')
  })
  test('operations of one connection are limited', async () => {
    const socket = new WebSocket(`${p.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
    await once(socket, 'open')
    const errors: { id: string; payload: { extensions: { code: string } }[] }[] = []
    const refused = new Promise<void>(resolve =>
      socket.on('message', data => {
        const message = JSON.parse(String(data))
        if (message.type === 'error') errors.push(message)
        if (errors.length === 5) resolve()
      }),
    )
    socket.send(JSON.stringify({ type: 'connection_init' }))
    await once(socket, 'message')
    for (let i = 0; i < 105; i++)
      socket.send(
        JSON.stringify({ type: 'subscribe', id: String(i), payload: { query: 'subscription { jobsChanged { id } }' } }),
      )
    await refused
    expect(errors.map(e => [e.id, e.payload[0]?.extensions.code])).toEqual(
      [100, 101, 102, 103, 104].map(i => [String(i), 'TOO_MANY_SUBSCRIPTIONS']),
    )
    expect(await openStreams()).toBe(100)
    socket.terminate()
    await expect.poll(openStreams, { timeout: 5000 }).toBe(0)
  })
})

const openStreams = async () => {
  const { text } = await http('/metrics')
  return Number(/^hartonomous_subscriptions_open\{transport="websocket"\} (\d+)/m.exec(text)?.[1] ?? 0)
}

describe('limits', () => {
  const deep = `{ models { nodes { ${'parent { students { nodes { '.repeat(30)}id${' } } }'.repeat(30)} } } }`
  const cases: [string, string, string][] = [
    ['deep', deep, 'OPERATION_TOO_LARGE'],
    [
      'aliases',
      `{ ${Array.from({ length: 200 }, (_, i) => `a${i}: models { totalCount }`).join(' ')} }`,
      'OPERATION_TOO_LARGE',
    ],
    ['tokens', `{ ${'a '.repeat(20_000)} }`, 'OPERATION_TOO_LARGE'],
    [
      'cost',
      '{ models(first: 100) { nodes { tensors(first: 100) { nodes { sharedWith(first: 100) { nodes { id } } } } } } }',
      'OPERATION_TOO_EXPENSIVE',
    ],
    [
      'introspection of introspection',
      `{ __schema { types { ${'fields { type { '.repeat(4)} name ${'} }'.repeat(4)} } } }`,
      'GRAPHQL_VALIDATION_FAILED',
    ],
    ['syntax', '{ models { ', 'GRAPHQL_PARSE_FAILED'],
    ['unknown field', '{ nope }', 'GRAPHQL_VALIDATION_FAILED'],
    ['page', '{ models(first: 100000) { totalCount } }', 'BAD_USER_INPUT'],
    ['negative page', '{ models(last: -1) { totalCount } }', 'BAD_USER_INPUT'],
    ['both ends', '{ models(first: 1, last: 1) { totalCount } }', 'BAD_USER_INPUT'],
    ['a number of another type', '{ models(first: "ten") { totalCount } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['an id of another type', '{ model(id: 1.5) { id } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['cursor', '{ models(after: "xx") { totalCount nodes { id } } }', 'INVALID_CURSOR'],
  ]
  test.each(cases)('%s is refused alike over HTTP, WebSocket and SSE', async (_, query, expected) => {
    expect(code(await p.raw(query))).toBe(expected)
    for await (const e of p.sse(query)) expect(code(e)).toBe(expected)
    const overSocket = async () => {
      for await (const e of p.subscribe(query)) return code(e)
      return 'nothing'
    }
    // Operations that were not begun are `error` messages, which the client throws as a list.
    const refusal = (errors: unknown) => (errors as { extensions: { code: string } }[])[0]?.extensions.code
    expect(await overSocket().catch(refusal)).toBe(expected)
  })
  test.each([
    ['no body', undefined],
    ['not JSON', '{"query": '],
    ['an array', '[{"query":"{ __typename }"}]'],
    ['no query', '{}'],
    ['a query of another type', '{"query": 7}'],
    ['variables of another type', '{"query": "{ __typename }", "variables": [1]}'],
  ])('%s is a BAD_REQUEST', async (_, body) => {
    const { status, text } = await http('/graphql', { 'content-type': 'application/json' }, 'POST', body)
    expect(status).toBe(400)
    expect(code(JSON.parse(text))).toBe('BAD_REQUEST')
    expect(text).not.toMatch(/stack|node_modules/)
  })
  test('variables of wrong types are BAD_USER_INPUT and name the variable', async () => {
    const query = 'query($first: Int, $id: ID!) { models(first: $first) { totalCount } model(id: $id) { id } }'
    for (const variables of [{ first: 'ten', id: 'x' }, { first: 1, id: { a: 1 } }, { first: 1 }]) {
      const answer = await p.raw(query, variables)
      expect(code(answer)).toBe('BAD_USER_INPUT')
      expect(answer.errors?.[0]?.message).toMatch(/^Variable "\$(first|id)"/)
    }
  })
  test('what a dashboard asks for is not too expensive', async () => {
    const answer =
      await p.raw(`{ models(first: 50) { totalCount nodes { name parent { name } students(first: 10) { nodes { name } }
      capabilityScores { loss capability { name } } recipes(first: 10) { nodes { name status } } } } }`)
    expect(answer.errors).toBeUndefined()
  })
  test('other methods are told which are served', async () => {
    const { status, headers, text } = await http('/graphql', {}, 'PUT')
    expect([status, headers.allow, code(JSON.parse(text))]).toEqual([405, 'GET, POST', 'BAD_REQUEST'])
  })
  test('a hash instead of a query is told to send the query', async () => {
    const body = '{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"00"}}}'
    const { text } = await http('/graphql', { 'content-type': 'application/json' }, 'POST', body)
    expect(code(JSON.parse(text))).toBe('BAD_REQUEST')
  })
  test('a body over 1 MB is refused with 413', async () => {
    const body = JSON.stringify({ query: `{ __typename } #${'x'.repeat(1 << 20)}` })
    const { status, text } = await http('/graphql', { 'content-type': 'application/json' }, 'POST', body)
    expect(status).toBe(413)
    expect(code(JSON.parse(text))).toBe('OPERATION_TOO_LARGE')
  })
  test('queries go by GET, mutations do not', async () => {
    const get = (query: string, accept = 'application/json') =>
      http(`/graphql?query=${encodeURIComponent(query)}`, { accept })
    expect(JSON.parse((await get('{ __typename }')).text)).toEqual({ data: { __typename: 'Query' } })
    const mutation = 'mutation { cancelJob(input: { jobId: "x" }) { userErrors { code } } }'
    expect((await get(mutation)).status).toBe(405)
    expect((await get(mutation, 'text/event-stream')).text).toContain('Mutations are sent by POST')
  })
})

describe('browsers', () => {
  test.each([
    ['a page of another site', { origin: 'https://evil.example' }],
    ['a name that was made to resolve to this machine', { host: 'evil.example:4000' }],
    ['an image or script of another site', { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }],
  ])('%s is refused', async (_, headers) => {
    const { status, text } = await http('/graphql?query={__typename}', headers as unknown as Record<string, string>)
    expect(status).toBe(403)
    expect(code(JSON.parse(text))).toBe('FORBIDDEN_ORIGIN')
  })
  test('a WebSocket of another site is refused', async () => {
    const socket = new WebSocket(`${p.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws', {
      origin: 'https://evil.example',
    })
    const [error] = await once(socket, 'error')
    expect(String(error)).toContain('403')
  })
  test('the explorer is one page that loads nothing from elsewhere', async () => {
    const { status, headers, text } = await http('/graphql', { accept: 'text/html,*/*' })
    expect(status).toBe(200)
    expect(headers['content-security-policy']).toMatch(/default-src 'none'.*script-src 'sha256-.*connect-src 'self'/)
    const outside = text
      .replace(/<script>[\s\S]*?<\/script>/g, '')
      .match(/(?:src|href)\s*=\s*["']?(?:https?:)?\/\/[^"' >]+/g)
    expect(outside).toBeNull()
    expect(text).not.toMatch(/<script[^>]+src=|<link[^>]+stylesheet|@import/)
  })
})

describe('health and downloads', () => {
  test('alive, ready, measured', async () => {
    expect((await http('/livez')).status).toBe(200)
    expect((await http('/readyz')).status).toBe(200)
    const { text } = await http('/metrics')
    for (const name of [
      'hartonomous_jobs',
      'hartonomous_devices',
      'hartonomous_graphql_operation_duration_seconds',
      'process_resident_memory_bytes',
    ])
      expect(text).toContain(name)
  })
  test('downloads: only what a finished export listed, by range', async () => {
    const { model } = (await p.gql('{ models(first: 1) { nodes { id } } }')).models.nodes.map(
      (model: { id: string }) => ({ model }),
    )[0]
    const { job } = await p.mutate('exportModel', { modelId: model.id, format: 'SAFETENSORS' }, 'job { id }')
    const { output } = await p.succeeded(job.id)
    const file = output.files.find((f: { path: string }) => f.path.endsWith('config.json'))
    const path = new URL(file.url, p.url).pathname
    const whole = await http(path)
    expect(whole.status).toBe(200)
    expect(whole.headers['content-length']).toBe(String(file.sizeBytes))
    // Was 404: only GET had a route.
    for (const headers of [{}, { range: 'bytes=2-5' }] as Record<string, string>[]) {
      const head = await http(path, headers, 'HEAD')
      expect([head.status, head.text]).toEqual([200, ''])
      expect({ ...head.headers, date: '' }).toEqual({ ...whole.headers, date: '' })
    }
    expect(whole.headers).toMatchObject({ etag: `"${file.sha256}"`, 'repr-digest': expect.any(String) })
    expect((await http(`${path}x`, {}, 'HEAD')).status).toBe(404)
    const part = await http(path, { range: 'bytes=2-5' })
    expect([part.status, part.text, part.headers['content-range']]).toEqual([
      206,
      whole.text.slice(2, 6),
      `bytes 2-5/${file.sizeBytes}`,
    ])
    expect((await http(path, { range: 'bytes=999999999-' })).status).toBe(416)

    const folder = path.slice('/exports/'.length, path.lastIndexOf('/'))
    await writeFile(join(p.dataFolder, 'exports', folder, 'unlisted'), 'secret')
    await symlink('/etc/passwd', join(p.dataFolder, 'exports', folder, 'link'))
    await mkdir(join(p.dataFolder, 'exports', '00000000-0000-7000-8000-000000000000'))
    await writeFile(join(p.dataFolder, 'exports', '00000000-0000-7000-8000-000000000000', 'half'), 'half')
    for (const bad of [
      `${folder}/unlisted`,
      `${folder}/link`,
      `${folder}/../../platform.sqlite`,
      `${folder}/..%2f..%2fplatform.sqlite`,
      '../platform.sqlite',
      '%2e%2e/platform.sqlite',
      '00000000-0000-7000-8000-000000000000/half',
      `${folder}/`,
      `${folder}/config.json%00`,
      '',
    ])
      expect((await http(`/exports/${bad}`)).status, bad).toBe(404)
  })
})

describe('the end', () => {
  test('SIGTERM closes streams with their codes, answers what runs, and ends within seconds', async () => {
    const own = await startTestPlatform()
    try {
      const socket = new WebSocket(`${own.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
      await once(socket, 'open')
      socket.send(JSON.stringify({ type: 'connection_init' }))
      await once(socket, 'message')
      socket.send(
        JSON.stringify({ type: 'subscribe', id: '1', payload: { query: 'subscription { jobsChanged { id } }' } }),
      )
      const stream = own.sse('subscription { jobsChanged { id } }')
      const last = stream.next()
      await new Promise(resolve => setTimeout(resolve, 300))
      const started = Date.now()
      process.kill(own.pid, 'SIGTERM')
      const [closeCode] = await once(socket, 'close')
      expect(closeCode).toBe(1001)
      expect(code((await last).value as GraphqlAnswer)).toBe('SHUTTING_DOWN')
      await expect
        .poll(
          () =>
            fetch(`${own.url}/livez`).then(
              () => 'up',
              () => 'down',
            ),
          { timeout: 10_000 },
        )
        .toBe('down')
      expect(Date.now() - started).toBeLessThan(10_000)
    } finally {
      await own.stop()
    }
  })
  test('a second signal ends at once', async () => {
    const own = await startTestPlatform()
    const { job } = await own.mutate(
      'ingestModel',
      { source: projectFile('demo', 'model'), name: 'late' },
      'job { id }',
    )
    expect(job.id).toBeTruthy()
    const half = connect(Number(new URL(own.url).port), '127.0.0.1')
    // A request that never ends keeps the drain waiting.
    half.write(
      'POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
    )
    half.on('error', () => {})
    await new Promise(resolve => setTimeout(resolve, 200))
    process.kill(own.pid, 'SIGTERM')
    await new Promise(resolve => setTimeout(resolve, 800))
    const started = Date.now()
    process.kill(own.pid, 'SIGTERM')
    await own.stop()
    expect(Date.now() - started).toBeLessThan(2000)
  })
  test('a port in use is one sentence and exit code 1', async () => {
    const child = spawn(process.execPath, [compiledFile('gateway/main.js')], {
      env: {
        ...process.env,
        PORT: new URL(p.url).port,
        HARTONOMOUS_DATA: join(p.dataFolder, 'other'),
        LOG_LEVEL: 'info',
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let text = ''
    child.stderr.on('data', d => {
      text += d
    })
    const [exitCode] = await once(child, 'exit')
    expect(exitCode).toBe(1)
    expect(text.trim().split('\n')).toEqual([
      expect.stringMatching(/^Something else serves on 127\.0\.0\.1:\d+ already/),
    ])
  })
  test('a mode that is not built is refused at start, not ignored', async () => {
    const child = spawn(process.execPath, [compiledFile('gateway/main.js')], {
      env: { ...process.env, PORT: '0', HARTONOMOUS_DATA: join(p.dataFolder, 'other'), HARTONOMOUS_MODE: 'cluster' },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let text = ''
    child.stderr.on('data', d => {
      text += d
    })
    const [exitCode] = await once(child, 'exit')
    expect(exitCode).toBe(1)
    expect(text).toMatch(/^HARTONOMOUS_MODE=cluster is not built yet/)
  })
  test('a data folder in use is one sentence and exit code 1', async () => {
    const child = spawn(process.execPath, [compiledFile('gateway/main.js')], {
      env: { ...process.env, PORT: '0', HARTONOMOUS_DATA: p.dataFolder },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let text = ''
    child.stderr.on('data', d => {
      text += d
    })
    const [exitCode] = await once(child, 'exit')
    expect(exitCode).toBe(1)
    expect(text).toContain('another Hartonomous process uses this data folder')
  })
})

test('a client that sends half a request is not waited for', async () => {
  const { hostname, port } = new URL(p.url)
  const socket = connect(Number(port), hostname)
  socket.write(
    'POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"query"',
  )
  await new Promise(resolve => setTimeout(resolve, 200))
  socket.destroy()
  expect((await p.gql('{ __typename }')).__typename).toBe('Query')
})
