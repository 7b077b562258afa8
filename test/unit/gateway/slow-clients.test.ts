// Clients that subscribe and do not read: what they cost stays bounded, and they are let go.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import WebSocket from 'ws'
import { startGraphqlGateway } from '../../../gateway/graphql-gateway.js'
import { localDataSource } from '../../../gateway/local-data-source.js'
import { gatewayMetrics } from '../../../gateway/metrics.js'
import { type GatewayServer, startServer } from '../../../gateway/server.js'
import { type FixtureContext, twoSubgraphs } from './two-subgraphs.js'

const log = pino({ level: 'silent' })
const fixture = twoSubgraphs()
/** 64 kB each, 320 MB together. */
const events = 5000
const query = 'subscription { jobProgress(id: "7") { completed blob } }'
let server: GatewayServer

beforeAll(async () => {
  const metrics = gatewayMetrics()
  const gateway = await startGraphqlGateway<FixtureContext>({
    supergraphSdl: fixture.supergraphSdl,
    sources: new Map([...fixture.schemas].map(([name, schema]) => [name, localDataSource(schema, log)])),
    log,
  })
  server = await startServer<FixtureContext>(
    { host: '127.0.0.1', port: 0 },
    {
      gateway,
      metrics,
      log,
      newContext: fixture.newContext,
      checkReady: async () => {},
      dataFolder: tmpdir(),
      finishedExport: async () => undefined,
      webSocketLimits: { keepAliveMs: 500 },
    },
  )
})
afterAll(() => server?.drain())
afterEach(() => fixture.finish())

/** Pushes all events and says how many the server has taken from the source a little later. */
async function taken(): Promise<number> {
  const before = fixture.pulled()
  for (let i = 1; i <= events; i++) fixture.publish(i)
  await new Promise(resolve => setTimeout(resolve, 300))
  return fixture.pulled() - before
}

test('a WebSocket client that does not read stops its source, and is ended when it answers no ping', async () => {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
  await once(socket, 'open')
  socket.send(JSON.stringify({ type: 'connection_init' }))
  await once(socket, 'message')
  socket.send(JSON.stringify({ type: 'subscribe', id: '1', payload: { query } }))
  await once(socket, 'message')
  expect(fixture.open()).toBe(1)
  socket.pause()
  // What the kernel's socket buffers hold: some megabytes.
  expect(await taken()).toBeLessThan(events / 10)
  await expect.poll(fixture.open, { timeout: 5000 }).toBe(0)
  socket.terminate()
})

test('a client of server-sent events that does not read stops its source, and closes it when it leaves', async () => {
  const socket = await sseRequest()
  expect(fixture.open()).toBe(1)
  socket.pause()
  expect(await taken()).toBeLessThan(events / 10)
  socket.destroy()
  await expect.poll(fixture.open, { timeout: 5000 }).toBe(0)
})

async function sseRequest(): Promise<Socket> {
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  const body = JSON.stringify({ query })
  socket.write(
    `POST /graphql HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  )
  await once(socket, 'data')
  await expect.poll(fixture.open).toBe(1)
  return socket
}

test('hundreds of streams that come and go leave nothing open', async () => {
  for (let round = 0; round < 10; round++) {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
    await once(socket, 'open')
    socket.send(JSON.stringify({ type: 'connection_init' }))
    await once(socket, 'message')
    for (let id = 0; id < 50; id++)
      socket.send(
        JSON.stringify({
          type: 'subscribe',
          id: String(id),
          payload: { query: 'subscription { jobProgress(id: "7") { completed } }' },
        }),
      )
    await expect.poll(fixture.open).toBe(50)
    // Half are completed by the client, the others go with the connection.
    for (let id = 0; id < 25; id++) socket.send(JSON.stringify({ type: 'complete', id: String(id) }))
    await expect.poll(fixture.open).toBe(25)
    socket.terminate()
    await expect.poll(fixture.open).toBe(0)
  }
})

test('bytes that are no protocol end the connection with a reason, not the server', async () => {
  for (const message of ['{', '[]', '{"type":"subscribe"}', '{"type":"nope","id":1}', 'x'.repeat(2 << 20)]) {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
    await once(socket, 'open')
    socket.send(message)
    const [code] = await once(socket, 'close')
    expect([1009, 4400, 4401, 4408]).toContain(code)
  }
  expect((await fetch(`${server.url}/livez`)).status).toBe(200)
})
