// The HTTP data source against servers that misbehave.
import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { afterEach, expect, test } from 'vitest'
import { remoteDataSource } from '../../../gateway/remote-data-source.js'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function source(listener: RequestListener, timeoutMs = 500) {
  const server: Server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const made = remoteDataSource('models', `http://127.0.0.1:${port}/graphql`, { log: { warn: () => {} }, timeoutMs })
  closers.push(async () => {
    await made.close()
    server.closeAllConnections()
    server.close()
  })
  const ask = (query: string) =>
    made.process({ request: { query }, context: {} } as unknown as Parameters<typeof made.process>[0])
  return { ask, server }
}
const unavailable = { extensions: { code: 'SUBGRAPH_UNAVAILABLE' } }

test('a query whose connection is reset is sent once more', async () => {
  let calls = 0
  const { ask } = await source((request, response) => {
    if (++calls === 1) return request.socket.destroy()
    response.end('{"data":{"a":1}}')
  })
  expect(await ask('query { a }')).toEqual({ data: { a: 1 } })
})
test('a mutation whose connection is reset is not sent again', async () => {
  let calls = 0
  const { ask } = await source(request => {
    calls++
    request.socket.destroy()
  })
  await expect(ask('mutation { a }')).rejects.toMatchObject(unavailable)
  expect(calls).toBe(1)
})
test('a query that is not answered in time is unavailable', async () => {
  const { ask } = await source(() => {}, 200)
  await expect(ask('{ a }')).rejects.toMatchObject(unavailable)
})
test('an answer that is not JSON is unavailable, with its status', async () => {
  const { ask } = await source((_, response) => response.writeHead(502).end('<html>bad gateway</html>'))
  await expect(ask('{ a }')).rejects.toThrow('models subgraph did not answer (HTTP 502, not JSON)')
})
test('nobody at the address is unavailable', async () => {
  const { ask, server } = await source(() => {})
  server.close()
  await once(server, 'close')
  await expect(ask('{ a }')).rejects.toMatchObject(unavailable)
})
