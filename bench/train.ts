// The training step (forward, backward, AdamW) of two Llama shapes at 4 rows of 256 tokens, against the matrix rate of the same process and, with
// `--peer PYTHON`, against torch in turns. FLOPs are 6 per parameter and token, a tied embedding counted once, as the peer counts them; with
// attention's products beside.
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import Table from 'cli-table3'
import { writeManifest } from '../compute/formats/manifest.js'
import { graphBuilder } from '../compute/graph/builder.js'
import { seededRandom } from '../compute/inference/sampling.js'
import { apply } from '../compute/ops/apply.js'
import { createSession, floats } from '../compute/runtime/session.js'
import { adamWDefaults } from '../compute/training/adamw.js'
import { openTrainingModel } from '../compute/training/training-model.js'
import { readEnv } from '../lib/env.js'
import { type Manifest, type ManifestTensor, manifestSchema } from '../lib/manifest.js'
import { compiledFile, projectFile } from '../lib/project.js'
import { openFilePayloadStore } from '../payloads/file-payload-store.js'
import { stepTimes } from './kit/node-times.js'

const shapes = { '26m': { layers: 6, vocabulary: 8192 }, 'smollm2-135m': { layers: 30, vocabulary: 49152 } }
type ShapeName = keyof typeof shapes
const [hidden, intermediate, heads, groups, headSize] = [576, 1536, 9, 3, 64]
const [rows, sequence] = [4, 256]

/** A model of seeded noise as a manifest; matrices of one shape share a payload, which training copies anyway. */
async function noiseModel(name: ShapeName, folder: string) {
  const payloads = await openFilePayloadStore(join(folder, 'payloads'))
  const { layers, vocabulary } = shapes[name]
  const random = seededRandom(1)
  const known = new Map<string, string>()
  const payloadOf = async (shape: readonly number[]) => {
    const hash = known.get(shape.join())
    if (hash) return hash
    const norm = shape.length === 1
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () =>
      norm ? 1 : (random() - 0.5) / 15,
    )
    const put = await payloads.put([new Uint8Array(values.buffer)])
    known.set(shape.join(), put.hash)
    return put.hash
  }
  const tensors: ManifestTensor[] = []
  const add = async (role: string, tensorName: string, shape: number[], layerIndex: number | null) => {
    const component = shape.length === 1 ? 'NORM' : layerIndex === null ? 'EMBEDDING' : 'FEED_FORWARD'
    const bytes = shape.reduce((a, b) => a * b, 4)
    tensors.push({
      name: tensorName,
      role,
      layerIndex,
      component,
      shape,
      dtype: 'F32',
      bytes,
      payload: await payloadOf(shape),
    })
  }
  await add('embed', 'model.embed_tokens.weight', [vocabulary, hidden], null)
  for (let l = 0; l < layers; l++) {
    const at = (role: string, part: string, shape: number[]) =>
      add(`layers.${l}.${role}`, `model.layers.${l}.${part}.weight`, shape, l)
    await at('attn_norm', 'input_layernorm', [hidden])
    await at('q', 'self_attn.q_proj', [heads * headSize, hidden])
    await at('k', 'self_attn.k_proj', [groups * headSize, hidden])
    await at('v', 'self_attn.v_proj', [groups * headSize, hidden])
    await at('o', 'self_attn.o_proj', [hidden, heads * headSize])
    await at('mlp_norm', 'post_attention_layernorm', [hidden])
    await at('gate', 'mlp.gate_proj', [intermediate, hidden])
    await at('up', 'mlp.up_proj', [intermediate, hidden])
    await at('down', 'mlp.down_proj', [hidden, intermediate])
  }
  await add('final_norm', 'model.norm.weight', [hidden], null)
  const manifest: Manifest = manifestSchema.parse({
    manifestVersion: 1,
    format: 'safetensors',
    architecture: 'llama',
    dimensions: {
      layerCount: layers,
      hiddenSize: hidden,
      intermediateSize: intermediate,
      attentionHeadCount: heads,
      keyValueHeadCount: groups,
      headSize,
      vocabularySize: vocabulary,
      contextLength: 2048,
      normEpsilon: 1e-5,
      ropeTheta: 100000,
      ropeLayout: 'half',
      tiedEmbeddings: true,
    },
    parameterCount: tensors.reduce((sum, t) => sum + t.bytes / 4, 0),
    tensors,
  })
  await writeManifest(payloads, manifest)
  return { payloads, manifest }
}

/** GFLOP/s of a product of two 1024 x 1024 matrices, best of 20. */
async function matrixRate(threads: number, weightsFolder: string): Promise<number> {
  const g = graphBuilder('matrix product')
  const [a, b] = [g.input('a', 'float32', [1024, 1024]), g.input('b', 'float32', [1024, 1024])]
  g.output(apply(g, 'Gemm', [a, b]), 'y')
  const session = await createSession(g.build(), { weightsFolder, threads })
  const random = seededRandom(2)
  const matrix = () =>
    floats(
      Float32Array.from({ length: 1024 * 1024 }, () => random() - 0.5),
      [1024, 1024],
    )
  const feeds = { a: matrix(), b: matrix() }
  const into = { y: floats(new Float32Array(1024 * 1024), [1024, 1024]) }
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < 21; i++) {
    const begin = performance.now()
    await session.run(feeds, ['y'], { into })
    if (i > 0) best = Math.min(best, performance.now() - begin)
  }
  await session.dispose()
  return (2 * 1024 ** 3) / best / 1e6
}

async function measure(
  name: ShapeName,
  steps: number,
  recompute: boolean,
  profile?: string,
): Promise<Record<string, unknown>> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-train-'))
  try {
    const { payloads, manifest } = await noiseModel(name, folder)
    const env = readEnv({ HARTONOMOUS_DATA: folder })
    const before = await matrixRate(env.HARTONOMOUS_THREADS, folder)
    const model = await openTrainingModel(
      manifest,
      { payloads, dataFolder: folder, env, ...(profile && { profile }) },
      {
        trained: manifest.tensors.map(t => t.role!),
        crossEntropy: true,
        optimiser: adamWDefaults,
        decayed: () => false,
        clip: 1,
        maximumRows: rows * sequence,
        recompute,
        seed: 1,
      },
    )
    const random = seededRandom(3)
    const { vocabulary } = shapes[name]
    const batch = {
      rows: Array.from({ length: rows }, () => ({
        ids: Array.from({ length: sequence }, () => Math.floor(random() * vocabulary)),
        crossEntropyWeights: Float32Array.from({ length: sequence }, (_, i) =>
          i < sequence - 1 ? 1 / (rows * (sequence - 1)) : 0,
        ),
      })),
      seq: sequence,
    }
    const seconds: number[] = []
    for (let step = 1; step <= steps + 1; step++) {
      const begin = performance.now()
      await model.step([batch], 1e-4, step)
      seconds.push((performance.now() - begin) / 1000)
    }
    await model.dispose()
    if (profile) await kernelTable(profile)
    const after = await matrixRate(env.HARTONOMOUS_THREADS, folder)
    const best = Math.min(...seconds.slice(1))
    const parameters = manifest.parameterCount
    const gflops = (6 * parameters * rows * sequence) / best / 1e9
    // Scores and their sums over values, forward once and backward twice; the peers' count leaves them out.
    const attention = (12 * shapes[name].layers * rows * sequence ** 2 * heads * headSize) / best / 1e9
    const rate = Math.max(before, after)
    const peakBytes = process.resourceUsage().maxRSS * 1024
    return {
      parameters,
      stepSeconds: best,
      allSteps: seconds,
      tokensPerSecond: (rows * sequence) / best,
      gflops,
      matrixGflops: [before, after],
      ofMatrixRate: gflops / rate,
      ofMatrixRateWithAttention: (gflops + attention) / rate,
      peakBytes,
      peakBytesPerParameter: peakBytes / parameters,
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Kernels of a step by op and shapes, as ONNX Runtime times them, and the rate of products. */
async function kernelTable(profile: string) {
  const { ops, runMicroseconds } = await stepTimes(profile, true)
  const table = new Table({
    head: ['op and shapes', 'nodes', 'ms', '% of the run', 'GFLOP/s'],
    colAligns: ['left', 'right', 'right', 'right', 'right'],
  })
  const kernels = ops.reduce((sum, { microseconds }) => sum + microseconds, 0)
  const row = (what: string, nodes: number, microseconds: number, flops?: number) =>
    table.push([
      what,
      nodes,
      (microseconds / 1e3).toFixed(1),
      ((100 * microseconds) / runMicroseconds).toFixed(1),
      flops ? (flops / microseconds / 1e3).toFixed(0) : '',
    ])
  for (const { op, nodes, microseconds, flops } of ops)
    if (microseconds > runMicroseconds / 400) row(op, nodes, microseconds, flops)
  row(
    'all kernels',
    ops.reduce((sum, { nodes }) => sum + nodes, 0),
    kernels,
    ops.reduce((sum, { flops }) => sum + flops, 0),
  )
  process.stderr.write(`${table.toString()}\nrun ${(runMicroseconds / 1e3).toFixed(0)} ms\n`)
}

const execute = promisify(execFile)
const lastLine = (text: string) => JSON.parse(text.trim().split('\n').at(-1)!) as Record<string, unknown>

/** `--shape NAME` (default: both, each in a process of its own), `--steps N` timed after one that is not, `--peer PYTHON`, `--turns N`, `--recompute`; `--profile PREFIX`: one shape here, and where the time of its step goes. */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values: o } = parseArgs({
    args,
    options: {
      shape: { type: 'string' },
      steps: { type: 'string', default: '3' },
      peer: { type: 'string' },
      turns: { type: 'string', default: '1' },
      alone: { type: 'boolean', default: false },
      recompute: { type: 'boolean', default: false },
      profile: { type: 'string' },
    },
  })
  if (o.alone || o.profile) return measure((o.shape ?? '26m') as ShapeName, Number(o.steps), o.recompute, o.profile)
  const names = o.shape ? [o.shape as ShapeName] : (Object.keys(shapes) as ShapeName[])
  const figures: Record<string, unknown> = {}
  for (const name of names) {
    const [ours, theirs]: Record<string, unknown>[][] = [[], []]
    for (let turn = 0; turn < Number(o.turns); turn++) {
      const own = [
        'train',
        '--json',
        '--alone',
        '--shape',
        name,
        '--steps',
        o.steps,
        ...(o.recompute ? ['--recompute'] : []),
      ]
      ours!.push(lastLine((await execute(process.execPath, [compiledFile('bench/main.js'), ...own])).stdout))
      if (!o.peer) continue
      const script = projectFile('..', 'shared', 'peers', 'torch_train.py')
      theirs!.push(lastLine((await execute(o.peer, [script, '--shape', name, '--steps', o.steps])).stdout))
    }
    const fastest = (runs: Record<string, unknown>[], key: string) => Math.max(...runs.map(r => Number(r[key])))
    figures[name] = {
      ours: ours!.sort((a, b) => Number(a.stepSeconds) - Number(b.stepSeconds))[0],
      ...(o.peer
        ? {
            torch: theirs!.sort((a, b) => Number(a.step_s) - Number(b.step_s))[0],
            timesTorch: fastest(ours!, 'tokensPerSecond') / fastest(theirs!, 'tok_s'),
          }
        : {}),
    }
  }
  return figures
}
