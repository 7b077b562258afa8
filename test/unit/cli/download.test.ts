// Downloads of exports over a connection that breaks: gone on with by range, whole in the end, and never with other bytes.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fastify, { type FastifyInstance } from 'fastify'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { downloadFiles, type ExportedFile } from '../../../cli/download.js'
import { exportDownloads } from '../../../gateway/exports.js'

const jobId = '00000000-0000-7000-8000-000000000001'
const bytes = randomBytes(3_000_000)
const sha256 = createHash('sha256').update(bytes).digest('hex')
const file: ExportedFile = {
  ...{ path: `${jobId}/onnx/weights`, url: `/exports/${jobId}/onnx/weights`, sizeBytes: bytes.length, sha256 },
}

let folder: string
let app: FastifyInstance
let proxy: Server
let address: string
/** Of every request that came: its range, and the status of the answer. */
let seen: { range: string | undefined; status: number | undefined }[]
/** After how many bytes of an answer the connection breaks, request by request; later ones are whole. */
let cuts: number[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'download-'))
  const path = join(folder, 'data', 'exports', file.path)
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, bytes)
  app = fastify()
  app.get(
    '/exports/*',
    exportDownloads(join(folder, 'data'), async id => (id === jobId ? [file] : undefined)),
  )
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })
  ;[seen, cuts] = [[], []]
  proxy = createServer((incoming, outgoing) => {
    request(`${origin}${incoming.url}`, { method: incoming.method, headers: incoming.headers }, answer => {
      seen.push({ range: incoming.headers.range, status: answer.statusCode })
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers)
      let left = cuts.shift() ?? Number.POSITIVE_INFINITY
      answer.on('data', (chunk: Buffer) => {
        if (left > 0) outgoing.write(chunk.subarray(0, left))
        left -= chunk.length
        if (left <= 0) setTimeout(() => outgoing.destroy(), 250)
      })
      answer.on('end', () => left > 0 && outgoing.end())
    }).end()
  })
  await new Promise<void>(resolve => proxy.listen(0, '127.0.0.1', resolve))
  address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
})
afterEach(async () => {
  proxy.closeAllConnections()
  await new Promise(resolve => proxy.close(resolve))
  await app.close()
  await rm(folder, { recursive: true, force: true })
})

const to = () => join(folder, 'to')

test('a connection that breaks twice is gone on with where it broke, byte for byte', async () => {
  cuts = [1_000_000, 500_000]
  const [saved] = await downloadFiles(address, [file], to())
  expect((await readFile(saved!)).equals(bytes)).toBe(true)
  expect(saved).toBe(join(to(), 'onnx', 'weights'))
  expect(seen.map(s => s.status)).toEqual([200, 206, 206])
  const from = seen.map(s => Number(/bytes=(\d+)-/.exec(s.range ?? 'bytes=0-')![1]))
  expect(from[1]).toBeGreaterThan(0)
  expect(from[2]).toBeGreaterThan(from[1]!)
  expect(await readdir(join(to(), 'onnx'))).toEqual(['weights'])
})

test('a later command goes on with what an earlier one left', async () => {
  await mkdir(join(to(), 'onnx'), { recursive: true })
  await writeFile(join(to(), 'onnx', `weights.${sha256.slice(0, 16)}.part`), bytes.subarray(0, 2_999_990))
  const [saved] = await downloadFiles(address, [file], to())
  expect((await readFile(saved!)).equals(bytes)).toBe(true)
  expect(seen).toEqual([{ range: 'bytes=2999990-', status: 206 }])
})

test('what is not the export is refused and not kept', async () => {
  await mkdir(join(to(), 'onnx'), { recursive: true })
  await writeFile(join(to(), 'onnx', `weights.${sha256.slice(0, 16)}.part`), Buffer.alloc(100))
  await expect(downloadFiles(address, [file], to())).rejects.toMatchObject({ code: 'PAYLOAD_CORRUPT' })
  expect(await readdir(join(to(), 'onnx'))).toEqual([])
  await expect(downloadFiles(address, [{ ...file, path: `${jobId}/../out` }], to())).rejects.toThrow('../out')
})

test('answers carry the hash, and a range is served only of the content that If-Range names', async () => {
  const get = (headers: Record<string, string>) => fetch(`${address}${file.url}`, { headers })
  const part = await get({ range: 'bytes=5-9', 'if-range': `"${sha256}"` })
  expect([part.status, part.headers.get('etag')]).toEqual([206, `"${sha256}"`])
  expect(part.headers.get('repr-digest')).toBe(`sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`)
  expect(Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(5, 10))).toBe(true)
  const other = await get({ range: 'bytes=5-9', 'if-range': '"another"' })
  expect([other.status, (await other.arrayBuffer()).byteLength]).toEqual([200, bytes.length])
  const known = await get({ 'if-none-match': `"${sha256}"` })
  expect(known.status).toBe(304)
})

const download = (headers: Record<string, string>, method = 'GET') =>
  fetch(`${address}${file.url}`, { headers, method })
const tag = `"${sha256}"`
const before = new Date(0).toUTCString()
const later = new Date(Date.now() + 60_000).toUTCString()

test.each([
  ['the tag', { 'if-match': tag }],
  ['one tag of several', { 'if-match': `"another", ${tag}` }],
  ['any', { 'if-match': '*' }],
  ['the tag, which outweighs a time', { 'if-match': tag, 'if-unmodified-since': before }],
  ['a time after it was written', { 'if-unmodified-since': later }],
  ['no time at all', { 'if-unmodified-since': 'whenever' }],
])('a request whose condition names %s is answered whole or by range', async (_, condition) => {
  const whole = await download(condition)
  expect([whole.status, whole.headers.get('etag')]).toEqual([200, tag])
  expect(Buffer.from(await whole.arrayBuffer()).equals(bytes)).toBe(true)
  const part = await download({ ...condition, range: 'bytes=5-9' })
  expect([part.status, (await part.arrayBuffer()).byteLength]).toEqual([206, 5])
})

test.each([
  ['another tag', { 'if-match': '"another"' }, 'The export is not what If-Match names'],
  ['the tag as a weak one', { 'if-match': `W/${tag}` }, 'The export is not what If-Match names'],
  ['another tag and a good time', { 'if-match': '"a", "b"', 'if-unmodified-since': later }, 'If-Match'],
  ['a tag with an asterisk in it', { 'if-match': '"a,*,b"' }, 'If-Match'],
  ['a time before it was written', { 'if-unmodified-since': before }, 'after the time that If-Unmodified-Since names'],
])('a request whose condition names %s fails it, and says so', async (_, condition, message) => {
  const answer = await download({ ...condition, range: 'bytes=5-9' })
  expect([answer.status, answer.headers.get('etag'), answer.headers.get('repr-digest')]).toEqual([412, tag, null])
  expect(await answer.json()).toEqual({
    errors: [{ message: expect.stringContaining(message), extensions: { code: 'CONFLICT' } }],
  })
  expect((await download(condition, 'HEAD')).status).toBe(412)
})

test.each(['bytes=abc', 'bytes=5-2', 'bytes=-', 'bytes=', 'bytes=0-1,x', 'lines=1-2'])(
  'a range that is none, %s, is as if it were not there',
  async range => {
    const answer = await download({ range })
    expect([answer.status, answer.headers.get('content-range')]).toEqual([200, null])
    expect((await answer.arrayBuffer()).byteLength).toBe(bytes.length)
  },
)

test.each([
  ['bytes=5-9', 206, 5],
  ['bytes=2999990-', 206, 10],
  ['bytes=-7', 206, 7],
  ['bytes=3000000-', 416, undefined],
  ['bytes=-0', 416, undefined],
])('the range %s is answered with %i', async (range, status, length) => {
  const answer = await download({ range })
  const size = (await answer.arrayBuffer()).byteLength
  expect([answer.status, length === undefined ? undefined : size]).toEqual([status, length])
})

test('a file that was removed is not there, whatever the condition', async () => {
  await rm(join(folder, 'data', 'exports', file.path))
  const gone = await download({ 'if-match': tag })
  expect([gone.status, gone.headers.get('etag')]).toEqual([404, null])
  expect(await gone.json()).toMatchObject({ errors: [{ message: 'The export was removed' }] })
})
