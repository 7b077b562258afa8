// A platform without workers on a temporary folder: real database, real payloads; jobs stay queued until a test runs their effect.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ExecutionResult, execute, type GraphQLSchema, parse, validate } from 'graphql'
import type { JobInput, JobName, JobOutput } from '../../compute/pool/job-types.js'
import { jobTypes } from '../../compute/pool/job-types.js'
import type { JobQueue, JobRecord } from '../../compute/pool/queue.js'
import { openDatabase } from '../../db/data-source.js'
import { Job, type ModelAtom } from '../../db/entities/index.js'
import { registerModel } from '../../db/models.js'
import { defaultTenantId } from '../../db/scope.js'
import { readEnv } from '../../lib/env.js'
import { makeLogger } from '../../lib/log.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import { toRecord } from '../../subgraphs/build/enqueue.js'
import type { JobEffect, Platform, RequestContext } from '../../subgraphs/build/platform.js'
import type { Subgraph } from '../../subgraphs/build/subgraph.js'

/** A pool that no device has joined. */
const idleQueue = (): JobQueue => ({
  start: async () => {},
  stop: async () => {},
  wake() {},
  cancel: async () => {},
  announce() {},
  progress: () => null,
  watch() {
    throw new Error('nothing runs here')
  },
  watchAll() {
    throw new Error('nothing runs here')
  },
  devices: () => [],
})

export interface SubgraphPlatform {
  platform: Platform
  context(): RequestContext
  close(): Promise<void>
}

export async function openSubgraphPlatform(queue?: (platform: Platform) => JobQueue): Promise<SubgraphPlatform> {
  const folder = await mkdtemp(join(tmpdir(), 'hartonomous-'))
  const db = await openDatabase({ folder })
  const payloads = await openFilePayloadStore(join(folder, 'payloads'))
  const platform: Platform = {
    env: readEnv({ HARTONOMOUS_DATA: folder }),
    log: makeLogger('test', 'silent'),
    db,
    payloads,
    queue: idleQueue(),
  }
  if (queue) platform.queue = queue(platform)
  return {
    platform,
    context: () => ({ platform, tenantId: defaultTenantId, loaders: new Map() }),
    async close() {
      await db.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

// biome-ignore lint/suspicious/noExplicitAny: an answer has the shape of its query
export type Answer = any

/** Runs one operation against a subgraph, validated as the gateway would; `data` or the errors' first message. */
export async function run<T = Answer>(
  schema: GraphQLSchema,
  contextValue: RequestContext,
  source: string,
  variableValues: Record<string, unknown> = {},
): Promise<T> {
  const document = parse(source)
  const invalid = validate(schema, document)
  if (invalid.length > 0) throw new Error(invalid.map(e => e.message).join('; '))
  const result = (await execute({ schema, document, contextValue, variableValues })) as ExecutionResult
  if (result.errors) throw result.errors[0]?.originalError ?? new Error(result.errors.map(e => e.message).join('; '))
  return result.data as T
}

/** A llama-shaped manifest: `layers` × two tensors of [hidden, hidden], embedding, final norm, tied head. */
export function makeManifest(
  overrides: Partial<Manifest> & { layers?: number; hidden?: number; seed?: string } = {},
): Manifest {
  const { layers = 8, hidden = 16, seed = 'a', ...rest } = overrides
  const payload = (n: number) => Buffer.from(`${seed}${n}`).toString('hex').padEnd(64, '0').slice(0, 64)
  const tensor = (
    name: string,
    layerIndex: number | null,
    component: ManifestTensor['component'],
    shape: number[],
    n: number,
  ) => ({
    name,
    layerIndex,
    component,
    shape,
    dtype: 'F32',
    bytes: shape.reduce((a, b) => a * b, 4),
    payload: payload(n),
  })
  const tensors = [
    tensor('model.embed_tokens.weight', null, 'EMBEDDING', [64, hidden], 0),
    ...Array.from({ length: layers }, (_, i) => [
      tensor(`model.layers.${i}.self_attn.q_proj.weight`, i, 'ATTENTION', [hidden, hidden], 2 * i + 1),
      tensor(`model.layers.${i}.mlp.up_proj.weight`, i, 'FEED_FORWARD', [2 * hidden, hidden], 2 * i + 2),
    ]).flat(),
    tensor('model.norm.weight', null, 'NORM', [hidden], 1000),
  ]
  return {
    manifestVersion: 1,
    format: 'safetensors',
    architecture: 'llama',
    dimensions: { layerCount: layers, hiddenSize: hidden },
    parameterCount: tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0),
    tensors,
    tokenizer: { tokenizerJson: payload(2000), kind: 'BPE', vocabularySize: 64, eosTokenIds: [0], addBos: false },
    ...rest,
  }
}

/** Registers a model as an ingest would: manifest payload and rows. */
export async function addModel(
  { db, payloads }: Platform,
  name: string,
  manifest = makeManifest(),
): Promise<ModelAtom> {
  const { hash } = await payloads.put([Buffer.from(JSON.stringify(manifest))])
  return db.tx(em =>
    registerModel(em, {
      tenantId: defaultTenantId,
      manifest,
      manifestHash: hash,
      name,
      source: `/models/${name}`,
      isStudent: false,
      jobId: null,
    }),
  )
}

/** The queued job behind a row id, as the pool sees it, its input checked against the job type. */
export async function jobOf<K extends JobName>(platform: Platform, type: K, id: string) {
  const row = await platform.db.read.findOneByOrFail(Job, { id })
  if (row.type !== type) throw new Error(`job ${id} is a ${row.type}`)
  return { ...toRecord(row), input: jobTypes[type].input.parse(row.input) as JobInput<K> }
}

/** Finishes a job as the job store does: the owner's effect and the new state in one transaction. */
export async function succeed<K extends JobName>(
  platform: Platform,
  subgraph: Subgraph,
  type: K,
  jobId: string,
  output: JobOutput<K>,
) {
  const parsed = jobTypes[type].output.parse(output) as JobOutput<K>
  await platform.db.tx(async em => {
    const job = await jobOf(platform, type, jobId)
    const effect = subgraph.effects[type] as JobEffect<K> | undefined
    await effect?.succeeded?.(em, job, parsed, platform)
    await em.update(Job, { id: jobId }, { state: 'SUCCEEDED', finishedAt: new Date() })
  })
}

/** Ends a job without a result. */
export async function end(
  platform: Platform,
  subgraph: Subgraph,
  jobId: string,
  state: 'FAILED' | 'CANCELLED',
  error: JobRecord['error'] = null,
) {
  await platform.db.tx(async em => {
    await em.update(Job, { id: jobId }, { state, error, finishedAt: new Date() })
    const job = toRecord(await em.findOneByOrFail(Job, { id: jobId }))
    const effect = subgraph.effects[job.type] as JobEffect<JobName> | undefined
    await effect?.ended?.(em, job, platform)
  })
}
