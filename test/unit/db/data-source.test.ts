import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Database, openDatabase, openWriter } from '../../../db/data-source.js'
import { ModelAtom, ModelEvent, Tenant, TensorPayload } from '../../../db/entities/index.js'
import { lockDataFolder } from '../../../db/lock.js'
import { andAnyOf, anyOf, defaultTenantId, scoped, scopedQuery } from '../../../db/scope.js'
import { afterCommit } from '../../../db/transaction.js'
import { compiledFile, projectRoot } from '../../../lib/project.js'

const run = promisify(execFile)
let folder: string
let db: Database

const payload = (n: number | string): TensorPayload => ({
  hash: `h${n}`,
  sizeBytes: 1,
  referenceCount: 1,
  createdAt: new Date(0),
})

describe('openDatabase', () => {
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'db-'))
    db = await openDatabase({ folder })
  })
  afterEach(async () => {
    await db.close()
    await rm(folder, { recursive: true })
  })

  it('starts with the default tenant', async () => {
    expect(await db.read.findOneBy(Tenant, { id: defaultTenantId })).toMatchObject({ name: 'default' })
  })

  it('opens a folder again without migrating twice', async () => {
    await db.tx(em => em.insert(TensorPayload, payload(1)))
    await db.close()
    db = await openDatabase({ folder })
    expect(await db.read.count(TensorPayload)).toBe(1)
    expect(await db.read.count(Tenant)).toBe(1)
  })

  it('has migrations that agree with the entities (else: node dist/scripts/print-migration.js prints the missing SQL)', async () => {
    const ds = await openWriter(join(folder, 'fresh.sqlite'))
    const { upQueries } = await ds.driver.createSchemaBuilder().log()
    await ds.destroy()
    expect(upQueries.map(q => q.query)).toEqual([])
  })

  it('takes its migrations back', async () => {
    const ds = await openWriter(join(folder, 'fresh.sqlite'))
    for (const _ of ds.migrations) await ds.undoLastMigration()
    const left = await ds.query(`SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'`)
    await ds.destroy()
    expect(left).toEqual([{ name: 'migrations' }])
  })

  it('writes with WAL, foreign keys and full sync', async () => {
    const pragmas = await db.tx(async em => ({
      ...(await em.query('PRAGMA journal_mode'))[0],
      ...(await em.query('PRAGMA foreign_keys'))[0],
      ...(await em.query('PRAGMA synchronous'))[0],
    }))
    expect(pragmas).toEqual({ journal_mode: 'wal', foreign_keys: 1, synchronous: 2 })
  })

  it('refuses a row that points at nothing', async () => {
    const event = { id: 'e', tenantId: defaultTenantId, kind: 'X', description: '', jobId: null, createdAt: new Date() }
    await expect(db.tx(em => em.insert(ModelEvent, { ...event, modelId: 'nobody' }))).rejects.toThrow(/FOREIGN KEY/)
  })

  it('refuses a write on the reading connection', async () => {
    await expect(db.read.insert(TensorPayload, payload(1))).rejects.toThrow(/readonly/)
  })

  it('keeps dates to the millisecond, and integers up to 2^53', async () => {
    const createdAt = new Date('2026-01-02T03:04:05.678Z')
    await db.tx(em => em.insert(TensorPayload, { ...payload(1), createdAt, sizeBytes: Number.MAX_SAFE_INTEGER }))
    const row = await db.read.findOneByOrFail(TensorPayload, { hash: 'h1' })
    expect(row).toMatchObject({ createdAt, sizeBytes: Number.MAX_SAFE_INTEGER })
  })

  describe('tx', () => {
    it('keeps 200 parallel transactions apart: 20 roll back, 180 stay', async () => {
      const results = await Promise.allSettled(
        Array.from({ length: 200 }, (_, i) =>
          db.tx(async em => {
            await em.insert(TensorPayload, payload(i))
            await new Promise(r => setImmediate(r))
            if (i % 10 === 0) throw new Error('back')
          }),
        ),
      )
      expect(results.filter(r => r.status === 'rejected')).toHaveLength(20)
      expect(await db.read.count(TensorPayload)).toBe(180)
    })

    it('shows nothing to readers before the commit', async () => {
      await db.tx(async em => {
        await em.insert(TensorPayload, payload(1))
        expect(await db.read.count(TensorPayload)).toBe(0)
        expect(await em.count(TensorPayload)).toBe(1)
      })
      expect(await db.read.count(TensorPayload)).toBe(1)
    })

    it('joins the outer transaction, so that both roll back', async () => {
      const work = db.tx(async em => {
        await db.tx(inner => inner.insert(TensorPayload, payload(1)))
        await em.insert(TensorPayload, payload(2))
        throw new Error('back')
      })
      await expect(work).rejects.toThrow('back')
      expect(await db.read.count(TensorPayload)).toBe(0)
    })

    it('begins a new transaction for a call that outlived its own', async () => {
      let late: Promise<unknown> | undefined
      await db.tx(async () => {
        late = new Promise(r => setTimeout(r, 20)).then(() => db.tx(em => em.insert(TensorPayload, payload(1))))
      })
      await late
      expect(await db.read.count(TensorPayload)).toBe(1)
    })

    it('works on after a failed statement', async () => {
      await db.tx(em => em.insert(TensorPayload, payload(1)))
      await expect(db.tx(em => em.insert(TensorPayload, payload(1)))).rejects.toThrow(/UNIQUE/)
      await db.tx(em => em.insert(TensorPayload, payload(2)))
      expect(await db.read.count(TensorPayload)).toBe(2)
    })
  })

  describe('afterCommit', () => {
    it('runs after the outermost commit, in order, with the rows there', async () => {
      const seen: string[] = []
      await db.tx(async em => {
        await db.tx(async inner => {
          await inner.insert(TensorPayload, payload(1))
          afterCommit(async () => {
            seen.push(`inner ${await db.read.count(TensorPayload)}`)
          })
        })
        seen.push('outer goes on')
        await em.insert(TensorPayload, payload(2))
      })
      await expect.poll(() => seen).toEqual(['outer goes on', 'inner 2'])
    })

    it('never runs when the transaction rolls back', async () => {
      let ran = false
      await db
        .tx(async () => {
          afterCommit(() => {
            ran = true
          })
          throw new Error('back')
        })
        .catch(() => {})
      expect(ran).toBe(false)
    })

    it('runs at once outside a transaction', () => {
      let ran = false
      afterCommit(() => {
        ran = true
      })
      expect(ran).toBe(true)
    })
  })

  it('lets several processes open a fresh file at once and queue their writes', async () => {
    const script = `
      const { openDatabase } = await import(${JSON.stringify(compiledFile('db/data-source.js'))})
      const { TensorPayload } = await import(${JSON.stringify(compiledFile('db/entities/index.js'))})
      const db = await openDatabase({ folder: process.argv[1] })
      for (let i = 0; i < 25; i++) await db.tx(async em => {
        const n = await em.count(TensorPayload)
        await new Promise(r => setTimeout(r, 1))
        await em.insert(TensorPayload, { hash: 'x' + n, sizeBytes: 1, referenceCount: 1, createdAt: new Date() })
      })
      await db.close()`
    const shared = await mkdtemp(join(tmpdir(), 'db-shared-'))
    await Promise.all(
      [1, 2, 3].map(() => run(process.execPath, ['--input-type=module', '-e', script, shared], { timeout: 50_000 })),
    )
    const other = await openDatabase({ folder: shared })
    // Read and insert are one unit: had two interleaved, a name would have been taken.
    expect(await other.read.count(TensorPayload)).toBe(75)
    await other.close()
    await rm(shared, { recursive: true })
  })
})

describe('scope', () => {
  const other = '00000000-0000-7000-8000-00000000000f'
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'db-'))
    db = await openDatabase({ folder })
    const model = (i: number, tenantId: string) => ({
      id: `m${i}`,
      tenantId,
      name: `model ${i}`,
      version: null,
      architecture: 'llama',
      parameterCount: 1,
      layerCount: 1,
      dimensions: { layerCount: 1 },
      dtype: 'F32',
      sizeBytes: 4,
      manifestHash: 'a'.repeat(64),
      source: null,
      license: null,
      isStudent: false,
      isProduction: false,
      objective: null,
      parentModelId: null,
      createdAt: new Date(),
      lastOptimizedAt: null,
      deletedAt: null,
    })
    await db.tx(async em => {
      for (let i = 0; i < 10; i++) await em.insert(ModelAtom, model(i, i < 7 ? defaultTenantId : other))
    })
  })
  afterAll(async () => {
    await db.close()
    await rm(folder, { recursive: true })
  })

  it('confines finds and query builders to the tenant', async () => {
    expect(await db.read.countBy(ModelAtom, scoped(other))).toBe(3)
    const query = db.read.createQueryBuilder(ModelAtom, 'm').where('m.layerCount = 1')
    expect(await scopedQuery(query, defaultTenantId).getCount()).toBe(7)
  })

  it('refuses a query without a tenant', () => {
    expect(() => scoped('')).toThrow(/tenant/)
  })

  it('takes 40,000 ids in one list', async () => {
    const ids = Array.from({ length: 40_000 }, (_, i) => `m${i}`)
    expect(await db.read.countBy(ModelAtom, { ...scoped(defaultTenantId), id: anyOf(ids) })).toBe(7)
    const query = andAnyOf(db.read.createQueryBuilder(ModelAtom, 'm'), 'm.id', ids)
    expect(await andAnyOf(query, 'm.layerCount', [1]).getCount()).toBe(10)
  })

  it('finds nothing for an empty list', async () => {
    expect(await db.read.countBy(ModelAtom, { id: anyOf<string>([]) })).toBe(0)
  })

  it('deletes by a list', async () => {
    await db.tx(em => em.delete(ModelAtom, { ...scoped(other), id: anyOf(['m1', 'm9']) }))
    expect(await db.read.count(ModelAtom)).toBe(9)
  })
})

describe('SQL Server', () => {
  it('builds all entities for its dialect offline', async () => {
    const script = `
      const { DataSource } = await import('typeorm')
      const { entities } = await import(${JSON.stringify(compiledFile('db/data-source.js'))})
      const ds = new DataSource({ type: 'mssql', host: 'localhost', entities, options: { useUTC: true } })
      await ds.buildMetadatas()
      const columns = ds.entityMetadatas.flatMap(e => e.columns.map(c => ds.driver.normalizeType(c)))
      console.log(JSON.stringify({ tables: ds.entityMetadatas.length, types: [...new Set(columns)].sort() }))`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], {
      cwd: projectRoot,
      env: { ...process.env, HARTONOMOUS_DATABASE: 'mssql://sa:x@localhost/hartonomous' },
      timeout: 30_000,
    })
    const { tables, types } = JSON.parse(stdout)
    expect(tables).toBeGreaterThanOrEqual(15)
    expect(types).toEqual(['bigint', 'bit', 'datetime2', 'float', 'int', 'nvarchar', 'varchar'])
  })
})

describe('lockDataFolder', () => {
  it('refuses a second holder, names the folder, and can be taken again after release', async () => {
    const data = await mkdtemp(join(tmpdir(), 'lock-'))
    const release = lockDataFolder(data)
    expect(() => lockDataFolder(data)).toThrow(expect.objectContaining({ code: 'DATA_FOLDER_IN_USE' }))
    expect(() => lockDataFolder(data)).toThrow(data)
    release()
    lockDataFolder(data)()
    await rm(data, { recursive: true })
  })

  it('is held against another process and free after its kill -9', async () => {
    const data = await mkdtemp(join(tmpdir(), 'lock-'))
    const script = `
      const { lockDataFolder } = await import(${JSON.stringify(compiledFile('db/lock.js'))})
      lockDataFolder(process.argv[1])
      console.log('locked')
      setInterval(() => {}, 1000)`
    const child = execFile(process.execPath, ['--input-type=module', '-e', script, data], { timeout: 30_000 })
    await new Promise(resolve => child.stdout?.once('data', resolve))
    expect(() => lockDataFolder(data)).toThrow(expect.objectContaining({ code: 'DATA_FOLDER_IN_USE' }))
    child.kill('SIGKILL')
    await new Promise(resolve => child.once('exit', resolve))
    lockDataFolder(data)()
    await rm(data, { recursive: true })
  })
})
