// `npm run bench -- decode [model] [--peer PYTHON]`: prefill and decoding speed as a user gets it, in turns with the memory bandwidth and the matrix
// multiplication of the same process and, with a Python that has llama-cpp-python, with llama.cpp on the same files as Q4_1, Q8_0 and F32.
// `--profile PREFIX` times every kernel of a step too, at some cost in speed, and keeps ONNX Runtime's files beginning with PREFIX.
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { readManifest } from '../compute/formats/manifest.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../compute/inference/model.js'
import { greatest } from '../compute/inference/sampling.js'
import { readEnv } from '../lib/env.js'
import { makeLogger } from '../lib/log.js'
import { projectFile } from '../lib/project.js'
import { openFilePayloadStore } from '../payloads/file-payload-store.js'
import { llamaPeer, quantisedFile } from './kit/llama-peer.js'
import { bandwidth, matrixMultiply, seconds } from './kit/machine-rates.js'
import { nodeTimes } from './kit/node-times.js'

const defaultModel = () =>
  projectFile('..', 'shared', 'models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
/** What llama.cpp makes of the default model, to measure other types on. */
const otherTypes = ['q8_0', 'f32']
/** Tokens before those whose decoding is timed, as the peer has. */
const decodingPrompt = 16

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!

/** Parameters that every token is multiplied by: of the model's matrices all but the embedding. */
const linearParameters = ({ manifest }: LoadedModel) =>
  manifest.tensors
    .filter(({ shape, component }) => shape.length === 2 && component !== 'EMBEDDING' && component !== 'LM_HEAD')
    .reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0)

/** Bytes of float32 weights that one decoded token reads: all of them, but of an untied embedding only one row. */
function bytesPerToken({ manifest, dimensions: d }: LoadedModel): number {
  return (manifest.parameterCount - (d.tiedEmbeddings ? 0 : d.vocabularySize * d.hiddenSize)) * 4
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
  try {
    const files = [positionals[0] ?? defaultModel()]
    for (const type of peer ? otherTypes : []) {
      const file = quantisedFile(dataFolder, type)
      await peer!.requantise(files[0]!, file, type)
      files.push(file)
    }
    const open = async (source: string) => {
      const { manifest } = await ingestModel({ source }, context)
      const profile = values.profile && `${values.profile}-${basename(source)}`
      const model = await openModel(await readManifest(context.payloads, manifest), { ...context, profile })
      // Both kinds of run once, so that their sessions are there.
      await speedsOf(model, prefillTokens, 2)
      return { source, name: basename(source, '.gguf'), model }
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
        if (name.includes('f32')) note(`${name}: decode / memory bound`, (own.decode * bytesPerToken(model)) / bytes)
        if (!peer) continue
        const other = await peer.speeds(source, prefillTokens, decodeTokens, threads)
        note(`${name}: prefill of llama.cpp, tokens/s`, other.prefill)
        note(`${name}: prefill / llama.cpp`, own.prefill / other.prefill)
        note(`${name}: decode of llama.cpp, tokens/s`, other.decode)
        note(`${name}: decode / llama.cpp`, own.decode / other.decode)
      }
    }
    for (const { model } of models) await model.dispose()
    const profiles = values.profile === undefined ? [] : models
    for (const { source, name } of profiles) {
      // Written when the sessions were disposed.
      const times = await nodeTimes(`${values.profile}-${basename(source)}`)
      const nodes = new Table({ head: [`${name}: a step`, 'nodes', 'µs'], colAligns: ['left', 'right', 'right'] })
      for (const { op, nodes: count, microseconds } of times) nodes.push([op, count, microseconds])
      process.stderr.write(`${nodes.toString()}\n`)
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
