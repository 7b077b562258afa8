// Subgraphs on a temporary folder with real database, payloads and job store, and a queue that is not started: jobs end as a test says.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ExecutionResult, execute, type GraphQLSchema, parse, validate } from 'graphql'
import { embeddedQueue } from '../../compute/pool/embedded-queue.js'
import type { JobInput, JobName, JobOutput } from '../../compute/pool/job-types.js'
import { jobTypes } from '../../compute/pool/job-types.js'
import type { JobStore } from '../../compute/pool/queue.js'
import { openDatabase } from '../../db/data-source.js'
import { Job, type ModelAtom, ProbeDataset, ProbeSampleCount } from '../../db/entities/index.js'
import { registerModel } from '../../db/models.js'
import { defaultTenantId } from '../../db/scope.js'
import { readEnv } from '../../lib/env.js'
import { newId } from '../../lib/ids.js'
import { makeLogger } from '../../lib/log.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import { toRecord } from '../../subgraphs/build/enqueue.js'
import type { JobEffects, Platform, RequestContext } from '../../subgraphs/build/platform.js'
import type { Subgraph } from '../../subgraphs/build/subgraph.js'
import { openJobStore } from '../../subgraphs/compute/job-store.js'

export interface SubgraphPlatform {
  platform: Platform
  store: JobStore
  context(): RequestContext
  close(): Promise<void>
}

/** Opens a folder with these subgraphs started. */
export async function openSubgraphPlatform(...subgraphs: Subgraph[]): Promise<SubgraphPlatform> {
  const folder = await mkdtemp(join(tmpdir(), 'hartonomous-'))
  const env = readEnv({ HARTONOMOUS_DATA: folder })
  const log = makeLogger('test', 'silent')
  const db = await openDatabase({ folder })
  const effects: JobEffects = Object.assign({}, ...subgraphs.map(s => s.effects))
  const store = openJobStore(db, effects, () => platform)
  const queue = embeddedQueue({ store, env, log })
  const platform: Platform = { env, log, db, payloads: await openFilePayloadStore(join(folder, 'payloads')), queue }
  for (const subgraph of subgraphs) await subgraph.start?.(platform)
  return {
    platform,
    store,
    context: () => ({ platform, tenantId: defaultTenantId, loaders: new Map() }),
    async close() {
      await queue.stop(0)
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

/** A probe set's rows, by default with the built-in one's name; `slugs` have four texts to learn from and four held out. Texts are not stored. */
export async function addProbeDataset(
  { db }: Platform,
  { name = 'hartonomous', version = 1, probeSetHash = 'ab'.repeat(32), slugs = [] as string[] } = {},
): Promise<{ id: string; probeSetHash: string }> {
  const [id, tenantId] = [newId(), defaultTenantId]
  await db.tx(async em => {
    const sampleCount = Math.max(1, 8 * slugs.length)
    await em.insert(ProbeDataset, { id, tenantId, name, version, probeSetHash, sampleCount, createdAt: new Date() })
    for (const slug of slugs) {
      const counts = { probeCount: 4, validationCount: 4 }
      await em.insert(ProbeSampleCount, { id: newId(), tenantId, probeDatasetId: id, slug, ...counts })
    }
  })
  return { id, probeSetHash }
}

/** The queued job behind a row id, as the pool sees it, its input checked against the job type. */
export async function jobOf<K extends JobName>(platform: Platform, type: K, id: string) {
  const row = await platform.db.read.findOneByOrFail(Job, { id })
  if (row.type !== type) throw new Error(`job ${id} is a ${row.type}`)
  return { ...toRecord(row), input: jobTypes[type].input.parse(row.input) as JobInput<K> }
}

/** Claims jobs of the lane until this one runs. */
async function runJob(p: SubgraphPlatform, _type: JobName, jobId: string) {
  for (let job = await p.store.get(jobId); job?.state === 'QUEUED'; job = await p.store.get(jobId))
    if (!(await p.store.claim(job.lane, 'test'))) throw new Error(`job ${jobId} cannot be claimed`)
}

/** Runs a job to a result as a worker would report it; the record says whether its owner took it. */
export async function succeed<K extends JobName>(p: SubgraphPlatform, type: K, jobId: string, output: JobOutput<K>) {
  await runJob(p, type, jobId)
  const job = await p.store.get(jobId)
  return job?.state === 'RUNNING' ? p.store.succeed(jobId, jobTypes[type].output.parse(output), null, 0) : job!
}

export async function failJob(
  p: SubgraphPlatform,
  type: JobName,
  jobId: string,
  error: { code: string; message: string },
) {
  await runJob(p, type, jobId)
  return p.store.fail(jobId, { ...error, retryable: false }, null, 0)
}

export async function cancelJob(p: SubgraphPlatform, type: JobName, jobId: string) {
  await runJob(p, type, jobId)
  return p.store.cancel(jobId, null, 0)
}
