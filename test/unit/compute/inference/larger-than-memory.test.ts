// A model whose weights are more than sessions may hold, and whose float32 form is more than the cache may: all is computed layer by layer.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listDerived } from '../../../../compute/formats/float-weights.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { writeSafetensorsHeader } from '../../../../compute/formats/safetensors.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { sessionPool } from '../../../../compute/runtime/session-pool.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { makePicoLlama, type PicoLlama, picoTokenizer } from '../../../testkit/pico-llama.js'

const layers = 6
const hidden = 32
/** Float32 numbers of one layer of the pico model below, all linear layers and norms. */
const layerBytes = 4 * (hidden * (32 + 16 + 16 + 32) + 3 * hidden * 48 + 2 * hidden)
const samples = [
  { ids: [1, 5, 17, 40, 40, 3, 22, 63, 9], completionStart: 4 },
  { ids: [1, 30, 8, 12], completionStart: 2 },
  { ids: [1, 7, 7, 50, 21], completionStart: 3 },
]

/** Rounds towards zero to the upper half of float32, which is what a BF16 file holds. */
function encodeBfloat16({ tensors }: PicoLlama): Buffer {
  const entries = [...tensors].map(([name, { shape, data }]) => ({
    name,
    dtype: 'BF16',
    shape,
    bytes: data.length * 2,
  }))
  const bodies = [...tensors.values()].map(({ data }) => {
    const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
    return Buffer.from(Uint16Array.from(bits, b => b >>> 16).buffer)
  })
  return Buffer.concat([writeSafetensorsHeader(entries), ...bodies])
}

let context: TestHandlerContext
let hash: string
const budget = sessionPool.budget
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  const pico = makePicoLlama({ layers })
  const folder = join(context.dataFolder, 'source')
  await mkdir(folder)
  await writeFile(join(folder, 'model.safetensors'), encodeBfloat16(pico))
  await writeFile(join(folder, 'config.json'), JSON.stringify(pico.config))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(picoTokenizer()))
  hash = (await ingestModel({ source: folder }, context)).manifest
})
afterAll(async () => {
  sessionPool.budget = budget
  await context.dispose()
})

const openWith = async (derivedLimit: number, sessions: number) => {
  sessionPool.budget = sessions
  const env = { ...context.env, HARTONOMOUS_DERIVED_BYTES: derivedLimit }
  return openModel(await readManifest(context.payloads, hash), { ...context, env })
}
const derivedBytes = async () => {
  let total = 0
  for await (const file of listDerived(context.dataFolder)) total += file.bytes
  return total
}

describe('a model larger than memory and cache', () => {
  /** The least cache for two layers at work, and the norms and embedding beside them. */
  const limit = 2.5 * layerBytes
  let small: LoadedModel
  let whole: LoadedModel
  beforeAll(async () => {
    small = await openWith(limit, 2 * layerBytes)
  })
  afterAll(async () => {
    await small.dispose()
    await whole?.dispose()
  })

  test('is opened without making its float32 form', async () => {
    expect(small.pieceByPiece).toBe(true)
    expect(await derivedBytes()).toBe(0)
  })

  test('has the losses, probes and gradients of the whole graphs, within bounds of memory and disk', async () => {
    const gates = [
      [1, 1, 1, 1, 1, 1],
      [1, 0, 1, 1, 0, 1],
      [1, 1, 1, 1, 1, 1],
    ].map(g => Float32Array.from(g))
    const scores = await small.score(samples, { gates, probes: true })
    const gradients = await small.headGradients(samples)
    expect(await derivedBytes()).toBeLessThanOrEqual(limit)
    expect(sessionPool.bytes).toBeLessThanOrEqual(2 * layerBytes)

    whole = await openWith(1024 ** 3, budget)
    expect(whole.pieceByPiece).toBe(false)
    const expected = await whole.score(samples, { gates, probes: true })
    scores.forEach((score, i) => {
      const other = expected[i]!
      expect(score).toMatchObject({ completionTokens: other.completionTokens, hits: other.hits })
      expect(Math.abs(score.nll / other.nll - 1)).toBeLessThan(2e-6)
      for (const name of ['cosine', 'norm'] as const) {
        for (let layer = 0; layer < layers; layer++)
          expect(Math.abs(score.probes![name][layer]! / other.probes![name][layer]! - 1)).toBeLessThan(2e-6)
      }
    })
    const expectedGradients = await whole.headGradients(samples)
    gradients.forEach(({ loss, gradients: own }, i) => {
      const other = expectedGradients[i]!
      expect(Math.abs(loss / other.loss - 1)).toBeLessThan(2e-6)
      const greatest = Math.max(...other.gradients.map(Math.abs))
      expect(greatest).toBeGreaterThan(1e-3)
      own.forEach((value, k) => {
        expect(Math.abs(value - other.gradients[k]!) / greatest).toBeLessThan(1e-5)
      })
    })
  })

  test('is refused whole, with both numbers', async () => {
    const total = layers * layerBytes + 4 * (64 * hidden + hidden)
    await expect(small.forward({ ids: [[1, 2]], wantLogits: 'last' })).rejects.toMatchObject({
      code: 'DISK_FULL',
      message: expect.stringContaining(`takes ${total} bytes, HARTONOMOUS_DERIVED_BYTES allows ${limit}`),
    })
  })

  test('names a tensor of the wrong size when it is opened', async () => {
    const manifest = await readManifest(context.payloads, hash)
    const tensors = manifest.tensors.map(t =>
      t.role === 'layers.3.q' ? { ...t, payload: manifest.tensors[0]!.payload } : t,
    )
    const env = { ...context.env, HARTONOMOUS_DERIVED_BYTES: limit }
    await expect(openModel({ ...manifest, tensors }, { ...context, env })).rejects.toMatchObject({
      code: 'SHAPE_MISMATCH',
      message: expect.stringContaining('layers.3.self_attn.q_proj'),
    })
  })
})
