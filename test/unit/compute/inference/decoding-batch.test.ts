import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import type { BatchRow } from '../../../../compute/inference/decoding-batch.js'
import { type LoadedModel, type ModelContext, openModel } from '../../../../compute/inference/model.js'
import { prefixStore } from '../../../../compute/inference/prefix-store.js'
import { greatest } from '../../../../compute/inference/sampling.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import {
  encodeSafetensors,
  makePicoLlama,
  type PicoLlama,
  type PicoOptions,
  writePicoLlama,
} from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

const open = async (folder: string, extra: Partial<ModelContext> = {}) => {
  const { manifest } = await ingestModel({ source: folder }, context)
  return openModel(await readManifest(context.payloads, manifest), { ...context, ...extra })
}
async function openPico(name: string, options: PicoOptions = {}, extra: Partial<ModelContext> = {}) {
  const folder = join(context.dataFolder, name)
  const pico = await writePicoLlama(folder, options)
  return { pico, model: await open(folder, extra) }
}

const worst = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)))
const tokens = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * 7 + seed * 13 + 3) % 64)

/** Greedy tokens, and the logits they came from. */
async function decode(row: BatchRow, prompt: readonly number[], count: number) {
  const ids: number[] = []
  const logits: Float32Array[] = []
  for (let next = prompt; ids.length < count; next = [ids.at(-1)!]) {
    logits.push(await row.append(next))
    ids.push(greatest(logits.at(-1)!))
  }
  row.close()
  return { ids, logits }
}
const run = (model: LoadedModel, prompt: readonly number[], count: number, exact = false) =>
  decode(model.batch.open({ positions: prompt.length + count, exact }), prompt, count)

/** Rows leave with the next step. */
const emptied = (model: LoadedModel) => expect.poll(() => model.batch.size, { interval: 1 }).toBe(0)

// Head sizes 16 (rotated inside the attention kernel), 8 (before it, by ids of positions), 4 (filled up); a window.
const shapes: [string, PicoOptions][] = [
  ['head size 16', { heads: 2, keyValueHeads: 1, context: 512 }],
  ['head size 8', { heads: 4, keyValueHeads: 2, context: 512 }],
  ['head size 4', { heads: 8, keyValueHeads: 4, context: 512 }],
  ['a window of 4', { heads: 2, keyValueHeads: 1, window: 4, context: 512 }],
]

describe.each(shapes)('a batch of a pico Llama, %s', (name, options) => {
  let pico: PicoLlama
  let model: LoadedModel
  beforeAll(async () => {
    const opened = await openPico(`shapes-${name.replaceAll(/\W+/g, '-')}`, options)
    pico = opened.pico
    model = opened.model
  })
  afterAll(() => model.dispose())

  test('sequences of all lengths that come and go give the logits of a float64 forward', async () => {
    const plans = [
      { prompt: tokens(1, 1), count: 30 },
      { prompt: tokens(5, 2), count: 3 },
      { prompt: tokens(9, 3), count: 12 },
      { prompt: tokens(2, 4), count: 1 },
      { prompt: tokens(17, 5), count: 8 },
    ]
    const late = { prompt: tokens(12, 6), count: 6 }
    const running = plans.map(({ prompt, count }) => run(model, prompt, count))
    // Comes when some have left already.
    await running[3]
    const all = await Promise.all([...running, run(model, late.prompt, late.count)])
    for (const [i, { prompt }] of [...plans, late].entries()) {
      const { ids, logits } = all[i]!
      const reference = runLlamaFloat64(pico, [...prompt, ...ids.slice(0, -1)])
      logits.forEach((given, step) => {
        expect(worst(given, reference.logits[prompt.length - 1 + step]!)).toBeLessThan(5e-5)
      })
    }
    await emptied(model)
  })

  test('runs many rows per step, and a prompt of several chunks beside them', async () => {
    const before = { ...model.batch.steps }
    const plans = Array.from({ length: 6 }, (_, i) => ({ prompt: tokens(4, i), count: 40 }))
    const long = tokens(300, 9)
    const [{ logits }] = await Promise.all([run(model, long, 2), ...plans.map(p => run(model, p.prompt, p.count))])
    expect(worst(logits[0]!, runLlamaFloat64(pico, long).logits.at(-1)!)).toBeLessThan(1e-4)
    const runs = model.batch.steps.runs - before.runs
    expect((model.batch.steps.rows - before.rows) / runs).toBeGreaterThan(4.5)
  })
})

test('a batch on the binding backend gives the same tokens as on the native one', async () => {
  const { model } = await openPico('backends', { context: 128 })
  const other = await openModel(model.manifest, { ...context, backend: 'binding' })
  const plans = [1, 2, 3].map(seed => ({ prompt: tokens(3 + seed, seed), count: 10 + seed }))
  const all = (m: LoadedModel) => Promise.all(plans.map(p => run(m, p.prompt, p.count)))
  const [native, binding] = [await all(model), await all(other)]
  expect(binding.map(r => r.ids)).toEqual(native.map(r => r.ids))
  await Promise.all([model.dispose(), other.dispose()])
})

describe('prefix reuse', () => {
  const long = { heads: 2, keyValueHeads: 1, context: 512 }

  test('a prompt that goes on from an earlier sequence runs the rest only, with the same result', async () => {
    const prefixes = prefixStore(1e8)
    const { model } = await openPico('prefix', long, { prefixes })
    const first = await run(model, tokens(40, 1), 10)
    const turn = [...tokens(40, 1), ...first.ids, ...tokens(5, 2)]
    const fresh = await openModel(model.manifest, context)
    const expected = await run(fresh, turn, 6)
    const row = model.batch.open({ positions: 100 })
    const { ids, logits } = await decode(row, turn, 6)
    // The last token made was never run.
    expect(row.reused).toBe(49)
    expect(ids).toEqual(expected.ids)
    expect(worst(logits[0]!, expected.logits[0]!)).toBeLessThan(2e-5)
    // Another that parts in the middle takes what is common; the same again all but its last token.
    const branch = model.batch.open({ positions: 100 })
    await decode(branch, [...tokens(20, 1), ...tokens(9, 5)], 2)
    expect(branch.reused).toBe(20)
    const same = model.batch.open({ positions: 100 })
    await decode(same, turn, 2)
    expect(same.reused).toBe(turn.length - 1)
    await Promise.all([model.dispose(), fresh.dispose()])
    expect(prefixes.bytes).toBe(0)
  })

  test('prompts with one preamble that run at once read it once', async () => {
    const { model } = await openPico('preamble', long, { prefixes: prefixStore(1e8) })
    const preamble = tokens(150, 3)
    const rows = [1, 2, 3].map(() => model.batch.open({ positions: 200 }))
    const made = await Promise.all(rows.map((row, i) => decode(row, [...preamble, ...tokens(4, 20 + i)], 5)))
    expect(rows.map(row => row.reused)).toEqual([0, 150, 150])
    for (const [i, { ids }] of made.entries()) {
      const alone = await openModel(model.manifest, context)
      expect((await run(alone, [...preamble, ...tokens(4, 20 + i)], 5)).ids).toEqual(ids)
      await alone.dispose()
    }
    await model.dispose()
  })

  test('what is kept stays within its bytes, the longest unused going first', async () => {
    // 2 layers, keys and values, 1 head of 16 numbers of 4 bytes: 256 bytes a position.
    const prefixes = prefixStore(256 * 100)
    const { model } = await openPico('bounded', long, { prefixes })
    const reuse = async (seed: number, length = 40) => {
      const row = model.batch.open({ positions: 60 })
      await decode(row, tokens(length, seed), 1)
      await emptied(model)
      return row.reused
    }
    await reuse(1)
    await reuse(2)
    expect(prefixes.bytes).toBe(256 * 80)
    expect(await reuse(1)).toBe(39)
    await reuse(3)
    expect(prefixes.bytes).toBe(256 * 80)
    expect(await reuse(1)).toBe(39)
    expect(await reuse(2)).toBe(0)
    // Larger than half of all: not worth the others.
    await reuse(4, 60)
    expect(prefixes.bytes).toBe(256 * 80)
    await model.dispose()
  })
})

describe('exact rows', () => {
  test('give the same bits alone, in a crowd and after reuse', async () => {
    const { model } = await openPico(
      'exact',
      { heads: 2, keyValueHeads: 1, context: 512 },
      { prefixes: prefixStore(1e8) },
    )
    const prompt = tokens(140, 1)
    const alone = await run(model, prompt, 12, true)
    const again = model.batch.open({ positions: 200, exact: true })
    const reused = await decode(again, prompt, 12)
    expect(again.reused).toBe(138)
    const crowd = Array.from({ length: 5 }, (_, i) => run(model, tokens(3 + 4 * i, i + 2), 4 * i + 3))
    const crowded = await run(model, prompt, 12, true)
    await Promise.all(crowd)
    expect(reused.logits).toEqual(alone.logits)
    expect(crowded.logits).toEqual(alone.logits)
    // A turn that goes on from generated tokens may only take over those that were read.
    const turn = [...prompt, ...alone.ids, ...tokens(6, 8)]
    const next = model.batch.open({ positions: 300, exact: true })
    const { logits } = await decode(next, turn, 3)
    expect(next.reused).toBe(140)
    const fresh = await openModel(model.manifest, context)
    expect(logits).toEqual((await run(fresh, turn, 3, true)).logits)
    await Promise.all([model.dispose(), fresh.dispose()])
  })
})

describe('leaving', () => {
  test('a row whose caller leaves is gone with the next step, and the others go on', async () => {
    const { pico, model } = await openPico('leaving', { context: 512 })
    const other = run(model, tokens(4, 1), 60)
    const abort = new AbortController()
    const row = model.batch.open({ positions: 500 })
    await row.append(tokens(4, 2), abort.signal)
    const waiting = row.append([5], abort.signal)
    expect(model.batch.size).toBe(2)
    abort.abort()
    await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' })
    row.close()
    const { runs } = model.batch.steps
    // Every turn of the event loop: a step of this model takes less than the millisecond that polling by a timer would miss.
    while (model.batch.size > 1) await setImmediate()
    expect(model.batch.size).toBe(1)
    expect(model.batch.steps.runs - runs).toBeLessThanOrEqual(2)
    const { ids, logits } = await other
    const reference = runLlamaFloat64(pico, [...tokens(4, 1), ...ids.slice(0, -1)])
    expect(worst(logits.at(-1)!, reference.logits.at(-1)!)).toBeLessThan(5e-5)
    await expect(row.append([1])).rejects.toMatchObject({ code: 'CANCELLED' })
    await model.dispose()
  })

  test('one that leaves before its turn never joins', async () => {
    const { model } = await openPico('before', { context: 64 })
    const abort = new AbortController()
    const row = model.batch.open({ positions: 60 })
    const waiting = row.append(tokens(4, 2), abort.signal)
    abort.abort()
    row.close()
    await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' })
    await run(model, tokens(3, 1), 3)
    await emptied(model)
    await model.dispose()
  })

  test('disposing the model ends all rows', async () => {
    const { model } = await openPico('disposing', { context: 512 })
    const running = [1, 2].map(seed => run(model, tokens(4, seed), 400))
    for (const promise of running) promise.catch(() => {})
    await new Promise(resolve => setTimeout(resolve, 20))
    await model.dispose()
    for (const promise of running) await expect(promise).rejects.toThrow(/disposed/)
    await expect(run(model, [1], 1)).rejects.toThrow(/disposed/)
  })
})

describe('failures are of one row', () => {
  test('a sequence longer than the context is refused with both numbers, its neighbours go on', async () => {
    const { model } = await openPico('context', { context: 16 })
    const neighbour = run(model, tokens(2, 1), 10)
    const row = model.batch.open({ positions: 16 })
    await row.append(tokens(16, 2))
    await expect(row.append([1])).rejects.toMatchObject({
      code: 'CONTEXT_LENGTH_EXCEEDED',
      message: "17 tokens are more than the model's context of 16",
    })
    const wrong = model.batch.open({ positions: 16 })
    await expect(wrong.append([64])).rejects.toMatchObject({ code: 'BAD_USER_INPUT' })
    expect((await neighbour).ids).toHaveLength(10)
    row.close()
    await model.dispose()
  })

  test('not-a-number logits fail the row that has them, and its keys are not kept', async () => {
    const folder = join(context.dataFolder, 'broken')
    await writePicoLlama(folder, { tied: false })
    const { tensors } = makePicoLlama({ tied: false })
    tensors.get('model.embed_tokens.weight')!.data.fill(Number.NaN, 40 * 32, 41 * 32)
    await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(tensors))
    const prefixes = prefixStore(1e8)
    const model = await open(folder, { prefixes })
    const broken = model.batch.open({ positions: 30 })
    const healthy = model.batch.open({ positions: 30 })
    await Promise.all([broken.append(tokens(9, 1).map(id => id % 40)), healthy.append(tokens(9, 2).map(id => id % 40))])
    const results = await Promise.allSettled([broken.append([40]), healthy.append([41])])
    expect(results).toMatchObject([{ status: 'rejected', reason: { code: 'NOT_A_NUMBER' } }, { status: 'fulfilled' }])
    await expect(broken.append([1])).rejects.toMatchObject({ code: 'NOT_A_NUMBER' })
    broken.close()
    await expect.poll(() => model.batch.size).toBe(1)
    expect(prefixes.bytes).toBe(0)
    await model.dispose()
  })
})
