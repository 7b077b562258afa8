// How fast this machine reads weights, measured once: from it follows how many tokens per second a model can decode at most.
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { Env } from '../../lib/env.js'
import type { Manifest } from '../../lib/manifest.js'
import { matrixForm } from '../formats/quantised-weights.js'
import { graphBuilder } from '../graph/builder.js'
import type { Constant } from '../graph/ir.js'
import { apply } from '../ops/apply.js'
import { createSession, floats } from '../runtime/session.js'

const rooflineSchema = z.object({
  /** Which machine it was measured on, with how many threads. */
  device: z.string(),
  /** Bytes of float32 weights per second while one row is multiplied: the memory's speed. */
  bytesPerSecond: z.number().positive(),
  /** Weights per second of the kernels that multiply codes of 4 and of 8 bits by one row. */
  weightsPerSecond4: z.number().positive(),
  weightsPerSecond8: z.number().positive(),
  /** Multiplications and additions per second of a large float32 matrix product. */
  flopsPerSecond: z.number().positive(),
})
/** Rates of one device, each the best of a few runs. */
export type Roofline = z.infer<typeof rooflineSchema>

type Context = { dataFolder: string; env: Pick<Env, 'HARTONOMOUS_THREADS'> & Partial<Pick<Env, 'HARTONOMOUS_KERNELS'>> }

/** Matrices of [rows, width]: larger than the last-level cache in every form. */
const width = 2048
const floatRows = 8192
const codeRows = 32_768
const blockSize = 32
/** Rows multiplied at once where arithmetic is the limit. */
const manyRows = 256
const repetitions = 4

/** The rates of this device: measured when first asked for, kept in `derived/`. */
export async function deviceRoofline(context: Context): Promise<Roofline> {
  const threads = context.env.HARTONOMOUS_THREADS
  const device = `${cpus()[0]?.model.trim() || process.arch}, ${threads || cpus().length} threads`
  const path = join(context.dataFolder, 'derived', 'roofline-v1.json')
  const stored = rooflineSchema.safeParse(await readJson(path))
  if (stored.success && stored.data.device === device) return stored.data
  const measured = { device, ...(await measure(context)) }
  const temporary = `${path}.${process.pid}.tmp`
  await writeFile(temporary, JSON.stringify(measured))
  await rename(temporary, path)
  return measured
}

async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch {
    return undefined
  }
}

async function measure({ dataFolder, env }: Context): Promise<Omit<Roofline, 'device'>> {
  const folder = join(dataFolder, 'derived')
  await mkdir(folder, { recursive: true })
  const location = `roofline-${process.pid}.bin`
  const bytes = floatRows * width * 4
  const file = join(folder, location)
  const handle = await open(file, 'w')
  try {
    // Any numbers will do, but denormal ones would be slow.
    await handle.write(Buffer.alloc(bytes, Buffer.from(Float32Array.of(0.01).buffer)))
    await handle.close()
    const options = { weightsFolder: folder, threads: env.HARTONOMOUS_THREADS }
    const floatSeconds = async (rows: number) => {
      const g = graphBuilder('roofline, float32')
      const x = g.input('x', 'float32', ['rows', width])
      const weight = g.weight('weight', [floatRows, width], { location, offset: 0, length: bytes })
      g.output(apply(g, 'Gemm', [x, weight], { transB: 1 }), 'y')
      return timed(await createSession(g.build(), options), rows)
    }
    const codeSeconds = async (bits: 4 | 8) => {
      const g = graphBuilder(`roofline, ${bits} bits`)
      const x = g.input('x', 'float32', ['rows', width])
      const blocks = width / blockSize
      const codes: Constant = {
        name: 'codes',
        type: 'uint8',
        shape: [codeRows, blocks, (blockSize * bits) / 8],
        data: { location, offset: 0, length: (codeRows * width * bits) / 8 },
      }
      const scales: Constant = {
        name: 'scales',
        type: 'float32',
        shape: [codeRows, blocks],
        data: { location, offset: 0, length: codeRows * blocks * 4 },
      }
      const attributes = { K: width, N: codeRows, bits, block_size: blockSize, accuracy_level: 4 }
      g.output(apply(g, 'MatMulNBits', [x, codes, scales], attributes), 'y')
      const graph = g.build()
      const whole = { ...graph, constants: [...graph.constants, codes, scales] }
      return timed(await createSession(whole, { ...options, prepack: true }), 1)
    }
    return {
      bytesPerSecond: bytes / (await floatSeconds(1)),
      weightsPerSecond4: (codeRows * width) / (await codeSeconds(4)),
      weightsPerSecond8: (codeRows * width) / (await codeSeconds(8)),
      flopsPerSecond: (2 * manyRows * floatRows * width) / (await floatSeconds(manyRows)),
    }
  } finally {
    await handle.close().catch(() => {})
    await rm(file, { force: true })
  }
}

/** Seconds of the fastest run. */
async function timed(session: Awaited<ReturnType<typeof createSession>>, rows: number): Promise<number> {
  try {
    const x = floats(new Float32Array(rows * width).fill(0.5), [rows, width])
    let best = Number.POSITIVE_INFINITY
    // The first run maps the file.
    for (let i = 0; i <= repetitions; i++) {
      const begin = performance.now()
      await session.run({ x }, ['y'])
      if (i > 0) best = Math.min(best, (performance.now() - begin) / 1000)
    }
    return best
  } finally {
    await session.dispose()
  }
}

/**
 * Tokens per second that one stream can be decoded at, at most: every weight of the kept layers and the head is read once per token, each
 * at the rate of the kernel that multiplies it. Attention over long contexts and the work between products come on top.
 * @param layers kept; null: all
 */
export function decodeCeiling(
  roofline: Roofline,
  manifest: Manifest,
  layers: readonly number[] | null,
  { quantisedKernels }: { quantisedKernels: boolean },
): number {
  const kept = layers && new Set(layers)
  // A tied embedding is the head and read whole; of another one a row per token.
  const untied = manifest.tensors.some(t => t.component === 'LM_HEAD')
  let seconds = 0
  for (const { layerIndex, component, shape, dtype } of manifest.tensors) {
    if (shape.length !== 2 || (layerIndex !== null && kept && !kept.has(layerIndex))) continue
    if (component === 'EMBEDDING' && untied) continue
    const weights = shape[0]! * shape[1]!
    const form = quantisedKernels ? matrixForm({ dtype, shape }) : undefined
    if (!form) {
      seconds += Math.max((4 * weights) / roofline.bytesPerSecond, (2 * weights) / roofline.flopsPerSecond)
      continue
    }
    seconds += weights / (form.bits === 4 ? roofline.weightsPerSecond4 : roofline.weightsPerSecond8)
    if (form.offsets) seconds += ((weights / form.blockSize) * 4) / roofline.bytesPerSecond
  }
  return 1 / seconds
}
