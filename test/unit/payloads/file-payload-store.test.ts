// The payload store on real folders, and on a file system that is too small.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, open, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
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

describe('ranges of a file', () => {
  const megabyte = 1024 * 1024
  /** A file in the test's folder, open for reading while `use` runs. */
  async function withFile<T>(bytes: Uint8Array, use: (file: { fd: number }) => Promise<T>): Promise<T> {
    const path = join(folder, 'source')
    await writeFile(path, bytes)
    const file = await open(path)
    try {
      return await use(file)
    } finally {
      await file.close()
    }
  }
  const inRow = (sizes: readonly number[]) => {
    let offset = 0
    return sizes.map(bytes => {
      offset += bytes
      return { offset: offset - bytes, bytes }
    })
  }

  test('small ones, empty ones, one longer than what is held in memory: each lies under its hash, results in order', async () => {
    // 33 MiB is above the 32 MiB that a thread holds: it passes in chunks, twice.
    const ranges = inRow([10, 0, 33 * megabyte, ...Array.from({ length: 100 }, (_, i) => 1000 + i), 3 * megabyte])
    const bytes = randomBytes(ranges.at(-1)!.offset + ranges.at(-1)!.bytes)
    let seen = 0
    const onBytes = (count: number) => {
      seen += count
    }
    const put = () =>
      withFile(bytes, async file => {
        const batch = store.batch()
        const results = await batch.putRanges({ file, name: 'source', ranges, onBytes })
        await batch.commit()
        return results
      })
    const expected = ranges.map(r => ({ hash: sha256(bytes.subarray(r.offset, r.offset + r.bytes)), bytes: r.bytes }))
    expect(await put()).toEqual(expected.map(one => ({ ...one, written: true })))
    expect(seen).toBe(bytes.length)
    for (const { hash, bytes: size } of expected) expect(await store.verify(hash)).toEqual({ hash, bytes: size })
    expect(await put()).toEqual(expected.map(one => ({ ...one, written: false })))
    expect(await temporaryFiles()).toEqual([])
  })

  test('the same bytes many times are one payload', async () => {
    await withFile(Buffer.alloc(400, 7), async file => {
      const batch = store.batch()
      const results = await batch.putRanges({
        file,
        name: 'source',
        ranges: inRow(Array(100).fill(4)),
        onBytes: () => {},
      })
      expect(results.filter(r => r.written)).toHaveLength(1)
      await batch.commit()
      expect(await collectHashes()).toEqual([sha256(Buffer.alloc(4, 7))])
      expect(await temporaryFiles()).toEqual([])
    })
  })

  test('a file that ends early is SOURCE_INTERRUPTED with both numbers, and a rollback leaves nothing', async () => {
    await withFile(randomBytes(1000), async file => {
      const batch = store.batch()
      const put = batch.putRanges({ file, name: 'cut.bin', ranges: inRow([600, 600]), onBytes: () => {} })
      await expect(put).rejects.toMatchObject({
        code: 'SOURCE_INTERRUPTED',
        message: 'cut.bin: ends at byte 1000, expected 1200',
      })
      await batch.rollback()
      expect(await temporaryFiles()).toEqual([])
      // What was written for the failed put is not taken for present.
      const again = store.batch()
      const [first] = await again.putRanges({ file, name: 'cut.bin', ranges: inRow([600]), onBytes: () => {} })
      expect(first!.written).toBe(true)
      await again.commit()
      expect(await store.has(first!.hash)).toBe(true)
    })
  })

  test('a long one stops when its put is aborted, and leaves nothing', async () => {
    await withFile(randomBytes(64 * megabyte), async file => {
      const abort = new AbortController()
      const batch = store.batch()
      let seen = 0
      const onBytes = (bytes: number) => {
        seen += bytes
        abort.abort()
      }
      const put = batch.putRanges({
        file,
        name: 'source',
        ranges: inRow([64 * megabyte]),
        signal: abort.signal,
        onBytes,
      })
      await expect(put).rejects.toMatchObject({ code: 'CANCELLED' })
      expect(seen).toBeLessThan(64 * megabyte)
      await batch.rollback()
      expect(await temporaryFiles()).toEqual([])
    })
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
    const source = join(folder, 'source')
    await writeFile(source, randomBytes(6 * 1024 * 1024))
    const file = await open(source)
    const ranges = Array.from({ length: 6 }, (_, i) => ({ offset: i * 1024 * 1024, bytes: 1024 * 1024 }))
    const third = small.batch()
    await expect(third.putRanges({ file, name: 'source', ranges, onBytes: () => {} })).rejects.toMatchObject({
      code: 'DISK_FULL',
    })
    await third.rollback()
    await file.close()
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
