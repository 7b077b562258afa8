// bench bigger-than-memory: a model of 6 GB is ingested, analysed, exported and cut by a platform whose processes may use 2 GB together.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { launchPlatform } from '../lib/client/launch-platform.js'
import { connectPlatform, type PlatformClient } from '../lib/client/platform-client.js'
import { layerFloatBytes, makeModel } from './bigger/make-model.js'
import { limitMemory } from './bigger/memory-limit.js'

/** Bound of anonymous memory: activations, four processes of Node, ONNX Runtime. Weights are mapped, and no part of it. */
const anonymousBound = 700e6

interface Ended {
  state: string
  error: { message: string } | null
  durationMs: number
  model: { id: string } | null
}

async function runJob(client: PlatformClient, mutation: string, input: Record<string, unknown>): Promise<Ended> {
  const [field, type] = mutation.split(' ') as [string, string]
  const document = `mutation M($input: ${type}!) { ${field}(input: $input) { job { id } userErrors { field message code } } }`
  const { job } = await client.mutate<{ job: { id: string } }>(document, input)
  const query = 'query ($id: ID!) { job(id: $id) { state durationMs error { message } model { id } } }'
  for (;;) {
    const found = (await client.query<{ job: Ended }>(query, { id: job.id })).job
    if (found.state === 'SUCCEEDED') return found
    if (found.state === 'FAILED' || found.state === 'CANCELLED') throw new Error(`${field}: ${found.error?.message}`)
    await new Promise(resolve => setTimeout(resolve, 200))
  }
}

/** Samples of a few tokens: passes over the weights are what is measured, not products. */
const probes = ['red green blue', 'one two three']
  .flatMap(text =>
    ['probe', 'validation'].map(split =>
      JSON.stringify({
        task: 'counting',
        subtask: 'words',
        split,
        prompt: text.slice(0, 5),
        completion: text.slice(5),
      }),
    ),
  )
  .join('\n')

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: {
      gigabytes: { type: 'string', default: '6' },
      limit: { type: 'string', default: '2' },
      folder: { type: 'string' },
    },
  })
  const folder = values.folder ?? (await mkdtemp(join(tmpdir(), 'bigger-')))
  const limitBytes = Number(values.limit) * 1e9
  const seconds: Record<string, number> = {}
  const peaks: Record<string, number> = {}
  const model = await makeModel(join(folder, 'source'), Number(values.gigabytes) * 1e9)
  const memory = limitMemory(limitBytes)
  const platform = await launchPlatform(join(folder, 'data'), {
    LOG_LEVEL: 'warn',
    HARTONOMOUS_DERIVED_BYTES: String(3 * layerFloatBytes),
  })
  memory.add(platform.pid)
  let peak = 0
  const watch = setInterval(() => {
    peak = Math.max(peak, memory.anonymousBytes())
  }, 50)
  const step = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    peak = 0
    const begin = performance.now()
    const result = await work()
    seconds[name] = Number(((performance.now() - begin) / 1000).toFixed(1))
    peaks[name] = peak
    process.stderr.write(`${name}: ${seconds[name]} s, anonymous memory at most ${(peak / 1e6).toFixed(0)} MB\n`)
    return result
  }
  try {
    const client = connectPlatform(platform.url)
    const ingested = await step('ingest', () =>
      runJob(client, 'ingestModel IngestModelInput', { source: join(folder, 'source'), name: 'big' }),
    )
    await rm(join(folder, 'source'), { recursive: true })
    const modelId = ingested.model!.id
    const probeFile = join(folder, 'probes.jsonl')
    await writeFile(probeFile, `${probes}\n`)
    await runJob(client, 'importProbeDataset ImportProbeDatasetInput', { source: probeFile, name: 'few' })
    const { probeDatasets } = await client.query<{ probeDatasets: { id: string; name: string }[] }>(
      '{ probeDatasets { id name } }',
    )
    const probeDatasetId = probeDatasets.find(set => set.name === 'few')!.id
    await step('analyze', () => runJob(client, 'analyzeModel AnalyzeModelInput', { modelId, probeDatasetId }))
    const { recipe } = await client.mutate<{ recipe: { id: string } }>(
      'mutation ($input: CreateRecipeInput!) { createRecipe(input: $input) { recipe { id } userErrors { field message code } } }',
      {
        parentModelId: modelId,
        name: 'half',
        objective: 'half of the layers',
        layers: [{ from: 0, to: Math.floor(model.layers / 2), reason: 'a bench' }],
      },
    )
    await client.mutate(
      'mutation ($input: ApproveRecipeInput!) { approveRecipe(input: $input) { recipe { id } userErrors { field message code } } }',
      { recipeId: recipe.id },
    )
    await step('build', () => runJob(client, 'buildStudent BuildStudentInput', { recipeId: recipe.id }))
    await step('export', () => runJob(client, 'exportModel ExportModelInput', { modelId, format: 'SAFETENSORS' }))
    const anonymousPeak = Math.max(...Object.values(peaks))
    return {
      modelBytes: model.bytes,
      float32Bytes: model.layers * layerFloatBytes,
      layers: model.layers,
      layerFloatBytes,
      limitBytes,
      limited: 'the server and all its workers together, page cache included (control group)',
      seconds,
      anonymousPeakBytes: peaks,
      anonymousBoundBytes: anonymousBound,
      withinBound: anonymousPeak <= anonymousBound && memory.killed() === 0,
      countedPeakBytes: memory.peakBytes(),
      killedByTheKernel: memory.killed(),
    }
  } finally {
    clearInterval(watch)
    await platform.stop()
    memory.remove()
    if (!values.folder) await rm(folder, { recursive: true, force: true })
  }
}
