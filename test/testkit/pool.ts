// A database, a job store and a queue with real worker processes on a temporary folder; no subgraphs, no gateway.
import { execFileSync } from 'node:child_process'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { embeddedQueue } from '../../compute/pool/embedded-queue.js'
import type { JobInput, JobName } from '../../compute/pool/job-types.js'
import { finalStates, type JobEvent, type JobQueue, type JobRecord, type JobStore } from '../../compute/pool/queue.js'
import { type Database, openDatabase } from '../../db/data-source.js'
import { defaultTenantId } from '../../db/scope.js'
import { readEnv } from '../../lib/env.js'
import { makeLogger } from '../../lib/log.js'
import { enqueue } from '../../subgraphs/build/enqueue.js'
import type { JobEffects, Platform } from '../../subgraphs/build/platform.js'
import { openJobStore } from '../../subgraphs/compute/job-store.js'

export interface TestPool {
  folder: string
  db: Database
  store: JobStore
  queue: JobQueue
  enqueue<K extends JobName>(type: K, input: JobInput<K>): Promise<string>
  /** Waits until the job's row satisfies the condition. */
  until(jobId: string, condition: (job: JobRecord) => boolean): Promise<JobRecord>
  ended(jobId: string): Promise<JobRecord>
  /** A SafeTensors file with one U8 tensor of that many zero bytes; sparse, so that gigabytes cost no disk. */
  weights(bytes: number): Promise<string>
  close(): Promise<void>
}

export async function openTestPool(
  options: { effects?: JobEffects; workerFile?: string; chargeMs?: number; folder?: string; start?: boolean } = {},
): Promise<TestPool> {
  const folder = options.folder ?? (await mkdtemp(join(tmpdir(), 'pool-')))
  const db = await openDatabase({ folder })
  const env = readEnv({ HARTONOMOUS_DATA: folder, LOG_LEVEL: readEnv().LOG_LEVEL })
  const log = makeLogger('test', env.LOG_LEVEL)
  const platform = () => ({ env, log, db, queue }) as Platform
  const store = openJobStore(db, options.effects ?? {}, platform)
  const { workerFile, chargeMs } = options
  const queue: JobQueue = embeddedQueue({ store, env, log, workerFile, chargeMs })
  if (options.start !== false) await queue.start()

  async function until(jobId: string, condition: (job: JobRecord) => boolean): Promise<JobRecord> {
    for (;;) {
      const job = await store.get(jobId)
      if (job && condition(job)) return job
      await new Promise(r => setTimeout(r, 5))
    }
  }
  let files = 0
  return {
    folder,
    db,
    store,
    queue,
    until,
    ended: jobId => until(jobId, job => finalStates.includes(job.state)),
    async enqueue(type, input) {
      const job = await db.tx(em => enqueue(em, platform(), { tenantId: defaultTenantId, type, input }))
      return job.id
    },
    async weights(bytes) {
      const path = join(folder, `weights-${++files}.safetensors`)
      const header = Buffer.from(JSON.stringify({ w: { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] } }))
      const length = Buffer.alloc(8)
      length.writeBigUInt64LE(BigInt(header.length))
      const file = await open(path, 'w')
      await file.write(Buffer.concat([length, header]))
      await file.truncate(8 + header.length + bytes)
      await file.close()
      return path
    },
    async close() {
      await queue.stop(0)
      await db.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Process ids of the workers of a parent, oldest first. */
export function workerPids(lane: string, parent = process.pid): number[] {
  const list = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' })
  return list
    .split('\n')
    .map(line => line.trim().split(/\s+/))
    .filter(
      ([, ppid, ...args]) => Number(ppid) === parent && args.join(' ').includes('worker.js') && args.at(-1) === lane,
    )
    .map(([pid]) => Number(pid))
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Collects a job's events until its final state. */
export async function eventsOf(stream: AsyncIterable<JobEvent>): Promise<JobEvent[]> {
  const all: JobEvent[] = []
  for await (const event of stream) all.push(event)
  return all
}
