// Kills a running platform while it builds students in stages, and checks that every build ends with the manifest of an undisturbed one.
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { projectFile } from '../../lib/project.js'
import {
  check,
  type KillReport,
  mulberry32,
  type Server,
  settle,
  startServer,
  survivors,
  workersOf,
} from './kill-run.js'

export interface KillBuildsReport extends KillReport {
  /** Builds in all, and those that took over a stage that an attempt before had finished (putting layers together, which all share, not counted). */
  builds: number
  resumedBehindStages: number
  /** Seconds of the build that nothing disturbed. */
  undisturbedSeconds: number
}

/** A job is lost at most twice: the third time it is given up by rule. */
const blowsPerBuild = 2

/** Head pruning by measured loss, narrower feed-forward blocks, projections fitted anew, then healing: all in the device lane, every stage with work to lose. */
const buildInput = (parentModelId: string, layerCount: number, round: number, samplesPerCapability: number) => ({
  parentModelId,
  name: `round ${round}`,
  layers: [
    { from: 0, to: layerCount - 1 },
    { from: layerCount - 2, to: layerCount },
  ],
  // Seeds are parameters that change nothing here: what one build has made is no other's.
  headPruning: { metric: 'TASK_LOSS', remove: 1, correct: true, seed: round },
  feedForwardPruning: {
    keepPerLayer: Array.from({ length: layerCount + 1 }, (_, i) => 160 - 8 * (i % 2)),
    correct: true,
    seed: round,
  },
  // 32 steps with eight checkpoints; patience is longer than there are looks.
  healing: {
    tokens: 6144,
    sequence: 192,
    learningRate: 0.001,
    checkpointSteps: 4,
    patience: 1000 + round,
  },
  samplesPerCapability,
})

interface Built {
  state: string
  error: { code: string; message: string } | null
  manifest: string | undefined
  seconds: number
  reused: number
}

export async function killBuilds({
  folder,
  kills,
  seed = 1,
  samplesPerCapability = 4,
  say = () => {},
}: {
  folder: string
  kills: number
  seed?: number
  /** What stages measure on: the more, the longer the builds. */
  samplesPerCapability?: number
  say?: (line: string) => void
}): Promise<KillBuildsReport> {
  const started = performance.now()
  const random = mulberry32(seed)
  const data = join(folder, 'data')
  let server = await startServer(data)
  let [serverKills, workerKills, builds, resumedBehindStages] = [0, 0, 0, 0]
  const broken: string[] = []
  try {
    await server.query('mutation ($source: String!) { ingestModel(input: { source: $source }) { job { id } } }', {
      source: projectFile('demo', 'model'),
    })
    await settle(server)
    const { models } = await server.query<{ models: { nodes: { id: string; layerCount: number }[] } }>(
      '{ models(first: 1) { nodes { id layerCount } } }',
    )
    const [model] = models.nodes
    if (!model) throw new Error('The demo model was not ingested')
    const undisturbed = await follow(
      () => server,
      await startBuild(server, buildInput(model.id, model.layerCount, 0, samplesPerCapability)),
    )
    if (undisturbed.state !== 'SUCCEEDED') throw new Error(`Undisturbed build: ${JSON.stringify(undisturbed)}`)
    say(`undisturbed: ${undisturbed.seconds.toFixed(1)} s, manifest ${undisturbed.manifest?.slice(0, 12)}`)
    while (serverKills + workerKills < kills) {
      await settle(server)
      const jobId = await startBuild(server, buildInput(model.id, model.layerCount, ++builds, samplesPerCapability))
      for (let blow = 0; blow < blowsPerBuild && serverKills + workerKills < kills; blow++) {
        await sleep(random() * undisturbed.seconds * 1000)
        if ((await jobState(server, jobId)).state !== 'RUNNING') break
        const workers = workersOf(server.process.pid as number)
        if ((serverKills + workerKills) % 2 === 1 && workers.length > 0) {
          for (const worker of workers) process.kill(worker, 'SIGKILL')
          workerKills++
          continue
        }
        server.process.kill('SIGKILL')
        await once(server.process, 'exit')
        serverKills++
        const left = await survivors(workers)
        if (left.length > 0) throw new Error(`Workers ${left.join(', ')} outlived their server by 3 s`)
        server = await startServer(data)
      }
      const built = await follow(() => server, jobId)
      if (built.reused > 0) resumedBehindStages++
      if (built.state !== 'SUCCEEDED') broken.push(`Build ${builds}: ${built.state} ${JSON.stringify(built.error)}`)
      else if (built.manifest !== undisturbed.manifest)
        broken.push(`Build ${builds}: manifest ${built.manifest}, undisturbed ${undisturbed.manifest}`)
      say(`build ${builds}: ${built.state} after ${serverKills + workerKills} kills, ${built.reused} stages taken over`)
    }
    await settle(server)
    await server.query('mutation { collectGarbage(input: {}) { job { id } userErrors { message } } }')
    await settle(server)
    const found = await check(data)
    return {
      serverKills,
      workerKills,
      ...found,
      broken: [...broken, ...found.broken],
      builds,
      resumedBehindStages,
      undisturbedSeconds: undisturbed.seconds,
      seconds: (performance.now() - started) / 1000,
    }
  } finally {
    server.process.kill('SIGTERM')
    await once(server.process, 'exit')
  }
}

/** Writes, approves and builds the recipe; the job's id. */
async function startBuild(server: Server, input: ReturnType<typeof buildInput>): Promise<string> {
  const { createRecipe } = await server.query<{
    createRecipe: { recipe: { id: string } | null; userErrors: unknown[] }
  }>('mutation ($input: CreateRecipeInput!) { createRecipe(input: $input) { recipe { id } userErrors { message } } }', {
    input,
  })
  if (!createRecipe.recipe) throw new Error(JSON.stringify(createRecipe.userErrors))
  const { id } = createRecipe.recipe
  await server.query('mutation ($id: ID!) { approveRecipe(input: { recipeId: $id }) { userErrors { message } } }', {
    id,
  })
  const { buildStudent } = await server.query<{ buildStudent: { job: { id: string } } }>(
    'mutation ($id: ID!) { buildStudent(input: { recipeId: $id }) { job { id } userErrors { message } } }',
    { id },
  )
  return buildStudent.job.id
}

async function jobState(server: Server, id: string) {
  const { job } = await server.query<{
    job: {
      state: string
      durationMs: number | null
      error: Built['error']
      output: { manifest: string } | null
      stages: { stage: string; reused: boolean }[]
    }
  }>('query ($id: ID!) { job(id: $id) { state durationMs error { code message } output stages { stage reused } } }', {
    id,
  })
  return job
}

/** Waits for the end of a job. */
async function follow(server: () => Server, id: string): Promise<Built> {
  for (const deadline = Date.now() + 600_000; Date.now() < deadline; await sleep(100)) {
    const { state, durationMs, error, output, stages } = await jobState(server(), id)
    if (state === 'QUEUED' || state === 'RUNNING') continue
    const reused = stages.filter(one => one.reused && one.stage !== 'extract').length
    return { state, error, manifest: output?.manifest, seconds: (durationMs ?? 0) / 1000, reused }
  }
  throw new Error(`Build ${id} has not ended after 600 s`)
}
