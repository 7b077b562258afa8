// Sources over HTTP against a real server on this machine: resuming, cutting, lying, redirecting; and the hub's two calls.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { claimDownloadFolder, removeStaleDownloads } from '../../../../compute/sources/download-folder.js'
import { openFile } from '../../../../compute/sources/open-file.js'
import { openSource } from '../../../../compute/sources/open-source.js'
import { checkUrl, isPublicAddress } from '../../../../compute/sources/public-addresses.js'
import { parseHubReference } from '../../../../compute/sources/remote-source.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { ggufBytes, soundSafetensors } from '../../../testkit/weight-files.js'

type Answer = (request: IncomingMessage, response: ServerResponse) => void

let server: Server
let origin: string
let answer: Answer
let requests: IncomingMessage[]
let context: TestHandlerContext

beforeEach(async () => {
  requests = []
  server = createServer((request, response) => {
    requests.push(request)
    answer(request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  context = await handlerContext({
    HARTONOMOUS_ALLOW_PRIVATE_SOURCES: 'true',
    HARTONOMOUS_HF_ENDPOINT: origin,
    HF_TOKEN: 'hf_secret',
  })
})
afterEach(async () => {
  server.closeAllConnections()
  await new Promise(resolve => server.close(resolve))
  await context.dispose()
})

const model = ggufBytes()
const etag = '"one"'

/** Serves bytes with ranges; `limit` cuts the connection after so many bytes of each answer. */
function serve(bytes: Buffer, options: { limit?: number; tag?: string; ranges?: boolean } = {}): Answer {
  const { limit = Number.POSITIVE_INFINITY, tag = etag, ranges = true } = options
  return (request, response) => {
    const match =
      ranges && request.headers['if-range'] === tag ? /^bytes=(\d+)-$/.exec(request.headers.range ?? '') : null
    const from = match ? Number(match[1]) : 0
    const body = bytes.subarray(from)
    response.writeHead(match ? 206 : 200, {
      etag: tag,
      'content-length': body.length,
      ...(match ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}),
    })
    if (body.length <= limit) return response.end(body)
    // Time for what was sent to be read, also on a busy machine: a reset takes away what was not.
    response.write(body.subarray(0, limit), () => setTimeout(() => response.destroy(), 250))
  }
}

const downloads = async () => {
  const root = join(context.dataFolder, 'downloads')
  return existsSync(root) ? await readdir(root, { recursive: true }) : []
}

test('a file comes over HTTP and its download is removed afterwards', async () => {
  answer = serve(model)
  const source = await openSource(`${origin}/m.gguf?download=true`, undefined, context)
  expect(source.model.format).toBe('gguf')
  expect((await readFile(source.model.weights[0]!.path)).equals(model)).toBe(true)
  expect(context.reports.at(-1)).toMatchObject({ stage: 'download', completed: model.length, total: model.length })
  await source.close()
  expect(await downloads()).toEqual([])
})

test('a connection that breaks again and again is resumed where it broke', async () => {
  answer = serve(model, { limit: 200 })
  const source = await openSource(`${origin}/m.gguf`, undefined, context)
  expect((await readFile(source.model.weights[0]!.path)).equals(model)).toBe(true)
  expect(requests.length).toBe(Math.ceil(model.length / 200))
  expect(requests[1]?.headers).toMatchObject({ range: 'bytes=200-', 'if-range': etag })
  await source.close()
})

test('a source that stops half-way is SOURCE_INTERRUPTED, keeps its part, and the next try goes on from there', async () => {
  const cut = serve(model, { limit: 300 })
  answer = (request, response) => (requests.length === 1 ? cut(request, response) : response.destroy())
  await expect(openSource(`${origin}/m.gguf`, undefined, context)).rejects.toMatchObject({
    code: 'SOURCE_INTERRUPTED',
    retryable: true,
  })
  expect((await downloads()).filter(name => name.endsWith('.part'))).toHaveLength(1)
  requests = []
  answer = serve(model)
  const source = await openSource(`${origin}/m.gguf`, undefined, context)
  expect(requests.map(r => r.headers.range)).toEqual(['bytes=300-'])
  expect((await readFile(source.model.weights[0]!.path)).equals(model)).toBe(true)
  await source.close()
})

test('a file that changed between two tries is fetched anew', async () => {
  const cut = serve(Buffer.alloc(5000, 1), { limit: 300, tag: '"old"' })
  answer = (request, response) =>
    requests.length === 1 ? cut(request, response) : serve(model, { tag: '"new"' })(request, response)
  const source = await openSource(`${origin}/m.gguf`, undefined, context)
  expect((await readFile(source.model.weights[0]!.path)).equals(model)).toBe(true)
  await source.close()
})

test('a server without ranges that always breaks at the same place is given up', async () => {
  answer = serve(model, { limit: 100, ranges: false })
  await expect(openSource(`${origin}/m.gguf`, undefined, context)).rejects.toMatchObject({ code: 'SOURCE_INTERRUPTED' })
  expect(requests.length).toBeLessThan(10)
})

test('a cancelled download stops and keeps its part', async () => {
  const abort = new AbortController()
  answer = (_request, response) => {
    response.writeHead(200, { etag, 'content-length': 10_000 })
    response.write(Buffer.alloc(100), () => setTimeout(() => abort.abort(), 50))
  }
  await expect(openSource(`${origin}/m.gguf`, undefined, context.withSignal(abort.signal))).rejects.toThrow()
  expect((await downloads()).filter(name => name.endsWith('.part'))).toHaveLength(1)
  expect((await downloads()).filter(name => name.endsWith('.lock'))).toEqual([])
})

test('a file larger than allowed is refused by its stated and by its real length', async () => {
  const small = { ...context, env: { ...context.env, HARTONOMOUS_MAX_SOURCE_BYTES: 100 } }
  answer = serve(model)
  await expect(openSource(`${origin}/m.gguf`, undefined, small)).rejects.toMatchObject({ code: 'SOURCE_REFUSED' })
  answer = (_request, response) => response.end(model)
  await expect(openSource(`${origin}/m.gguf`, undefined, small)).rejects.toMatchObject({ code: 'SOURCE_REFUSED' })
  expect(await downloads()).toEqual([])
})

test('a missing file is SOURCE_NOT_FOUND, asked for once', async () => {
  answer = (_request, response) => response.writeHead(404).end()
  await expect(openSource(`${origin}/m.gguf`, undefined, context)).rejects.toMatchObject({ code: 'SOURCE_NOT_FOUND' })
  expect(requests).toHaveLength(1)
})

test('configuration beside a SafeTensors file comes along', async () => {
  answer = (request, response) => {
    if (request.url === '/x/model.safetensors') return serve(soundSafetensors())(request, response)
    if (request.url === '/x/config.json') return response.end('{"model_type":"llama"}')
    response.writeHead(404).end()
  }
  const source = await openSource(`${origin}/x/model.safetensors`, undefined, context)
  expect(source.model.auxiliary.map(f => f.name)).toEqual(['config.json'])
  await source.close()
})

describe('hf:', () => {
  const commit = 'a'.repeat(40)
  const files: Record<string, Buffer> = {
    'model-1.safetensors': soundSafetensors(),
    'model.safetensors.index.json': Buffer.from('{"weight_map":{"w":"model-1.safetensors"}}'),
    'config.json': Buffer.from('{"model_type":"llama"}'),
    'onnx/model.onnx': Buffer.from('x'),
  }
  const hub: Answer = (request, response) => {
    if (request.url === '/api/models/own/tiny/revision/main?blobs=true') {
      const siblings = Object.entries(files).map(([rfilename, bytes]) => ({ rfilename, size: bytes.length }))
      return response.end(JSON.stringify({ sha: commit, siblings }))
    }
    const name = request.url?.startsWith(`/own/tiny/resolve/${commit}/`) ? request.url.split('/').at(-1)! : ''
    const bytes = files[name]
    if (!bytes) return response.writeHead(404).end()
    serve(bytes)(request, response)
  }

  test('a repository is listed, pinned to its commit and fetched, without its sub-folders', async () => {
    answer = hub
    const source = await openSource('hf:own/tiny', undefined, context)
    expect(source.model.weights.map(f => f.name)).toEqual(['model-1.safetensors'])
    expect(source.model.auxiliary.map(f => f.name)).toEqual(['model.safetensors.index.json', 'config.json'])
    expect(new Set(requests.map(r => r.headers.authorization))).toEqual(new Set(['Bearer hf_secret']))
    expect(context.reports.at(-1)).toMatchObject({ total: soundSafetensors().length })
    await source.close()
    expect(await downloads()).toEqual([])
  })

  test('the token does not follow a redirect to another host', async () => {
    const elsewhere: (string | undefined)[] = []
    const other = createServer((request, response) => {
      elsewhere.push(request.headers.authorization)
      serve(soundSafetensors())(request, response)
    })
    await new Promise<void>(resolve => other.listen(0, '127.0.0.1', resolve))
    answer = (request, response) =>
      request.url?.endsWith('model-1.safetensors')
        ? response.writeHead(302, { location: `http://localhost:${(other.address() as AddressInfo).port}/blob` }).end()
        : hub(request, response)
    const source = await openSource('hf:own/tiny', undefined, context)
    expect(elsewhere).toEqual([undefined])
    await source.close()
    other.closeAllConnections()
    await new Promise(resolve => other.close(resolve))
  })

  test('an unknown repository is SOURCE_NOT_FOUND', async () => {
    answer = hub
    await expect(openSource('hf:own/none', undefined, context)).rejects.toMatchObject({ code: 'SOURCE_NOT_FOUND' })
  })

  test('revision and file can be named in the source', () => {
    expect(parseHubReference('hf:a/b', undefined)).toEqual({ repository: 'a/b', file: undefined, revision: 'main' })
    expect(parseHubReference('hf:a/b/c.gguf@v1', undefined)).toEqual({
      repository: 'a/b',
      file: 'c.gguf',
      revision: 'v1',
    })
    expect(parseHubReference('hf:a/b', 'refs/pr/1').revision).toBe('refs/pr/1')
    for (const bad of ['hf:a', 'hf:../b', 'hf:a/b/c/d', 'hf:a/b@']) {
      expect(() => parseHubReference(bad, undefined), bad).toThrow(/expected hf:owner/)
    }
    expect(() => parseHubReference('hf:a/b@x', 'y')).toThrow(/revision x/)
  })
})

test.each([
  [
    'a name that does not exist',
    'https://no-such-host.invalid/m.gguf',
    /^cannot reach no-such-host\.invalid: E(NOTFOUND|AI_AGAIN)/,
  ],
  ['a port that nobody listens on', 'http://127.0.0.1:1/m.gguf', /^cannot reach 127\.0\.0\.1:1: ECONNREFUSED/],
])(
  '%s is said to be unreachable within seconds, its attempts are reported, nothing is to be retried',
  async (_, source, message) => {
    const started = performance.now()
    await expect(openSource(source, undefined, context)).rejects.toMatchObject({
      code: 'SOURCE_NOT_FOUND',
      message: expect.stringMatching(message),
      retryable: false,
    })
    expect(performance.now() - started).toBeLessThan(6000)
    expect(context.reports[0]).toEqual({ stage: 'connect', completed: 1, total: 5, unit: 'attempts' })
    expect(context.reports.map(r => r.completed)).toContain(2)
    expect(await downloads()).toEqual([])
  },
)

describe('private networks', () => {
  const closed = () => ({ ...context, env: { ...context.env, HARTONOMOUS_ALLOW_PRIVATE_SOURCES: false } })

  test('a name that resolves to this machine is refused before a byte is sent', async () => {
    answer = serve(model)
    const port = new URL(origin).port
    await expect(openSource(`https://localhost:${port}/m.gguf`, undefined, closed())).rejects.toMatchObject({
      code: 'SOURCE_REFUSED',
      message: expect.stringMatching(/private address (127\.0\.0\.1|::1); HARTONOMOUS_ALLOW_PRIVATE_SOURCES/),
    })
    expect(requests).toHaveLength(0)
  })

  test('only public addresses count as public', () => {
    for (const address of [
      '127.0.0.1',
      '10.1.2.3',
      '169.254.169.254',
      '192.168.0.1',
      '172.20.0.1',
      '100.64.0.1',
      '0.0.0.0',
      '::1',
      '::',
      'fe80::1',
      'fd00::1',
      '::ffff:127.0.0.1',
      '64:ff9b::7f00:1',
      '224.0.0.1',
    ]) {
      expect(isPublicAddress(address), address).toBe(false)
    }
    for (const address of ['93.184.216.34', '2606:2800:220:1:248:1893:25c8:1946'])
      expect(isPublicAddress(address)).toBe(true)
  })

  test('addresses with passwords, other spellings of private ones and other schemes are refused', () => {
    for (const url of [
      'https://user:pw@example.com/m.gguf',
      'https://2130706433/m.gguf',
      'https://0x7f.1/m.gguf',
      'https://[::ffff:10.0.0.1]/m',
      'http://example.com/m',
      'https://',
    ]) {
      expect(() => checkUrl(url, false), url).toThrow(/private address|password|only https|not a valid/)
    }
  })
})

test('two downloads of one address at once do not share a folder', async () => {
  const first = await claimDownloadFolder(context.dataFolder, 'https://x/y')
  const second = await claimDownloadFolder(context.dataFolder, 'https://x/y')
  expect(second.path).not.toBe(first.path)
  await second.release(false)
  await first.release(false)
  const third = await claimDownloadFolder(context.dataFolder, 'https://x/y')
  expect(third.path).toBe(first.path)
  await third.release(true)
})

test('a lock that a dead process left is taken over, and abandoned downloads go after a week', async () => {
  const folder = await claimDownloadFolder(context.dataFolder, 'https://x/y')
  await folder.release(false)
  await writeFile(join(folder.path, '.lock'), '999999999')
  const again = await claimDownloadFolder(context.dataFolder, 'https://x/y')
  expect(again.path).toBe(folder.path)
  await again.release(false)
  expect(await removeStaleDownloads(context.dataFolder)).toMatchObject({ removed: 0 })
  expect(await removeStaleDownloads(context.dataFolder, Date.now() + 8 * 24 * 3600 * 1000)).toMatchObject({
    removed: 1,
  })
})

test('a file that is no model is opened by path or address', async () => {
  answer = serve(Buffer.from('{"task":"x"}\n'))
  const remote = await openFile(`${origin}/set.jsonl`, context, 1000)
  expect(
    createHash('sha256')
      .update(await readFile(remote.path))
      .digest('hex'),
  ).toBe(createHash('sha256').update('{"task":"x"}\n').digest('hex'))
  await remote.done()
  expect(await downloads()).toEqual([])
  await expect(openFile('/no/such/file.jsonl', context, 1000)).rejects.toMatchObject({ code: 'SOURCE_NOT_FOUND' })
  await expect(openFile(`${origin}/set.jsonl`, context, 5)).rejects.toMatchObject({ code: 'SOURCE_REFUSED' })
})
