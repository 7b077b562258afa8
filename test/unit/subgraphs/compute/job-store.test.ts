import { afterEach, describe, expect, it } from 'vitest'
import { Job, Tenant } from '../../../../db/entities/index.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { DomainError } from '../../../../lib/errors.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import type { JobEffects } from '../../../../subgraphs/build/platform.js'
import { openTestPool, type TestPool } from '../../../testkit/pool.js'

let pool: TestPool
const open = async (effects: JobEffects = {}) => {
  pool = await openTestPool({ effects, start: false })
  return pool.store
}
afterEach(() => pool.close())
const ingest = () => pool.enqueue('model.ingest', { source: 'x' })
const collect = () => pool.enqueue('storage.collect', { manifests: [], payloads: [] })

describe('enqueue', () => {
  it('refuses an input that does not fit, naming the field', async () => {
    await open()
    await expect(pool.enqueue('model.ingest', { source: '' })).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
      message: expect.stringContaining('source'),
    })
  })

  it('leaves no job, and announces none, when the transaction rolls back', async () => {
    await open()
    const announced: string[] = []
    const platform = { queue: { ...pool.queue, announce: () => announced.push('announced') } }
    const work = pool.db.tx(async em => {
      await enqueue(em, platform, { tenantId: defaultTenantId, type: 'model.ingest', input: { source: 'x' } })
      throw new Error('back')
    })
    await expect(work).rejects.toThrow('back')
    expect([await pool.db.read.count(Job), announced]).toEqual([0, []])
  })

  it('fills in the defaults of the job type', async () => {
    const store = await open()
    const id = await pool.enqueue('storage.collect', {} as never)
    expect((await store.get(id))?.input).toEqual({ manifests: [], payloads: [] })
  })
})

describe('what a job cost', () => {
  const evaluate = { manifest: 'a'.repeat(64), probeSet: 'b'.repeat(64), maxTokens: 256, split: 'validation' as const }

  it('adds up over its attempts: device seconds, operations, and DCUs by the kind of each device', async () => {
    const store = await open()
    const id = await pool.enqueue('model.evaluate', evaluate)
    await store.claim('device', 'cpu-0')
    await store.fail(id, { code: 'WORKER_LOST', message: 'gone', retryable: true }, null, 2)
    await store.claim('device', 'cuda-0')
    await store.succeed(id, { scores: [] }, null, 3, 5e9)
    expect(await store.get(id)).toMatchObject({ state: 'SUCCEEDED', cost: 5, flops: 5e9, units: 2 + 3 * 20 })
  })

  it('is charged while it runs, so that a server that dies takes only what came after that', async () => {
    const store = await open()
    const id = await pool.enqueue('model.evaluate', evaluate)
    await store.claim('device', 'cuda-0')
    await store.charge(id, 30, 4e9)
    expect(await store.charge(id, 30, 3e9)).toMatchObject({ state: 'RUNNING', cost: 60, flops: 7e9, units: 1200 })
    expect(await store.recover()).toMatchObject([{ id, state: 'QUEUED', cost: 60, flops: 7e9, units: 1200 }])
    await store.claim('device', 'cpu-0')
    await store.charge(id, 30, 1e9)
    await store.succeed(id, { scores: [] }, null, 10, 2e9)
    expect(await store.get(id)).toMatchObject({ state: 'SUCCEEDED', cost: 100, flops: 1e10, units: 1240 })
  })

  it('is no longer charged once it has ended', async () => {
    const store = await open()
    const id = await pool.enqueue('model.evaluate', evaluate)
    await expect(store.charge(id, 1, 1)).rejects.toMatchObject({ code: 'CONFLICT' })
    await store.claim('device', 'cpu-0')
    await store.succeed(id, { scores: [] }, null, 3, 5)
    await expect(store.charge(id, 1, 1)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect(await store.get(id)).toMatchObject({ cost: 3, flops: 5, units: 3 })
  })

  it('is kept where it is cancelled', async () => {
    const store = await open()
    const id = await pool.enqueue('model.evaluate', evaluate)
    await store.claim('device', 'cpu-0')
    await store.cancel(id, null, 1.5, 7)
    expect(await store.get(id)).toMatchObject({ state: 'CANCELLED', cost: 1.5, flops: 7, units: 1.5 })
  })
})

describe('a build', () => {
  it('runs where what it is asked for belongs: layers alone in the io lane, measured stages on a device', async () => {
    const store = await open()
    const build = { parent: 'a'.repeat(64), layers: [{ from: 0, to: 1 }] }
    const plain = await pool.enqueue('student.build', build)
    const measured = await pool.enqueue('student.build', { ...build, stages: { correctCuts: true } })
    expect((await store.claim('device', 'cpu-0'))?.id).toBe(measured)
    expect((await store.claim('io', 'io'))?.id).toBe(plain)
  })
})

describe('claim', () => {
  it('takes the oldest job of its lane', async () => {
    const store = await open()
    const [first, second] = [await ingest(), await ingest()]
    expect(await store.claim('device', 'cpu-0')).toBeUndefined()
    expect([(await store.claim('io', 'io'))?.id, (await store.claim('io', 'io'))?.id]).toEqual([first, second])
    expect(await store.claim('io', 'io')).toBeUndefined()
  })

  it('never gives one job to two claims', async () => {
    const store = await open()
    for (let i = 0; i < 10; i++) await ingest()
    const claims = await Promise.all(Array.from({ length: 20 }, () => store.claim('io', 'io')))
    const ids = claims.flatMap(job => job?.id ?? [])
    expect(ids).toHaveLength(10)
    expect(new Set(ids).size).toBe(10)
  })

  it('runs an exclusive job alone, and lets newer jobs pass while it waits', async () => {
    const store = await open()
    const running = await ingest()
    await store.claim('io', 'io')
    const exclusive = await collect()
    const newer = await ingest()
    expect((await store.claim('io', 'io'))?.id).toBe(newer)
    expect(await store.claim('io', 'io')).toBeUndefined()
    for (const id of [running, newer]) await store.cancel(id, null, 0)
    expect((await store.claim('io', 'io'))?.id).toBe(exclusive)
    await ingest()
    expect(await store.claim('io', 'io')).toBeUndefined()
  })

  it('lets the owner complete the input, and keeps it', async () => {
    const hash = 'a'.repeat(64)
    const store = await open({
      'storage.collect': { claim: async (_em, _job, input) => ({ ...input, manifests: [hash] }) },
    })
    const id = await collect()
    expect((await store.claim('io', 'io'))?.input).toMatchObject({ manifests: [hash] })
    expect((await store.get(id))?.input).toMatchObject({ manifests: [hash] })
  })

  it('fails the job whose owner refuses it, and takes back what the owner had begun', async () => {
    const store = await open({
      'model.ingest': {
        claim: async (em, job) => {
          await em.insert(Tenant, { id: job.id, name: 'half', description: null, createdAt: new Date() })
          throw new DomainError('NOT_FOUND', 'its model was deleted')
        },
      },
    })
    const id = await ingest()
    expect(await store.claim('io', 'io')).toMatchObject({ state: 'FAILED', error: { code: 'NOT_FOUND' } })
    expect(await pool.db.read.countBy(Tenant, { id })).toBe(0)
    expect(await store.claim('io', 'io')).toBeUndefined()
  })
})

describe('ends', () => {
  it('fail a job whose owner has a bug, once and for all, and let the lane go on', async () => {
    const bug = async () => {
      throw new TypeError('cannot read properties of undefined')
    }
    const store = await open({ 'model.ingest': { succeeded: bug }, 'probes.import': { claim: bug } })
    const [ingested, imported, next] = [
      await ingest(),
      await pool.enqueue('probes.import', { source: 'x' }),
      await ingest(),
    ]
    const failure = { state: 'FAILED', error: { code: 'INTERNAL_SERVER_ERROR', message: expect.any(String) } }
    await store.claim('io', 'io')
    expect(await store.succeed(ingested, {}, null, 0)).toMatchObject(failure)
    expect(await store.claim('io', 'io')).toMatchObject({ id: imported, ...failure })
    expect((await store.claim('io', 'io'))?.id).toBe(next)
  })

  it('leave a job running whose result the full disk did not take: the queue tries again', async () => {
    let full = true
    const store = await open({
      'model.ingest': {
        async succeeded() {
          if (full) throw Object.assign(new Error('database or disk is full'), { code: 'SQLITE_FULL' })
        },
      },
    })
    const id = await ingest()
    await store.claim('io', 'io')
    await expect(store.succeed(id, {}, null, 0)).rejects.toThrow('disk is full')
    expect((await store.get(id))?.state).toBe('RUNNING')
    full = false
    expect((await store.succeed(id, {}, null, 0)).state).toBe('SUCCEEDED')
  })

  it('run the owner’s effect in the transaction of the state, once', async () => {
    const store = await open({
      'model.ingest': {
        async ended(em, job) {
          await em.insert(Tenant, { id: job.id, name: job.state, description: null, createdAt: new Date() })
        },
      },
    })
    const id = await ingest()
    await store.claim('io', 'io')
    await store.fail(id, { code: 'WORKER_LOST', message: 'gone', retryable: true }, null, 1)
    expect(await pool.db.read.countBy(Tenant, { id })).toBe(0)
    await store.claim('io', 'io')
    await store.fail(id, { code: 'INVALID_MODEL_FILE', message: 'bad', retryable: false }, null, 1)
    expect(await pool.db.read.findOneBy(Tenant, { id })).toMatchObject({ name: 'FAILED' })
    expect(await store.get(id)).toMatchObject({ state: 'FAILED', cost: 2, finishedAt: expect.any(Date) })
  })

  it('of a result that came twice change nothing the second time', async () => {
    let effects = 0
    const store = await open({
      'model.ingest': {
        async succeeded() {
          effects++
        },
      },
    })
    const id = await ingest()
    await store.claim('io', 'io')
    await store.succeed(id, {}, null, 0)
    await expect(store.succeed(id, {}, null, 0)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect(effects).toBe(1)
  })

  it('of a job marked for cancellation are CANCELLED, also when the server dies first', async () => {
    const store = await open()
    const id = await ingest()
    await store.claim('io', 'io')
    expect(await store.requestCancel(id)).toMatchObject({ state: 'RUNNING', cancelRequested: true })
    expect(await store.cancelRequests()).toEqual([id])
    expect(await store.recover()).toMatchObject([{ id, state: 'CANCELLED' }])
  })

  it('of a job marked for cancellation are CANCELLED, also when its result comes after all, and leave no rows', async () => {
    let effects = 0
    const store = await open({
      'model.ingest': {
        async succeeded() {
          effects++
        },
      },
    })
    const id = await ingest()
    await store.claim('io', 'io')
    await store.requestCancel(id)
    expect(await store.succeed(id, {}, null, 0)).toMatchObject({ state: 'CANCELLED' })
    expect(effects).toBe(0)
  })

  it('of an unknown job are NOT_FOUND', async () => {
    const store = await open()
    await expect(store.requestCancel('nobody')).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})
