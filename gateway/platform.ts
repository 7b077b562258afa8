// The composition root: the only place that knows all parts and puts them together (docs/decisions/0003-composition-root.md).
import { join } from 'node:path'
import { embeddedQueue } from '../compute/pool/embedded-queue.js'
import { openDatabase } from '../db/data-source.js'
import { Job } from '../db/entities/index.js'
import { lockDataFolder } from '../db/lock.js'
import { defaultTenantId } from '../db/scope.js'
import type { Env } from '../lib/env.js'
import type { Logger } from '../lib/log.js'
import { openFilePayloadStore } from '../payloads/file-payload-store.js'
import type { JobEffects, Platform, RequestContext } from '../subgraphs/build/platform.js'
import { openJobStore } from '../subgraphs/compute/job-store.js'
import type { PlatformGauges } from './metrics.js'
import { subgraphs } from './subgraphs.js'

export type { Platform, RequestContext }

export interface RunningPlatform extends Platform {
  /** A fresh context for one request or one event. */
  newContext(signal?: AbortSignal): RequestContext
  /** Throws where the database does not answer. */
  checkReady(): Promise<void>
  gauges: PlatformGauges
  /** Jobs get `graceMs` to end; what is still running goes back to the queue. Then everything is closed. */
  stop(graceMs?: number): Promise<void>
}

/**
 * Opens the data folder and starts the pool and the subgraphs on it.
 * @throws DATA_FOLDER_IN_USE where another platform runs on the folder
 */
export async function startPlatform(env: Env, log: Logger): Promise<RunningPlatform> {
  const closers: (() => Promise<unknown> | unknown)[] = []
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer()
  }
  try {
    closers.push(lockDataFolder(env.HARTONOMOUS_DATA))
    const db = await openDatabase({ folder: env.HARTONOMOUS_DATA })
    closers.push(() => db.close())
    const payloads = await openFilePayloadStore(join(env.HARTONOMOUS_DATA, 'payloads'))
    // Nobody else writes here while we hold the lock: what a killed process left half-written can go.
    await payloads.removeTemporary()
    const store = openJobStore(db, mergedEffects(), () => platform)
    const queue = embeddedQueue({ store, env, log: log.child({ name: 'pool' }) })
    const platform: Platform = { env, log, db, payloads, queue }
    for (const subgraph of subgraphs) await subgraph.start?.(platform)
    await queue.start()
    return {
      ...platform,
      newContext: signal => ({ platform, tenantId: defaultTenantId, loaders: new Map(), signal }),
      async checkReady() {
        await db.read.query('SELECT 1')
      },
      gauges: {
        devices: () => queue.devices(),
        async jobsByState() {
          const rows = await db.read
            .createQueryBuilder(Job, 'job')
            .select('job.state', 'state')
            .addSelect('COUNT(*)', 'count')
            .groupBy('job.state')
            .getRawMany<{ state: string; count: number }>()
          return Object.fromEntries(rows.map(row => [row.state, Number(row.count)]))
        },
      },
      async stop(graceMs) {
        await queue.stop(graceMs)
        await close()
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Each job type has one owner; two would each do half of what the other undoes. */
function mergedEffects(): JobEffects {
  const owners = new Map<string, string>()
  for (const { name, effects } of subgraphs)
    for (const type of Object.keys(effects)) {
      const owner = owners.get(type)
      if (owner) throw new Error(`The job type ${type} has two owners, ${owner} and ${name}`)
      owners.set(type, name)
    }
  return Object.assign({}, ...subgraphs.map(s => s.effects))
}
