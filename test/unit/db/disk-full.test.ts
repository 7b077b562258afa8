// A database whose disk was full: what failed is undone, and what comes after the disk has room again is kept.
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openDatabase } from '../../../db/data-source.js'
import { TensorPayload } from '../../../db/entities/index.js'
import { expectedFailure } from '../../../lib/disk-full.js'
import { smallDisk } from '../../testkit/small-disk.js'

const rows = (from: number, count: number) =>
  Array.from({ length: count }, (_, i) => ({
    hash: `h${from + i}`,
    sizeBytes: 1,
    referenceCount: 1,
    createdAt: new Date(0),
  }))

test('writes after a full disk are committed again (SQLite had rolled back by itself)', async context => {
  const disk = await smallDisk(4)
  if (!disk) return context.skip('mounting a tmpfs needs root')
  try {
    const db = await openDatabase({ folder: disk.path })
    await db.tx(em => em.insert(TensorPayload, rows(0, 1)))

    const filler = join(disk.path, 'filler')
    await writeFile(filler, Buffer.alloc(4 * 1024 * 1024)).catch(() => {})
    const failures: unknown[] = []
    for (let i = 1; i < 40; i++) {
      await db
        .tx(em => em.insert(TensorPayload, rows(i * 100, 100)))
        .catch(e => failures.push(expectedFailure(e)?.code))
    }
    expect(failures.length).toBeGreaterThan(0)
    expect(new Set(failures)).toEqual(new Set(['DISK_FULL']))
    await rm(filler)

    await db.tx(em => em.insert(TensorPayload, rows(90_000, 1)))
    // The reading connection sees what is committed, not what the writer holds.
    expect(await db.read.countBy(TensorPayload, { hash: 'h90000' })).toBe(1)
    await db.close()
    const again = await openDatabase({ folder: disk.path })
    expect(await again.read.countBy(TensorPayload, { hash: 'h90000' })).toBe(1)
    await again.close()
  } finally {
    await disk.remove()
  }
})
