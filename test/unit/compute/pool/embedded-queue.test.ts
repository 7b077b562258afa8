import { execFile } from 'node:child_process'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import type { JobInput, JobName, JobOutput } from '../../../../compute/pool/job-types.js'
import type { JobRecord } from '../../../../compute/pool/queue.js'
import { Job, Tenant } from '../../../../db/entities/index.js'
import { anyOf } from '../../../../db/scope.js'
import { DomainError } from '../../../../lib/errors.js'
import { compiledFile, projectFile } from '../../../../lib/project.js'
import { eventsOf, isAlive, openTestPool, type TestPool, workerPids } from '../../../testkit/pool.js'

let pool: TestPool
afterEach(() => pool.close())

/** Long enough to be caught at work: some seconds of hashing and writing. */
const long = 2e9
const isRunning = (job: JobRecord) => job.state === 'RUNNING'
const ingest = async (bytes = 1000) => pool.enqueue('model.ingest', { source: await pool.weights(bytes) })
const atWork = async (jobId: string) => {
  await pool.until(jobId, isRunning)
  await expect.poll(() => pool.queue.progress(jobId)?.completed ?? 0, { timeout: 20_000 }).toBeGreaterThan(0)
}
/** The io worker, warmed up by a small job. */
async function warmWorker(): Promise<number> {
  await pool.ended(await ingest(10))
  return workerPids('io')[0] as number
}
/** What measures the demo model on its held-out texts: a second or more of a device. */
async function evaluation(): Promise<JobInput<'model.evaluate'>> {
  const ingested = await pool.ended(await pool.enqueue('model.ingest', { source: projectFile('demo', 'model') }))
  const source = projectFile('demo', 'probes', 'validation.jsonl')
  const imported = await pool.ended(await pool.enqueue('probes.import', { source }))
  const { manifest } = ingested.output as JobOutput<'model.ingest'>
  const { probeSet } = imported.output as JobOutput<'probes.import'>
  return { manifest, probeSet, split: 'validation', maxTokens: 256 }
}
/** A process of its own that runs one job of the folder. */
function startServer(folder: string, type: JobName, input: unknown) {
  const modules = [
    'db/data-source.js',
    'compute/pool/embedded-queue.js',
    'subgraphs/compute/job-store.js',
    'subgraphs/build/enqueue.js',
    'lib/env.js',
    'lib/log.js',
  ]
  const script = `
    const [{ openDatabase }, { embeddedQueue }, { openJobStore }, { enqueue }, { readEnv }, { makeLogger }] =
      await Promise.all(${JSON.stringify(modules.map(compiledFile))}.map(file => import(file)))
    const [folder, type, input] = process.argv.slice(1)
    const db = await openDatabase({ folder })
    const env = readEnv({ HARTONOMOUS_DATA: folder, LOG_LEVEL: 'silent' })
    const store = openJobStore(db, {}, () => ({}))
    const queue = embeddedQueue({ store, env, log: makeLogger('x', 'silent'), chargeMs: 20 })
    await queue.start()
    const job = await db.tx(em => enqueue(em, { queue }, { tenantId: 't', type, input: JSON.parse(input) }))
    for await (const event of queue.watch(job.id)) if (event.job?.progress) process.stdout.write('at work')`
  const args = ['--input-type=module', '-e', script, folder, type, JSON.stringify(input)]
  const server = execFile(process.execPath, args, { timeout: 30_000 })
  return {
    pid: server.pid,
    atWork: new Promise(resolve => server.stdout?.once('data', resolve)),
    gone: new Promise(resolve => server.once('exit', resolve)),
    kill: () => server.kill('SIGKILL'),
  }
}
const payloadFiles = async () =>
  (await readdir(join(pool.folder, 'payloads'), { recursive: true, withFileTypes: true })).filter(f => f.isFile())

describe('a job', () => {
  it('runs in a child process and ends SUCCEEDED with its output and its owner’s rows', async () => {
    pool = await openTestPool({
      effects: {
        'model.ingest': {
          async succeeded(em, job, output) {
            await em.insert(Tenant, { id: job.id, name: output.manifest, description: null, createdAt: new Date() })
          },
        },
      },
    })
    const id = await ingest()
    const events = eventsOf(pool.queue.watch(id))
    const job = await pool.ended(id)
    expect(job).toMatchObject({
      state: 'SUCCEEDED',
      attempts: 1,
      error: null,
      output: { tensors: 1, tensorBytes: 1000 },
    })
    expect(await pool.db.read.countBy(Tenant, { id })).toBe(1)
    const states = (await events).flatMap(e => (e.kind === 'job' ? [e.job.state] : []))
    expect(states[0]).toBe('RUNNING')
    expect(states.at(-1)).toBe('SUCCEEDED')
    expect(job.progress?.completed).toBe(job.progress?.total)
  })

  it('shows progress that only moves forward', async () => {
    pool = await openTestPool()
    const id = await ingest(100e6)
    const events = await eventsOf(pool.queue.watch(id))
    const sequences = events.flatMap(e => (e.kind === 'job' && e.job.progress ? [e.job.progress.sequence] : []))
    expect(sequences.length).toBeGreaterThan(2)
    expect(sequences).toEqual([...sequences].sort((a, b) => a - b))
  })

  it('fails at once with the reason where trying again is of no use', async () => {
    pool = await openTestPool()
    const job = await pool.ended(await pool.enqueue('model.ingest', { source: join(pool.folder, 'nothing.gguf') }))
    expect(job).toMatchObject({ state: 'FAILED', attempts: 1, error: { code: 'SOURCE_NOT_FOUND' } })
    expect(job.error?.message).toContain('nothing.gguf')
  })

  it('fails, with nothing of its owner’s left, where the owner cannot take the result', async () => {
    pool = await openTestPool({
      effects: {
        'model.ingest': {
          async succeeded(em, job) {
            await em.insert(Tenant, { id: job.id, name: 'half', description: null, createdAt: new Date() })
            throw new DomainError('CONFLICT', 'the model was deleted meanwhile')
          },
        },
      },
    })
    const id = await ingest()
    expect(await pool.ended(id)).toMatchObject({ state: 'FAILED', error: { code: 'CONFLICT' } })
    expect(await pool.db.read.countBy(Tenant, { id })).toBe(0)
  })
})

describe('interactive jobs', () => {
  it('run several at a time in one process beside the io worker, and stream their text in order', async () => {
    pool = await openTestPool()
    const { output } = await pool.ended(await pool.enqueue('model.ingest', { source: projectFile('demo', 'model') }))
    const { manifest } = output as JobOutput<'model.ingest'>
    const prompts = ['a', 'b', 'c', 'd']
    const ids = await Promise.all(
      prompts.map(prompt => pool.enqueue('model.generate', { manifest, prompt, maxTokens: 24, temperature: 0 })),
    )
    const streams = await Promise.all(ids.map(id => eventsOf(pool.queue.watch(id))))
    for (const events of streams) {
      const last = events.at(-1)
      expect(last).toMatchObject({ kind: 'job', job: { state: 'SUCCEEDED', deviceId: 'cpu-0' } })
      const deltas = events.filter(e => e.kind === 'delta')
      const text = last?.kind === 'job' && (last.job.output as JobOutput<'model.generate'>).text
      expect(deltas.map(d => d.textDelta).join('')).toBe(text)
      expect(deltas.map(d => d.index)).toEqual(deltas.map(d => d.index).sort((a, b) => a - b))
    }
    expect(workerPids('interactive')).toHaveLength(1)
    expect(workerPids('device')).toHaveLength(0)
  })
})

describe('a worker that is killed', () => {
  it('has its job tried again, elsewhere', async () => {
    pool = await openTestPool()
    const id = await ingest(long)
    await atWork(id)
    const before = pool.queue.progress(id)?.sequence ?? 0
    const [pid] = workerPids('io')
    process.kill(pid as number, 'SIGKILL')
    await pool.until(id, job => job.attempts === 2)
    await expect.poll(() => pool.queue.progress(id)?.sequence ?? 0, { timeout: 20_000 }).toBeGreaterThan(before)
    expect(workerPids('io')).not.toContain(pid)
    await pool.queue.cancel(id)
  })

  it('fails the job after three attempts, and nothing else', async () => {
    pool = await openTestPool()
    const id = await ingest(long)
    for (let attempt = 1; attempt <= 3; attempt++) {
      await pool.until(id, job => job.state === 'RUNNING' && job.attempts === attempt)
      await expect.poll(() => workerPids('io').length, { timeout: 20_000 }).toBe(1)
      for (const pid of workerPids('io')) process.kill(pid, 'SIGKILL')
    }
    const job = await pool.ended(id)
    expect(job).toMatchObject({ state: 'FAILED', attempts: 3, error: { code: 'TOO_MANY_ATTEMPTS' } })
    expect(job.error?.message).toMatch(/Tried 3 times; .* WORKER_LOST: .*SIGKILL/)
    expect(await pool.ended(await ingest())).toMatchObject({ state: 'SUCCEEDED', attempts: 1 })
  })

  it('by SIGTERM hands its job back without counting the attempt', async () => {
    pool = await openTestPool()
    const id = await ingest(long)
    await atWork(id)
    const states: string[] = []
    const stream = pool.queue.watch(id)
    process.kill(workerPids('io')[0] as number, 'SIGTERM')
    for await (const event of stream) {
      if (event.kind === 'job' && event.job.state !== states.at(-1)) states.push(event.job.state)
      if (states.at(-2) === 'QUEUED') break
    }
    expect(states.slice(-2)).toEqual(['QUEUED', 'RUNNING'])
    expect(await pool.store.get(id)).toMatchObject({ state: 'RUNNING', attempts: 1 })
    await pool.queue.cancel(id)
  })
})

describe('what an attempt has used', () => {
  const charged = (job: JobRecord) => isRunning(job) && job.cost > 0 && job.flops > 0

  it('is in the row while it runs, is kept where its worker is killed, and nothing of it counts twice', async () => {
    pool = await openTestPool({ chargeMs: 20 })
    const input = await evaluation()
    const evaluate = () => pool.enqueue('model.evaluate', input)
    const whole = await pool.ended(await evaluate())
    expect(whole).toMatchObject({ state: 'SUCCEEDED', units: whole.cost })
    const started = performance.now()
    const id = await evaluate()
    await pool.until(id, charged)
    const [pid] = workerPids('device')
    process.kill(pid as number, 'SIGSTOP')
    const before = (await pool.store.get(id)) as JobRecord
    process.kill(pid as number, 'SIGKILL')
    const lost = await pool.until(id, job => job.state === 'QUEUED' || job.attempts === 2)
    expect(lost.cost).toBeGreaterThanOrEqual(before.cost)
    expect(lost.flops).toBeGreaterThanOrEqual(before.flops)
    const job = await pool.ended(id)
    expect(job).toMatchObject({ state: 'SUCCEEDED', attempts: 2, units: job.cost })
    // Batches follow the speed that is measured, and their padding is counted: no two runs are quite equal.
    expect((job.flops - lost.flops) / whole.flops).toBeCloseTo(1, 0)
    expect(job.cost).toBeLessThan((performance.now() - started) / 1000)
  })

  it('comes with its end where it could not be written before', async () => {
    pool = await openTestPool({ chargeMs: 20 })
    const input = await evaluation()
    let refused = 0
    pool.store.charge = async () => {
      refused++
      throw Object.assign(new Error('database or disk is full'), { code: 'SQLITE_FULL' })
    }
    const job = await pool.ended(await pool.enqueue('model.evaluate', input))
    expect(refused).toBeGreaterThan(0)
    expect(job).toMatchObject({ state: 'SUCCEEDED', units: job.cost })
    expect(job.flops).toBeGreaterThan(0)
    expect(job.cost).toBeGreaterThan(0)
  })

  it('is kept up to the last charge where the server is killed', async () => {
    pool = await openTestPool()
    const input = await evaluation()
    await pool.queue.stop()
    const server = startServer(pool.folder, 'model.evaluate', input)
    await server.atWork
    const jobId = (await pool.db.read.findOneByOrFail(Job, { type: 'model.evaluate' })).id
    await pool.until(jobId, charged)
    server.kill()
    await server.gone
    const [job] = await pool.store.recover()
    expect(job).toMatchObject({ id: jobId, state: 'QUEUED', attempts: 1, error: { code: 'WORKER_LOST' } })
    expect(job!.cost).toBeGreaterThan(0)
    expect(job!.flops).toBeGreaterThan(0)
    expect(job!.units).toBe(job!.cost)
  })
})

describe('cancel', () => {
  it('ends a running job within a second, keeps the worker and leaves no byte', async () => {
    pool = await openTestPool()
    const pid = await warmWorker()
    const files = (await payloadFiles()).length
    const id = await ingest(long)
    await atWork(id)
    const started = performance.now()
    await pool.queue.cancel(id)
    expect(performance.now() - started).toBeLessThan(1000)
    expect(await pool.store.get(id)).toMatchObject({ state: 'CANCELLED', error: { code: 'CANCELLED' } })
    expect(workerPids('io')).toEqual([pid])
    expect(await payloadFiles()).toHaveLength(files)
  })

  it('kills a worker that does not answer; the other job in it runs again without losing an attempt', async () => {
    pool = await openTestPool()
    const pid = await warmWorker()
    process.kill(pid, 'SIGSTOP')
    const guilty = await ingest()
    const innocent = await ingest(2000)
    await pool.until(guilty, isRunning)
    await pool.until(innocent, isRunning)
    const started = performance.now()
    await pool.queue.cancel(guilty)
    expect(performance.now() - started).toBeLessThan(1000)
    expect(await pool.store.get(guilty)).toMatchObject({ state: 'CANCELLED' })
    expect(await pool.ended(innocent)).toMatchObject({ state: 'SUCCEEDED', attempts: 1 })
    expect(isAlive(pid)).toBe(false)
  })

  it('ends a queued job at once, without a worker', async () => {
    pool = await openTestPool({ start: false })
    const id = await ingest()
    const events = eventsOf(pool.queue.watch(id))
    await pool.queue.cancel(id)
    expect(await pool.store.get(id)).toMatchObject({ state: 'CANCELLED', attempts: 0 })
    expect((await events).map(e => e.kind === 'job' && e.job.state)).toEqual(['CANCELLED'])
  })

  it('finds cancellations that another process asked for, of running and of queued jobs', async () => {
    pool = await openTestPool()
    const pid = await warmWorker()
    process.kill(pid, 'SIGSTOP')
    const ids = [await ingest(), await ingest(), await ingest()]
    await pool.until(ids[1] as string, isRunning)
    expect(await pool.store.get(ids[2] as string)).toMatchObject({ state: 'QUEUED' })
    const started = performance.now()
    // A process without workers (a subgraph on its own) marks the rows.
    await pool.db.tx(em => em.update(Job, { id: anyOf(ids) }, { cancelRequested: true }))
    for (const id of ids) expect(await pool.ended(id)).toMatchObject({ state: 'CANCELLED' })
    expect(performance.now() - started).toBeLessThan(1500)
  })

  it('refuses a job that has ended', async () => {
    pool = await openTestPool()
    const id = await ingest()
    await pool.ended(id)
    await expect(pool.queue.cancel(id)).rejects.toMatchObject({ code: 'CONFLICT' })
  })
})

describe('stop', () => {
  it('lets short jobs end, hands long ones back uncounted, and leaves no process', async () => {
    pool = await openTestPool()
    const slow = await ingest(long)
    await atWork(slow)
    const quick = await ingest()
    await pool.until(quick, isRunning)
    await pool.queue.stop(1_000)
    expect(await pool.store.get(quick)).toMatchObject({ state: 'SUCCEEDED' })
    expect(await pool.store.get(slow)).toMatchObject({ state: 'QUEUED', attempts: 0 })
    expect(workerPids('io')).toEqual([])
  })
})

describe('a server that was killed', () => {
  it('finds its running job again and runs it', async () => {
    pool = await openTestPool({ start: false })
    const id = await ingest()
    expect(await pool.store.claim('io', 'io')).toMatchObject({ id, state: 'RUNNING', attempts: 1 })
    await pool.queue.start()
    expect(await pool.ended(id)).toMatchObject({ state: 'SUCCEEDED', attempts: 2 })
  })

  it('gives a job to a device that takes its type only', async () => {
    pool = await openTestPool({ start: false })
    const measured = { manifest: '0'.repeat(64), probeSet: '1'.repeat(64), maxTokens: 8 }
    const analysis = await pool.enqueue('capability.analyze', measured)
    const evaluation = await pool.enqueue('model.evaluate', { ...measured, split: 'validation' })
    const others = (type: string) => type !== 'capability.analyze'
    expect(await pool.store.claim('device', 'webgpu-0', others)).toMatchObject({ id: evaluation })
    expect(await pool.store.claim('device', 'webgpu-0', others)).toBeUndefined()
    expect(await pool.store.claim('device', 'cpu-0')).toMatchObject({ id: analysis, deviceId: 'cpu-0' })
  })

  it('gives a job up that was running at three deaths', async () => {
    pool = await openTestPool({ start: false })
    const id = await ingest()
    for (let death = 1; death <= 3; death++) {
      await pool.store.claim('io', 'io')
      await pool.store.recover()
    }
    expect(await pool.store.get(id)).toMatchObject({
      state: 'FAILED',
      attempts: 3,
      error: { code: 'TOO_MANY_ATTEMPTS' },
    })
  })

  it('leaves no worker behind', async () => {
    pool = await openTestPool({ start: false })
    const source = await pool.weights(long)
    const folder = await mkdtemp(join(tmpdir(), 'pool-'))
    const server = startServer(folder, 'model.ingest', { source })
    await server.atWork
    const pids = workerPids('io', server.pid)
    expect(pids).toHaveLength(1)
    server.kill()
    await expect.poll(() => pids.some(isAlive), { timeout: 3000 }).toBe(false)
    await rm(folder, { recursive: true, force: true })
  })
})

describe('a worker that cannot start', () => {
  it('fails the job with the reason, after pauses', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'pool-'))
    const workerFile = join(folder, 'worker.js')
    await writeFile(workerFile, 'process.exit(7)')
    pool = await openTestPool({ folder, workerFile })
    const started = performance.now()
    const job = await pool.ended(await ingest())
    expect(job.error).toMatchObject({ code: 'TOO_MANY_ATTEMPTS' })
    expect(job.error?.message).toMatch(/io worker did not start: it exited with code 7/)
    expect(performance.now() - started).toBeGreaterThan(500 + 1000)
  })
})

describe('devices', () => {
  it('names the processor, idle, once it was started', async () => {
    pool = await openTestPool({ start: false })
    expect(pool.queue.devices()).toEqual([])
    await pool.queue.start()
    expect(pool.queue.devices()).toMatchObject([{ id: 'cpu-0', kind: 'CPU', busy: false, jobId: null }])
  })
})
