// The payload store on real folders, and on a file system that is too small.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openFilePayloadStore } from '../../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../../payloads/payload-store.js'
import { smallDisk } from '../../testkit/small-disk.js'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

async function collect(chunks: AsyncIterable<Uint8Array>) {
  const all: Uint8Array[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all)
}

let folder: string
let store: PayloadStore
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'payloads-'))
  store = await openFilePayloadStore(folder)
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const temporaryFiles = () => readdir(join(folder, 'tmp'))

describe('put', () => {
  test('a payload lies under its hash and comes back as it went in', async () => {
    const bytes = randomBytes(100_000)
    const result = await store.put([bytes.subarray(0, 33_333), bytes.subarray(33_333)])
    expect(result).toEqual({ hash: sha256(bytes), bytes: 100_000, written: true })
    expect(store.path(result.hash)).toBe(join(folder, result.hash.slice(0, 2), result.hash))
    expect(Buffer.from(await store.get(result.hash)).equals(bytes)).toBe(true)
    expect(await temporaryFiles()).toEqual([])
  })

  test('a payload larger than what is held in memory is streamed', async () => {
    const chunk = randomBytes(1024 * 1024)
    const result = await store.put(Array.from({ length: 9 }, () => chunk))
    expect(result.bytes).toBe(9 * 1024 * 1024)
    expect(await store.verify(result.hash)).toEqual({ hash: result.hash, bytes: result.bytes })
    const again = await store.put(Array.from({ length: 9 }, () => chunk))
    expect(again.written).toBe(false)
    expect(await temporaryFiles()).toEqual([])
  })

  test('an existing payload is not written again', async () => {
    const { hash } = await store.put([Buffer.from('twice')])
    const long = new Date(2001, 1, 1)
    await utimes(store.path(hash), long, long)
    expect((await store.put([Buffer.from('twice')])).written).toBe(false)
    expect((await stat(store.path(hash))).mtimeMs).toBe(long.getTime())
  })

  test('the empty payload is a payload', async () => {
    const { hash } = await store.put([])
    expect(await store.size(hash)).toBe(0)
  })

  test('two writers of one payload at once both succeed', async () => {
    const bytes = randomBytes(6 * 1024 * 1024)
    const other = await openFilePayloadStore(folder)
    const results = await Promise.all([store.put([bytes]), other.put([bytes]), store.put([bytes])])
    expect(new Set(results.map(r => r.hash))).toEqual(new Set([sha256(bytes)]))
    expect(await store.verify(sha256(bytes))).toEqual({ hash: sha256(bytes), bytes: bytes.length })
    expect(await temporaryFiles()).toEqual([])
  })

  test('a source that throws leaves nothing', async () => {
    const failing = (async function* () {
      for (let i = 0; i < 8; i++) yield randomBytes(1024 * 1024)
      throw new Error('cut')
    })()
    await expect(store.put(failing)).rejects.toThrow('cut')
    expect(await temporaryFiles()).toEqual([])
    expect(await collectHashes()).toEqual([])
  })

  test('an aborted put leaves nothing and says CANCELLED', async () => {
    const abort = new AbortController()
    const chunks = (async function* () {
      for (let i = 0; ; i++) {
        if (i === 7) abort.abort()
        yield randomBytes(1024 * 1024)
      }
    })()
    await expect(store.put(chunks, abort.signal)).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(await temporaryFiles()).toEqual([])
  })

  test('a payload cut short from outside is written anew', async () => {
    const { hash } = await store.put([Buffer.from('whole payload')])
    await writeFile(store.path(hash), 'who')
    expect((await store.put([Buffer.from('whole payload')])).written).toBe(true)
    expect(await store.size(hash)).toBe(13)
  })
})

async function collectHashes() {
  const hashes = []
  for await (const { hash } of store.list()) hashes.push(hash)
  return hashes
}

describe('batch', () => {
  test('payloads appear together at commit', async () => {
    const batch = store.batch()
    const results = await Promise.all(
      Array.from({ length: 200 }, (_, i) => batch.putBytes(Buffer.from(`payload ${i}`))),
    )
    expect(await collectHashes()).toEqual([])
    await batch.commit()
    expect((await collectHashes()).sort()).toEqual(results.map(r => r.hash).sort())
    expect(await temporaryFiles()).toEqual([])
  })

  test('the same bytes twice in one batch are one payload', async () => {
    const batch = store.batch()
    const results = await Promise.all([0, 1, 2].map(() => batch.putBytes(Buffer.from('same'))))
    expect(results.filter(r => r.written)).toHaveLength(1)
    await batch.commit()
    expect(await collectHashes()).toHaveLength(1)
  })

  test('rollback leaves nothing', async () => {
    const batch = store.batch()
    await batch.putBytes(Buffer.from('never'))
    await batch.rollback()
    expect(await collectHashes()).toEqual([])
    expect(await temporaryFiles()).toEqual([])
  })
})

describe('reading', () => {
  test('a range gives just those bytes', async () => {
    const bytes = randomBytes(3 * 1024 * 1024)
    const { hash } = await store.put([bytes])
    const part = await collect(store.open(hash, 1_000_001, 1_500_000))
    expect(part.equals(bytes.subarray(1_000_001, 2_500_001))).toBe(true)
  })

  test('a range beyond the end is PAYLOAD_CORRUPT', async () => {
    const { hash } = await store.put([Buffer.from('short')])
    await expect(collect(store.open(hash, 0, 6))).rejects.toMatchObject({ code: 'PAYLOAD_CORRUPT' })
  })

  test('an absent payload is PAYLOAD_MISSING', async () => {
    const hash = sha256(Buffer.from('absent'))
    await expect(store.get(hash)).rejects.toMatchObject({ code: 'PAYLOAD_MISSING' })
    await expect(store.size(hash)).rejects.toMatchObject({ code: 'PAYLOAD_MISSING' })
    expect(await store.has(hash)).toBe(false)
  })

  test('a name that is no hash cannot leave the folder', () => {
    expect(() => store.path('../../etc/passwd')).toThrow(/not a payload hash/)
  })

  test('a changed byte shows in verify', async () => {
    const { hash } = await store.put([Buffer.from('right')])
    await writeFile(store.path(hash), 'wrong')
    expect((await store.verify(hash)).hash).toBe(sha256(Buffer.from('wrong')))
  })
})

describe('temporary files', () => {
  test('those of dead processes go, those of living ones stay unless nobody else writes', async () => {
    const dead = join(folder, 'tmp', '999999999-x')
    const living = join(folder, 'tmp', `${process.ppid}-x`)
    await writeFile(dead, '')
    await writeFile(living, '')
    expect(await store.removeTemporary()).toBe(1)
    expect(await temporaryFiles()).toEqual([`${process.ppid}-x`])
    expect(await store.removeTemporary(true)).toBe(1)
    expect(await temporaryFiles()).toEqual([])
  })
})

test('a full disk is DISK_FULL, leaves nothing, and a smaller payload still fits', async context => {
  const disk = await smallDisk(2)
  if (!disk) return context.skip('mounting a tmpfs needs root')
  try {
    const small = await openFilePayloadStore(join(disk.path, 'payloads'))
    for (const size of [3, 6]) {
      const chunks = Array.from({ length: size }, () => randomBytes(1024 * 1024))
      await expect(small.put(chunks)).rejects.toMatchObject({ code: 'DISK_FULL' })
    }
    const batch = small.batch()
    const puts = [0, 1, 2, 3].map(() => batch.putBytes(randomBytes(1024 * 1024)))
    const failed = (await Promise.allSettled(puts)).filter(r => r.status === 'rejected')
    expect(failed.length).toBeGreaterThan(0)
    await batch.rollback()
    expect(await readdir(join(disk.path, 'payloads', 'tmp'))).toEqual([])
    const { hash } = await small.put([Buffer.from('fits')])
    expect((await readFile(small.path(hash))).toString()).toBe('fits')
  } finally {
    await disk.remove()
  }
})

test('opening makes the folder', async () => {
  const nested = join(folder, 'a', 'b')
  await openFilePayloadStore(nested)
  await mkdir(join(nested, 'tmp'), { recursive: true })
  expect((await stat(join(nested, 'tmp'))).isDirectory()).toBe(true)
})
