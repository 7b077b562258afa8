// `npm run bench -- decode [model] [--peer PYTHON]`: prefill and decoding speed as a user gets it, in turns with the memory bandwidth and the matrix
// multiplication of the same process and, with a Python that has llama-cpp-python, with llama.cpp on the same files as Q4_1, Q8_0 and F32.
// `--profile PREFIX` says afterwards where the time of a step goes, and keeps ONNX Runtime's files beginning with PREFIX.
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { elementCount } from '../compute/formats/float-weights.js'
import { readManifest } from '../compute/formats/manifest.js'
import { quantisedBytes } from '../compute/formats/quantised-weights.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { type LoadedModel, openModel } from '../compute/inference/model.js'
import { greatest } from '../compute/inference/sampling.js'
import { readEnv } from '../lib/env.js'
import { projectFile } from '../lib/project.js'
import { llamaPeer, quantisedFile } from './kit/llama-peer.js'
import { bandwidth, matrixMultiply, seconds } from './kit/machine-rates.js'
import { lowerQuartile, stepTimes } from './kit/node-times.js'

const defaultModel = () =>
  projectFile('..', 'shared', 'models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
/** What llama.cpp makes of the default model, to measure other types on. */
const otherTypes = ['q8_0', 'f32']
/** Steps of which times are recorded. */
const profiledSteps = 40
/** Tokens before those whose decoding is timed, as the peer has. */
const decodingPrompt = 16

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Parameters that every token is multiplied by: of the model's matrices all but the embedding. */
const linearParameters = ({ manifest }: LoadedModel) =>
  manifest.tensors
    .filter(({ shape, component }) => shape.length === 2 && component !== 'EMBEDDING' && component !== 'LM_HEAD')
    .reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0)

/** Bytes of weights that one decoded token reads, in the form that kernels read: all of them, but of an untied embedding only one row. */
function bytesPerToken({ manifest, dimensions: d }: LoadedModel): number {
  return manifest.tensors
    .filter(({ component }) => d.tiedEmbeddings || component !== 'EMBEDDING')
    .reduce((sum, tensor) => sum + (quantisedBytes(tensor) || elementCount(tensor.shape) * 4), 0)
}

/** Multiplications and additions of a prompt: linear layers, causal attention (half of all pairs), one row of the head. */
function prefillOperations(model: LoadedModel, tokens: number): number {
  const d = model.dimensions
  const attention = 2 * d.layerCount * tokens ** 2 * d.attentionHeadCount * d.headSize
  return 2 * linearParameters(model) * tokens + attention + 2 * d.vocabularySize * d.hiddenSize
}

interface Speeds {
  prefill: number
  decode: number
}

/** Tokens per second of a prompt, and of greedy decoding one token at a time. */
async function speedsOf(model: LoadedModel, prefill: number, decode: number): Promise<Speeds> {
  const ids = Array.from({ length: prefill }, (_, i) => (1000 + 37 * i) % model.dimensions.vocabularySize)
  const whole = model.startSequence()
  const prefillSeconds = await seconds(() => whole.append(ids))
  const sequence = model.startSequence()
  let logits = await sequence.append(ids.slice(0, decodingPrompt))
  const decodeSeconds = await seconds(async () => {
    for (let i = 0; i < decode; i++) logits = await sequence.append([greatest(logits)])
  })
  return { prefill: prefill / prefillSeconds, decode: decode / decodeSeconds }
}

/**
 * Where the time of a step goes: kernels by op as ONNX Runtime times them, the rest of its run, and what lies outside it (sampling, checks,
 * the way to its thread and back). Recording takes time of its own, in and between kernels: what the step takes without it stands below.
 */
async function stepTable(name: string, model: LoadedModel, profile: string, plainTokensPerSecond: number) {
  const { startSequence, dispose } = model
  const sequence = startSequence()
  let logits = await sequence.append(Array.from({ length: decodingPrompt }, (_, i) => 1000 + 37 * i))
  const steps: number[] = []
  for (let i = 0; i < profiledSteps; i++)
    steps.push(
      await seconds(async () => {
        logits = await sequence.append([greatest(logits)])
      }),
    )
  const read = bytesPerToken(model)
  // Times are written when the session is disposed.
  await dispose()
  const { ops, runMicroseconds } = await stepTimes(profile)
  const step = lowerQuartile(steps) * 1e6
  const plain = 1e6 / plainTokensPerSecond
  const kernels = ops.reduce((sum, { microseconds }) => sum + microseconds, 0)
  const table = new Table({
    head: [`${name}: a step`, 'nodes', 'µs', '% of the recorded step'],
    colAligns: ['left', 'right', 'right', 'right'],
  })
  const row = (what: string, nodes: number | string, microseconds: number) =>
    table.push([what, nodes, Math.round(microseconds), ((100 * microseconds) / step).toFixed(1)])
  for (const { op, nodes, microseconds } of ops) row(op, nodes, microseconds)
  row(
    'all kernels',
    ops.reduce((sum, { nodes }) => sum + nodes, 0),
    kernels,
  )
  row('within the run, between kernels', '', runMicroseconds - kernels)
  row('outside the run', '', step - runMicroseconds)
  row('step as recorded', '', step)
  row('step without recording', '', plain)
  table.push(['weights read, MB', '', (read / 1e6).toFixed(1), ''])
  table.push(['that is, GB/s without recording', '', (read / plain / 1e3).toFixed(1), ''])
  process.stderr.write(`${table.toString()}\n`)
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      prefill: { type: 'string', default: '256' },
      decode: { type: 'string', default: '64' },
      peer: { type: 'string' },
      profile: { type: 'string' },
    },
  })
  const [rounds, prefillTokens, decodeTokens] = [values.rounds, values.prefill, values.decode].map(Number) as [
    number,
    number,
    number,
  ]
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-decode-'))
  const env = { ...readEnv(), HARTONOMOUS_DATA: dataFolder }
  const threads = env.HARTONOMOUS_THREADS || availableParallelism()
  const place = { threads, weightsFolder: dataFolder }
  const peer = values.peer === undefined ? undefined : llamaPeer(values.peer)
  const context = await standaloneContext(dataFolder)
  try {
    const files = [positionals[0] ?? defaultModel()]
    for (const type of peer ? otherTypes : []) {
      const file = quantisedFile(dataFolder, type)
      await peer!.requantise(files[0]!, file, type)
      files.push(file)
    }
    const open = async (source: string) => {
      const { manifest } = await ingestModel({ source }, context)
      const model = await openModel(await readManifest(context.payloads, manifest), context)
      // Both kinds of run once, so that their sessions are there.
      await speedsOf(model, prefillTokens, 2)
      return { source, name: basename(source, '.gguf'), manifest, model }
    }
    const models = []
    for (const file of files) models.push(await open(file))

    const measured = new Map<string, number[]>()
    const note = (name: string, value: number) => measured.set(name, [...(measured.get(name) ?? []), value])
    const memory = await bandwidth(place)
    const multiply = await matrixMultiply(place)
    for (let round = 0; round < rounds; round++) {
      const bytes = await memory.measure()
      const operations = await multiply.measure()
      note('memory, GB/s', bytes / 1e9)
      note('matrix multiply, GFLOP/s', operations / 1e9)
      for (const { source, name, model } of models) {
        const own = await speedsOf(model, prefillTokens, decodeTokens)
        note(`${name}: prefill, tokens/s`, own.prefill)
        note(
          `${name}: prefill / matrix multiply`,
          (own.prefill / prefillTokens) * (prefillOperations(model, prefillTokens) / operations),
        )
        note(`${name}: decode, tokens/s`, own.decode)
        note(`${name}: decode / memory bound`, (own.decode * bytesPerToken(model)) / bytes)
        if (!peer) continue
        const other = await peer.speeds(source, prefillTokens, decodeTokens, threads)
        note(`${name}: prefill of llama.cpp, tokens/s`, other.prefill)
        note(`${name}: prefill / llama.cpp`, own.prefill / other.prefill)
        note(`${name}: decode of llama.cpp, tokens/s`, other.decode)
        note(`${name}: decode / llama.cpp`, own.decode / other.decode)
      }
    }
    for (const { model } of models) await model.dispose()
    for (const { name, manifest } of values.profile === undefined ? [] : models) {
      const profile = `${values.profile}-${name}`
      const model = await openModel(await readManifest(context.payloads, manifest), { ...context, profile })
      await stepTable(name, model, profile, median(measured.get(`${name}: decode, tokens/s`)!))
    }
    await memory.dispose()
    await multiply.dispose()

    const table = new Table({ head: ['', 'median', 'least', 'best'], colAligns: ['left', 'right', 'right', 'right'] })
    const digits = (value: number) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)
    for (const [name, list] of measured)
      table.push([name, digits(median(list)), digits(Math.min(...list)), digits(Math.max(...list))])
    process.stderr.write(`${table.toString()}\n`)
    return {
      threads,
      prefillTokens,
      decodeTokens,
      ...Object.fromEntries([...measured].map(([name, list]) => [name, Number(median(list).toPrecision(4))])),
    }
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}
