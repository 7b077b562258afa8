// `npm run bench -- decode [model]`: prefill and decoding speed on float32 and quantised kernels, against the memory bandwidth measured in turns with them.
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { readManifest } from '../compute/formats/manifest.js'
import { graphBuilder } from '../compute/graph/builder.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../compute/inference/model.js'
import { apply } from '../compute/ops/apply.js'
import { createSession, floats } from '../compute/runtime/session.js'
import { readEnv } from '../lib/env.js'
import { makeLogger } from '../lib/log.js'
import { projectFile } from '../lib/project.js'
import { openFilePayloadStore } from '../payloads/file-payload-store.js'

const defaultModel = () =>
  projectFile('..', 'shared', 'models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')

const seconds = async (work: () => Promise<unknown>): Promise<number> => {
  const started = performance.now()
  await work()
  return (performance.now() - started) / 1000
}
const median = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Reads 512 MB of float32 once per call, summing them on all threads: bytes per second are the memory's. */
async function bandwidthProbe(threads: number, weightsFolder: string) {
  const shape = [32768, 4096]
  const g = graphBuilder('bandwidth')
  const x = g.input('x', 'float32', shape)
  const sum = apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 0 }, { name: 'sum' })
  g.output(sum)
  const session = await createSession(g.build(), { weightsFolder, threads })
  const feeds = { x: floats(new Float32Array(32768 * 4096).fill(1), shape) }
  return {
    bytesPerSecond: async () => (32768 * 4096 * 4) / (await seconds(() => session.run(feeds, ['sum']))),
    dispose: () => session.dispose(),
  }
}

/** Bytes of float32 weights that one decoded token reads: all of them, but of an untied embedding only one row. */
function bytesPerToken({ manifest, dimensions }: LoadedModel): number {
  const embedding = dimensions.tiedEmbeddings ? 0 : dimensions.vocabularySize * dimensions.hiddenSize
  return (manifest.parameterCount - embedding) * 4
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '5' },
      prefill: { type: 'string', default: '256' },
      decode: { type: 'string', default: '64' },
    },
  })
  const [rounds, prefillTokens, decodeTokens] = [values.rounds, values.prefill, values.decode].map(Number) as [
    number,
    number,
    number,
  ]
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-decode-'))
  const env = { ...readEnv(), HARTONOMOUS_DATA: dataFolder, HARTONOMOUS_KERNELS: 'float32' as const }
  const threads = env.HARTONOMOUS_THREADS || availableParallelism()
  try {
    const context = {
      jobId: 'bench',
      payloads: await openFilePayloadStore(join(dataFolder, 'payloads')),
      dataFolder,
      env,
      log: makeLogger('bench', 'silent'),
      signal: new AbortController().signal,
      progress: () => {},
      delta: () => {},
    }
    const { manifest } = await ingestModel({ source: positionals[0] ?? defaultModel() }, context)
    let model!: LoadedModel
    const openSeconds = await seconds(async () => {
      model = await openModel(await readManifest(context.payloads, manifest), context)
    })
    const firstTokenSeconds = await seconds(() => model.startSequence().append([1]))
    await model.dispose()
    const reopenSeconds = await seconds(async () => {
      model = await openModel(await readManifest(context.payloads, manifest), context)
      await model.startSequence().append([1])
    })

    const probe = await bandwidthProbe(threads, dataFolder)
    const ids = Array.from({ length: prefillTokens }, (_, i) => (i * 37 + 11) % model.dimensions.vocabularySize)
    const speeds = async (opened: LoadedModel) => {
      const sequence = opened.startSequence()
      const prefill = prefillTokens / (await seconds(() => sequence.append(ids)))
      const decode =
        decodeTokens /
        (await seconds(async () => {
          for (let i = 0; i < decodeTokens; i++) await sequence.append([ids[i % ids.length]!])
        }))
      return { prefill, decode }
    }
    const quantised = await openModel(model.manifest, { ...context, env: { ...env, HARTONOMOUS_KERNELS: 'quantised' } })
    await quantised.startSequence().append([1])
    const measured = {
      bandwidth: [] as number[],
      prefill: [] as number[],
      decode: [] as number[],
      ratio: [] as number[],
      quantisedPrefill: [] as number[],
      quantisedDecode: [] as number[],
      speedup: [] as number[],
    }
    for (let round = 0; round < rounds; round++) {
      const bandwidth = await probe.bytesPerSecond()
      const { prefill, decode } = await speeds(model)
      const other = await speeds(quantised)
      measured.bandwidth.push(bandwidth)
      measured.prefill.push(prefill)
      measured.decode.push(decode)
      measured.ratio.push((decode * bytesPerToken(model)) / bandwidth)
      measured.quantisedPrefill.push(other.prefill)
      measured.quantisedDecode.push(other.decode)
      measured.speedup.push(other.decode / decode)
    }
    await probe.dispose()
    await model.dispose()
    await quantised.dispose()

    const table = new Table({ head: ['', 'median', 'best'], colAligns: ['left', 'right', 'right'] })
    const row = (name: string, list: number[], scale: number, digits: number) =>
      table.push([name, (median(list) / scale).toFixed(digits), (Math.max(...list) / scale).toFixed(digits)])
    row(`prefill ${prefillTokens}, tokens/s, float32`, measured.prefill, 1, 0)
    row(`prefill ${prefillTokens}, tokens/s, quantised`, measured.quantisedPrefill, 1, 0)
    row(`decode ${decodeTokens}, tokens/s, float32`, measured.decode, 1, 1)
    row(`decode ${decodeTokens}, tokens/s, quantised`, measured.quantisedDecode, 1, 1)
    row('decode, quantised / float32', measured.speedup, 1, 2)
    row('memory, GB/s', measured.bandwidth, 1e9, 1)
    row('decode / bandwidth bound, float32', measured.ratio, 1, 2)
    process.stderr.write(`${table.toString()}\n`)
    return {
      model: model.manifest.sourceName ?? manifest,
      threads,
      prefillTokensPerSecond: median(measured.prefill),
      decodeTokensPerSecond: median(measured.decode),
      decodeTokensPerSecondBest: Math.max(...measured.decode),
      quantisedPrefillTokensPerSecond: median(measured.quantisedPrefill),
      quantisedDecodeTokensPerSecond: median(measured.quantisedDecode),
      quantisedToFloat32: median(measured.speedup),
      memoryGigabytesPerSecond: median(measured.bandwidth) / 1e9,
      decodeToBandwidthBound: median(measured.ratio),
      firstOpenSeconds: openSeconds,
      firstTokenSeconds,
      reopenToFirstTokenSeconds: reopenSeconds,
    }
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}
