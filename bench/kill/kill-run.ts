// Kills a running platform again and again and checks afterwards that it lost nothing: for `bench kill` and its short form in the tests.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { finalStates } from '../../compute/pool/queue.js'
import { openDatabase } from '../../db/data-source.js'
import { Job, ModelAtom, ProbeDataset, StudentModelRecipe, TensorAtom, TensorPayload } from '../../db/entities/index.js'
import { type Manifest, manifestPayloads, manifestSchema } from '../../lib/manifest.js'
import { compiledFile, projectFile } from '../../lib/project.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'

export interface KillRunOptions {
  /** Empty folder to work in: sources and data. */
  folder: string
  kills: number
  /** Seed of the random points. */
  seed?: number
  /** Called with one line per kill. */
  say?: (line: string) => void
}

export interface KillReport {
  serverKills: number
  workerKills: number
  /** By state. */
  jobs: Record<string, number>
  /** Jobs that FAILED, by code: TOO_MANY_ATTEMPTS where the blows fell on one job three times. */
  failures: Record<string, number>
  models: number
  students: number
  payloads: number
  /** What is wrong, one sentence each; empty where all is well. */
  broken: string[]
  seconds: number
}

/** Sources kept in flight: enough that every kill meets work, few enough that the queue empties soon. */
const inFlight = 3
/** Time after work was given in which the blow falls, in milliseconds: the span of an ingest with its start of a worker. */
const blowWithinMs = 1200

/** Ingests copies of the demo model (each with bytes of its own) and builds students of them under kill -9 of server and worker. */
export async function killRun({ folder, kills, seed = 1, say = () => {} }: KillRunOptions): Promise<KillReport> {
  const started = performance.now()
  const random = mulberry32(seed)
  const data = join(folder, 'data')
  const makeSource = sourceMaker(join(folder, 'sources'))
  let server = await startServer(data)
  let [serverKills, workerKills] = [0, 0]
  const asked = new Set<string>()
  try {
    while (serverKills + workerKills < kills) {
      await giveWork(server, makeSource, asked)
      await sleep(random() * blowWithinMs)
      const workers = workersOf(server.process.pid as number)
      const victim = workers[Math.floor(random() * workers.length)]
      if (victim !== undefined && (serverKills + workerKills) % 2 === 1) {
        process.kill(victim, 'SIGKILL')
        workerKills++
        say(`${serverKills + workerKills}: worker`)
        continue
      }
      server.process.kill('SIGKILL')
      await once(server.process, 'exit')
      serverKills++
      const left = await survivors(workers)
      if (left.length > 0) throw new Error(`Workers ${left.join(', ')} outlived their server by 3 s`)
      server = await startServer(data)
      say(`${serverKills + workerKills}: server`)
    }
    await settle(server)
    const { collectGarbage } = await server.query<{ collectGarbage: { job: { id: string } } }>(
      'mutation { collectGarbage(input: {}) { job { id } userErrors { message } } }',
    )
    await settle(server)
    const { job } = await server.query<{ job: { state: string; error: unknown } }>(
      'query ($id: ID!) { job(id: $id) { state error { code message } } }',
      { id: collectGarbage.job.id },
    )
    const found = await check(data)
    if (job.state !== 'SUCCEEDED') found.broken.push(`Garbage collection: ${job.state} ${JSON.stringify(job.error)}`)
    return { serverKills, workerKills, ...found, seconds: (performance.now() - started) / 1000 }
  } finally {
    server.process.kill('SIGTERM')
    await once(server.process, 'exit')
  }
}

export interface Server {
  process: ChildProcess
  query<T>(query: string, variables?: Record<string, unknown>): Promise<T>
}

export async function startServer(data: string): Promise<Server> {
  const child = spawn(process.execPath, [compiledFile('gateway/main.js')], {
    env: { ...process.env, HARTONOMOUS_DATA: data, PORT: '0', HOST: '127.0.0.1', LOG_LEVEL: 'error' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const url = await new Promise<string>((resolve, reject) => {
    let text = ''
    child.stdout.on('data', chunk => {
      text += chunk
      const [, found] = /serves (http\S+\/graphql)/.exec(text) ?? []
      if (found) resolve(found)
    })
    child.once('exit', code => reject(new Error(`The server did not start: exit code ${code}`)))
  })
  return {
    process: child,
    async query<T>(query: string, variables: Record<string, unknown> = {}) {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ query, variables }),
      })
      const { data, errors } = (await response.json()) as { data: T; errors?: unknown }
      if (errors) throw new Error(JSON.stringify(errors))
      return data
    },
  }
}

/** Tops the queue up with ingests, and has a student built of every model that has no recipe yet. */
async function giveWork(server: Server, makeSource: () => Promise<string>, asked: Set<string>): Promise<void> {
  const { jobs, models } = await server.query<{
    jobs: { totalCount: number }
    models: { nodes: { id: string; layerCount: number }[] }
  }>(`{
    jobs(states: [QUEUED, RUNNING], types: [MODEL_INGEST]) { totalCount }
    models(first: 20, isStudent: false) { nodes { id layerCount } }
  }`)
  for (let n = jobs.totalCount; n < inFlight; n++) {
    await server.query('mutation ($source: String!) { ingestModel(input: { source: $source }) { job { id } } }', {
      source: await makeSource(),
    })
  }
  for (const { id, layerCount } of models.nodes) {
    if (asked.has(id)) continue
    asked.add(id)
    const { createRecipe } = await server.query<{ createRecipe: { recipe: { id: string } } }>(
      `mutation ($id: ID!, $to: Int!) {
        createRecipe(input: { parentModelId: $id, layers: [{ from: 0, to: $to }] }) { recipe { id } userErrors { message } }
      }`,
      { id, to: layerCount - 2 },
    )
    await server.query(
      `mutation ($id: ID!) {
        approveRecipe(input: { recipeId: $id }) { userErrors { message } }
        buildStudent(input: { recipeId: $id }) { job { id } userErrors { message } }
      }`,
      { id: createRecipe.recipe.id },
    )
  }
}

/** Waits until no job is queued or running. */
export async function settle(server: Server): Promise<void> {
  for (const deadline = Date.now() + 300_000; Date.now() < deadline; await sleep(100)) {
    const { jobs } = await server.query<{ jobs: { totalCount: number } }>(
      '{ jobs(states: [QUEUED, RUNNING]) { totalCount } }',
    )
    if (jobs.totalCount === 0) return
  }
  throw new Error('Jobs are still queued or running after 300 s')
}

/** Copies of the demo model without its tokenizer (students are then not measured), the first bytes of every tensor changed. */
function sourceMaker(folder: string): () => Promise<string> {
  let count = 0
  return async () => {
    const source = join(folder, `model-${++count}`)
    await mkdir(source, { recursive: true })
    await cp(projectFile('demo', 'model', 'config.json'), join(source, 'config.json'))
    const file = await readFile(projectFile('demo', 'model', 'model.safetensors'))
    const headerBytes = Number(file.readBigUInt64LE(0))
    const header: Record<string, { data_offsets?: [number, number] }> = JSON.parse(
      file.toString('utf8', 8, 8 + headerBytes),
    )
    const mark = Buffer.from(`${process.pid} ${Date.now()} ${count}`.padEnd(32).slice(0, 32))
    for (const { data_offsets: offsets } of Object.values(header))
      if (offsets) mark.copy(file, 8 + headerBytes + offsets[0])
    await writeFile(join(source, 'model.safetensors'), file)
    return source
  }
}

/** Reads database and payload store from outside: every model whole, nothing orphaned, every job ended, rows and bytes in step. */
export async function check(data: string): Promise<Omit<KillReport, 'serverKills' | 'workerKills' | 'seconds'>> {
  const broken: string[] = []
  const db = await openDatabase({ folder: data })
  const store = await openFilePayloadStore(join(data, 'payloads'))
  const needed = new Set<string>()
  try {
    const jobs = await db.read.find(Job)
    for (const job of jobs)
      if (!finalStates.includes(job.state)) broken.push(`Job ${job.id} (${job.type}) is ${job.state}`)

    const models = await db.read.find(ModelAtom)
    const references = new Map<string, number>()
    for (const model of models) {
      const manifest = await readManifest(model.manifestHash)
      if (!manifest) {
        broken.push(`Model ${model.name}: its manifest ${model.manifestHash} is not in the store`)
        continue
      }
      needed.add(model.manifestHash)
      for (const hash of manifestPayloads(manifest)) needed.add(hash)
      for (let above = manifest.parent?.manifest; above; above = (await readManifest(above))?.parent?.manifest)
        needed.add(above)
      const rows = await db.read.find(TensorAtom, { where: { modelId: model.id }, order: { ordinal: 'ASC' } })
      if (rows.map(r => r.payloadHash).join() !== manifest.tensors.map(t => t.payload).join())
        broken.push(
          `Model ${model.name}: ${rows.length} tensor rows do not match the ${manifest.tensors.length} of its manifest`,
        )
      for (const row of rows) references.set(row.payloadHash, (references.get(row.payloadHash) ?? 0) + 1)
    }
    for (const payload of await db.read.find(TensorPayload))
      if (payload.referenceCount !== (references.get(payload.hash) ?? 0))
        broken.push(
          `Payload ${payload.hash}: ${payload.referenceCount} references counted, ${references.get(payload.hash) ?? 0} made`,
        )

    // Results and rows: both or neither.
    const made = new Set(models.map(m => m.id))
    const ingested = jobs.filter(j => j.type === 'model.ingest' && j.state === 'SUCCEEDED')
    for (const job of ingested)
      if (!job.modelId || !made.has(job.modelId)) broken.push(`Job ${job.id} SUCCEEDED without a model`)
    if (ingested.length !== models.filter(m => !m.isStudent).length)
      broken.push(`${ingested.length} ingests SUCCEEDED, ${models.filter(m => !m.isStudent).length} models are there`)
    const built = jobs.filter(j => j.type === 'student.build' && j.state === 'SUCCEEDED').length
    const students = models.filter(m => m.isStudent).length
    if (built !== students) broken.push(`${built} builds SUCCEEDED, ${students} students are there`)
    for (const recipe of await db.read.find(StudentModelRecipe)) {
      if (recipe.status === 'BUILDING') broken.push(`Recipe ${recipe.name} is BUILDING though no job runs`)
      if (recipe.status === 'BUILT' && !made.has(recipe.studentModelId ?? ''))
        broken.push(`Recipe ${recipe.name} is BUILT without a student`)
    }

    for (const { probeSetHash } of await db.read.find(ProbeDataset)) needed.add(probeSetHash)
    let payloads = 0
    for await (const { hash } of store.list()) {
      payloads++
      if (!needed.has(hash)) broken.push(`Payload ${hash} is orphaned`)
      if ((await store.verify(hash)).hash !== hash) broken.push(`Payload ${hash} is corrupt`)
    }
    for (const hash of needed) if (!(await store.has(hash))) broken.push(`Payload ${hash} is missing`)
    const temporary = await readdir(join(data, 'payloads', 'tmp'))
    if (temporary.length > 0) broken.push(`${temporary.length} temporary files are left`)
    const failures = countBy(jobs.flatMap(j => (j.state === 'FAILED' ? (j.error?.code ?? 'none') : [])))
    return {
      jobs: countBy(jobs.map(j => j.state)),
      failures,
      models: models.length - students,
      students,
      payloads,
      broken,
    }
  } finally {
    await db.close()
  }

  async function readManifest(hash: string): Promise<Manifest | undefined> {
    if (!(await store.has(hash))) return undefined
    return manifestSchema.parse(JSON.parse(Buffer.from(await store.get(hash)).toString('utf8')))
  }
}

function countBy(values: string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1
  return counts
}

/** Process ids of a server's workers. */
export function workersOf(server: number): number[] {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' }).split('\n')
  return lines
    .map(line => line.trim().split(/\s+/))
    .filter(([, ppid, ...args]) => Number(ppid) === server && args.some(a => a.endsWith('worker.js')))
    .map(([pid]) => Number(pid))
}

/** Which of them are still alive after up to three seconds. */
export async function survivors(pids: number[]): Promise<number[]> {
  const alive = () =>
    pids.filter(pid => {
      try {
        process.kill(pid, 0)
        return true
      } catch {
        return false
      }
    })
  for (let waited = 0; waited < 3000 && alive().length > 0; waited += 50) await sleep(50)
  return alive()
}

/** Uniform numbers in [0, 1) from a seed (mulberry32), so that a run can be repeated. */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
