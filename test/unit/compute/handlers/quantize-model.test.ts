// Quantising a small model: what is stored, what it says against the model before, and every refusal.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { intDtype, intScheme } from '../../../../compute/formats/int-blocks.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { checkPayloads } from '../../../../compute/handlers/check-payloads.js'
import { collectGarbage } from '../../../../compute/handlers/collect-garbage.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import type { HandlerContext } from '../../../../compute/handlers/handler.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { quantizeModel } from '../../../../compute/handlers/quantize-model.js'
import { openModel } from '../../../../compute/inference/model.js'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { writeTrained } from '../../../../compute/training/write-trained.js'
import { mostAttempts, quantizationSchema } from '../../../../lib/quantization.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let folder: string
let source: string
let probeSet: string

/** Words of random letters: enough tokens to calibrate with and to compare on. */
function lines(): Buffer {
  const random = seededRandom(5)
  const word = () =>
    Array.from({ length: 3 + Math.floor(random() * 5) }, () => 'abcdefghijkl'[Math.floor(random() * 12)]).join('')
  const text = (words: number) => Array.from({ length: words }, word).join(' ')
  const samples = Array.from({ length: 60 }, (_, i) => ({
    task: i % 2 ? 'odd' : 'even',
    subtask: 'words',
    split: i < 48 ? 'probe' : 'validation',
    prompt: text(4),
    completion: text(3),
  }))
  return Buffer.from(samples.map(s => JSON.stringify(s)).join('\n'))
}

beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  folder = await mkdtemp(join(tmpdir(), 'pico-'))
  await writePicoLlama(folder, { hidden: 64, intermediate: 96, heads: 4, keyValueHeads: 2, layers: 3 })
  source = (await ingestModel({ source: folder }, context)).manifest
  probeSet = (await context.payloads.put([lines()])).hash
})
afterAll(async () => {
  await context.dispose()
  await rm(folder, { recursive: true, force: true })
})

const quantise = (given: Record<string, unknown>, manifest = source) =>
  quantizeModel({ manifest, options: quantizationSchema.parse(given), probeSet, maxTokens: 64 }, context)

test('4 bits, calibrated: smaller, nearer to the model before than rounding to nearest, and told per capability', async () => {
  const nearest = await quantise({ type: 'INT4', method: 'ROUND_TO_NEAREST' })
  const calibrated = await quantise({ type: 'INT4', calibrationTokens: 2048 })
  expect(calibrated.types).toEqual({ F32: 7, Q4_0: 21, Q8_0: 1 })
  expect(nearest.types).toEqual(calibrated.types)
  const { comparison } = calibrated
  expect(comparison.sizeBytes).toBe(nearest.comparison.sizeBytes)
  expect(comparison.sizeBytes).toBeLessThan(comparison.referenceSizeBytes * 0.2)
  expect(comparison.divergence).toBeLessThan(nearest.comparison.divergence * 0.8)
  expect(comparison.divergence).toBeGreaterThan(0)
  expect(comparison.capabilities.map(c => c.capability)).toEqual(['even', 'odd'])
  const weighted = comparison.capabilities.reduce((sum, c) => sum + c.divergence * c.positions, 0)
  expect(weighted / comparison.positions).toBeCloseTo(comparison.divergence, 10)
  expect(comparison.tokensPerSecond).toBeGreaterThan(0)
  const manifest = await readManifest(context.payloads, calibrated.manifest)
  expect(manifest.quantisedFrom).toBe(source)
  expect(manifest.sourceFiles).toBeUndefined()
})

test('calibrating twice gives the same bytes', async () => {
  const [a, b] = [await quantise({ type: 'INT4' }), await quantise({ type: 'INT4' })]
  expect(a.manifest).toBe(b.manifest)
})

test('calibrating says how much of an input’s factor is there, beside how many weights are done', async () => {
  context.reports.length = 0
  await quantise({ type: 'INT4', calibrationTokens: 512 })
  const factors = context.reports.filter(({ metrics }) => metrics?.factored !== undefined)
  // Four inputs of each of three layers, and the head's; none is wider than a panel of columns.
  expect(factors).toHaveLength(13)
  for (const report of factors)
    expect(report).toMatchObject({ stage: 'quantise', unit: 'weights', metrics: { factored: 1 } })
  expect(factors.map(({ completed }) => completed)).toEqual(factors.map(r => r.completed).toSorted((a, b) => a - b))
})

test('inputs beyond float32 are refused, naming the tensor that they go into', async () => {
  const before = await readManifest(context.payloads, source)
  const { shape } = before.tensors.find(t => t.role === 'layers.1.up')!
  const weight = new Float32Array(shape[0]! * shape[1]!).map((_, i) => (i % 7) * 1e20)
  const { hash } = await writeTrained(before, [{ name: 'layers.1.up', weight }], context)
  await expect(quantise({ type: 'INT4', calibrationTokens: 512 }, hash)).rejects.toMatchObject({
    code: 'NOT_A_NUMBER',
    message: expect.stringMatching(
      /^tensor model\.layers\.1\.mlp\.down_proj\.weight: the sums of products of its inputs/,
    ),
  })
})

test('8 bits say nearly what the model before says', async () => {
  const { comparison } = await quantise({ type: 'INT8', method: 'ROUND_TO_NEAREST' })
  expect(comparison.agreement).toBeGreaterThan(0.97)
  expect(comparison.divergence).toBeLessThan(1e-3)
})

test('matrices that are raised get 8 bits, tables are left where asked', async () => {
  const { manifest } = await quantise({
    type: 'INT4',
    method: 'ROUND_TO_NEAREST',
    head: 'KEEP',
    raised: ['layers.1.down'],
  })
  const { tensors } = await readManifest(context.payloads, manifest)
  const types = Object.fromEntries(tensors.map(t => [t.role, t.dtype]))
  expect(types['layers.1.down']).toBe('Q8_0')
  expect(types['layers.0.down']).toBe('Q4_0')
  expect(types.embed).toBe('F32')
  await expect(quantise({ type: 'INT4', raised: ['layers.9.down'] })).rejects.toMatchObject({ code: 'BAD_USER_INPUT' })
})

describe.each([
  ['INT4', true, 64],
  ['INT4', false, 64],
  ['INT8', true, 64],
  ['INT8', false, 32],
  ['INT4', false, 128],
] as const)('%s, symmetric %s, blocks of %i', (type, symmetric, blockSize) => {
  test('runs the same in float32 and on kernels, and goes out as GGUF with the same weights', async () => {
    const options = { type, symmetric, blockSize, method: 'ROUND_TO_NEAREST' }
    const { manifest: hash } = await quantise(options)
    const manifest = await readManifest(context.payloads, hash)
    const q = manifest.tensors.find(t => t.role === 'layers.0.q')!
    // 64 columns hold no block of 128, 96 only blocks of 32.
    const size = Math.min(blockSize, 64) as 32 | 64
    const bits = type === 'INT4' ? 4 : 8
    expect(q.dtype).toBe(intDtype({ bits, symmetric, blockSize: size }))
    expect(intScheme(manifest.tensors.find(t => t.role === 'layers.0.down')!.dtype)?.blockSize).toBe(32)

    const ids = [1, 5, 9, 12, 7, 20]
    const logits = async (of: string, kernels: 'float32' | 'quantised') => {
      const opened = await openModel(await readManifest(context.payloads, of), {
        ...context,
        env: { ...context.env, HARTONOMOUS_KERNELS: kernels },
      })
      const result = (await opened.startSequence().append(ids)).slice()
      await opened.dispose()
      return result
    }
    const exact = await logits(hash, 'float32')
    const scale = Math.max(...exact.map(Math.abs))
    const worst = (a: Float32Array) => Math.max(...a.map((value, i) => Math.abs(value - exact[i]!))) / scale
    // The kernels round activations to 8 bits.
    expect(worst(await logits(hash, 'quantised'))).toBeLessThan(0.05)

    const { files } = await exportModel({ manifest: hash, name: 'pico', format: 'GGUF' }, context)
    const again = await ingestModel({ source: join(context.dataFolder, 'exports', files[0]!.path) }, context)
    const types = new Set((await readManifest(context.payloads, again.manifest)).tensors.map(t => t.dtype))
    expect(types.has(bits === 4 ? (symmetric ? 'Q4_0' : 'Q4_1') : symmetric ? 'Q8_0' : 'F32')).toBe(true)
    expect([...types].some(t => t.startsWith('INT'))).toBe(false)
    expect(worst(await logits(again.manifest, 'float32'))).toBeLessThan(1e-5)
  })
})

describe('quantising what is quantised', () => {
  test('starts again from the full-precision source that is kept', async () => {
    const four = await quantise({ type: 'INT4', method: 'ROUND_TO_NEAREST' })
    const eight = await quantise({ type: 'INT8', method: 'ROUND_TO_NEAREST' }, four.manifest)
    expect(eight.source).toBe(source)
    expect(eight.manifest).toBe((await quantise({ type: 'INT8', method: 'ROUND_TO_NEAREST' })).manifest)
  })

  test('is refused where that is gone, cut, or never was here, each with its reason', async () => {
    const { manifest } = await quantise({ type: 'INT4', method: 'ROUND_TO_NEAREST' })
    const student = await buildStudent({ parent: manifest, layers: [{ from: 0, to: 2 }] }, context)
    await expect(quantise({ type: 'INT8' }, student.manifest)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('had been quantised here'),
    })
    const exporting = { ...context, jobId: 'came-quantised' }
    const { files } = await exportModel({ manifest, name: 'pico', format: 'GGUF' }, exporting)
    const came = (await ingestModel({ source: join(context.dataFolder, 'exports', files[0]!.path) }, context)).manifest
    await expect(quantise({ type: 'INT8' }, came)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('is Q8_0'),
    })
    const taken = await quantise({ type: 'INT8', requantize: true, method: 'ROUND_TO_NEAREST' }, came)
    expect(taken.comparison.divergence).toBeLessThan(1e-3)
    const lost = await quantise({ type: 'INT4', method: 'ROUND_TO_NEAREST', head: 'INT4' })
    const bytes = await context.payloads.get(source)
    await context.payloads.remove(source)
    try {
      await expect(quantise({ type: 'INT8' }, lost.manifest)).rejects.toMatchObject({
        code: 'CONFLICT',
        message: expect.stringContaining('was deleted'),
      })
    } finally {
      await context.payloads.put([bytes])
    }
  })
})

describe('quantising what is quantised, after its source was deleted', () => {
  let own: TestHandlerContext
  let rounded: string
  beforeAll(async () => {
    own = await handlerContext({ HARTONOMOUS_THREADS: '1' })
    const { manifest } = await ingestModel({ source: folder }, own)
    await own.payloads.put([lines()])
    rounded = (await quantised(manifest, { type: 'INT4' })).manifest
    const cut = await buildStudent({ parent: manifest, layers: [{ from: 0, to: 2 }] }, own)
    await collectGarbage({ manifests: [rounded, cut.manifest], payloads: [probeSet] }, own)
    // Lineage of the cut, without the tensors of the layer that it left out.
    expect(await own.payloads.has(manifest)).toBe(true)
    await expect(checkPayloads(own.payloads, await readManifest(own.payloads, manifest), own.signal)).rejects.toThrow()
  })
  afterAll(() => own.dispose())
  const quantised = (manifest: string, given: Record<string, unknown>) => {
    const options = quantizationSchema.parse({ method: 'ROUND_TO_NEAREST', ...given })
    return quantizeModel({ manifest, options, probeSet, maxTokens: 64 }, own)
  }
  const cutAndQuantised = (given: Record<string, unknown>) => {
    const quantization = { type: 'INT8', method: 'ROUND_TO_NEAREST', probeSet, ...given }
    const input = { parent: rounded, layers: [{ from: 0, to: 2 }], stages: { quantization } }
    return buildStudent(jobTypes['student.build'].input.parse(input), own)
  }
  const refused = { code: 'CONFLICT', message: expect.stringContaining('was deleted') }

  test('is refused although its manifest is kept as lineage, and takes the rounded values where told to', async () => {
    await expect(quantised(rounded, { type: 'INT8' })).rejects.toMatchObject(refused)
    const { source: from, comparison } = await quantised(rounded, { type: 'INT8', requantize: true })
    expect(from).toBe(rounded)
    expect(comparison.divergence).toBeLessThan(1e-3)
  })

  test('a build that cuts and quantises it is refused alike, and cuts the rounded one where told to', async () => {
    await expect(cutAndQuantised({})).rejects.toMatchObject(refused)
    const { manifest } = await cutAndQuantised({ requantize: true })
    expect((await readManifest(own.payloads, manifest)).parent?.manifest).toBe(rounded)
  })
})

describe('within a budget', () => {
  const sizes = async (hash: string) =>
    (await readManifest(context.payloads, hash)).tensors.reduce((sum, t) => sum + t.bytes, 0)
  const plain = { type: 'INT4', method: 'ROUND_TO_NEAREST' }

  test('of bytes: no larger, nearer than 4 bits everywhere, and told by group', async () => {
    const [four, eight] = [await quantise(plain), await quantise({ ...plain, type: 'INT8' })]
    const [least, most] = [await sizes(four.manifest), await sizes(eight.manifest)]
    const maximumBytes = Math.round((least + most) / 2)
    const { manifest, search, comparison } = await quantise({ ...plain, maximumBytes })
    expect(await sizes(manifest)).toBeLessThanOrEqual(maximumBytes)
    expect(search!.bytes).toBe(await sizes(manifest))
    expect(search!.groups).toBe(12)
    expect(Object.values(search!.choices).reduce((a, b) => a + b, 0)).toBe(12)
    expect(Object.keys(search!.choices).length).toBeGreaterThan(1)
    expect(comparison.divergence).toBeLessThan(four.comparison.divergence)
    expect(comparison.divergence).toBeGreaterThan(eight.comparison.divergence)
    // Small changes of different matrices add up, roughly.
    expect(search!.measuredDivergence / search!.predictedDivergence).toBeGreaterThan(0.3)
    expect(search!.measuredDivergence / search!.predictedDivergence).toBeLessThan(3)
    // What is multiplied at once has one form.
    const { tensors } = await readManifest(context.payloads, manifest)
    const type = (role: string) => tensors.find(t => t.role === role)!.dtype
    for (let layer = 0; layer < 3; layer++)
      expect(new Set(['q', 'k', 'v'].map(role => type(`layers.${layer}.${role}`))).size).toBe(1)
  })

  test('what is only tried leaves nothing in the store', async () => {
    // Another model, of which nothing was rounded yet.
    const other = await mkdtemp(join(tmpdir(), 'pico-'))
    await writePicoLlama(other, { seed: 9, hidden: 64, intermediate: 96, heads: 4, keyValueHeads: 2, layers: 2 })
    const model = (await ingestModel({ source: other }, context)).manifest
    await rm(other, { recursive: true })
    const before = new Set<string>()
    for await (const { hash } of context.payloads.list()) before.add(hash)
    const { manifest } = await quantise({ ...plain, maximumBytes: Math.round((await sizes(model)) * 0.8) }, model)
    const { tensors } = await readManifest(context.payloads, manifest)
    const needed = new Set([manifest, ...tensors.map(t => t.payload)])
    for await (const { hash } of context.payloads.list()) expect(before.has(hash) || needed.has(hash), hash).toBe(true)
  })

  test('matrices that are raised keep 8 bits or more, and with them what is multiplied at once', async () => {
    const raised = ['layers.1.down', 'layers.2.k']
    const whole = await sizes((await quantise({ ...plain, raised })).manifest)
    const { manifest } = await quantise({ ...plain, raised, maximumBytes: whole + 2000 })
    const { tensors } = await readManifest(context.payloads, manifest)
    for (const role of ['layers.1.down', ...['q', 'k', 'v'].map(own => `layers.2.${own}`)])
      expect(intScheme(tensors.find(t => t.role === role)!.dtype)?.bits ?? 32, role).toBeGreaterThanOrEqual(8)
    expect(tensors.some(t => intScheme(t.dtype)?.bits === 4)).toBe(true)
  })

  test('of quality: measured and met in fewer bytes than 8 bits everywhere; out of reach, or bytes too few: refused with the numbers', async () => {
    const coarse = await quantise({ ...plain, maximumBytes: (await sizes((await quantise(plain)).manifest)) + 1 })
    const minimumQuality = Math.exp(-coarse.search!.measuredDivergence / 4)
    const { manifest, search } = await quantise({ ...plain, minimumQuality })
    expect(Math.exp(-search!.measuredDivergence)).toBeGreaterThanOrEqual(minimumQuality)
    expect(await sizes(manifest)).toBeLessThan(await sizes(source))
    await expect(quantise({ ...plain, maximumBytes: 1000 })).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
      field: ['input', 'maximumBytes'],
    })
    await expect(
      quantise({ ...plain, maximumBytes: search!.bytes - 2000, minimumQuality: 0.999999 }),
    ).rejects.toMatchObject({ code: 'BAD_USER_INPUT', field: ['input', 'minimumQuality'] })
  })
})

describe('a quality that only the head keeps it from', () => {
  const wanted = { type: 'INT4', method: 'ROUND_TO_NEAREST', minimumQuality: 0.9999 }

  test.each([
    // Layers are rounded at first, and less from attempt to attempt.
    [0.9999, mostAttempts - 1],
    // No rounded layer is good enough from the start.
    [0.99999999, 1],
  ])('%d is refused by that name, without attempts that come to the same', async (minimumQuality, most) => {
    context.reports.length = 0
    await expect(quantise({ ...wanted, minimumQuality, head: 'INT4' })).rejects.toMatchObject({
      code: 'BAD_USER_INPUT',
      field: ['input', 'minimumQuality'],
      message: expect.stringMatching(/, but 0\.\d{6} is what \d attempts? came to.*\(embed as Q4_0\).*KEEP/),
    })
    const attempts = context.reports.filter(({ stage, completed }) => stage === 'quantise' && completed === 0)
    expect(attempts.length).toBeLessThanOrEqual(most)
  })

  test('is met where the head is kept', async () => {
    const { search } = await quantise({ ...wanted, head: 'KEEP' })
    expect(Math.exp(-search!.measuredDivergence)).toBeGreaterThanOrEqual(wanted.minimumQuality)
    expect(search!.predictedDivergence).toBeGreaterThan(0)
  })
})

describe('as a stage of a build', () => {
  const build = (
    parent: string,
    quantization: Record<string, unknown>,
    more: Record<string, unknown> = {},
    on: HandlerContext = context,
  ) =>
    buildStudent(
      jobTypes['student.build'].input.parse({
        parent,
        layers: [{ from: 0, to: 2 }],
        stages: { quantization: { probeSet, calibrationTokens: 512, ...quantization }, ...more },
      }),
      on,
    )

  test('the cut is quantised last, compared with what it was, and made once', async () => {
    const built = await build(source, { type: 'INT4' })
    expect(built.stages?.map(({ stage, reused }) => [stage, reused])).toEqual([
      ['extract', false],
      ['quantise', false],
    ])
    const [cut, quantised] = built.stages!
    const student = await readManifest(context.payloads, built.manifest)
    expect(student.quantisedFrom).toBe(cut!.manifest)
    expect(student.parent?.manifest).toBe(source)
    expect(new Set(student.tensors.map(t => t.dtype))).toEqual(new Set(['Q4_0', 'Q8_0', 'F32']))
    expect(quantised!.measurements).toMatchObject({
      sizeBytes: student.tensors.reduce((sum, t) => sum + t.bytes, 0),
      tokensPerSecond: expect.any(Number),
    })
    const again = await build(source, { type: 'INT4' })
    expect(again.manifest).toBe(built.manifest)
    expect(again.stages?.every(({ reused }) => reused)).toBe(true)
  })

  test('a parent that was quantised here is cut from the values before', async () => {
    const { manifest: rounded } = await quantise({ type: 'INT8', method: 'ROUND_TO_NEAREST' })
    const [fromSource, fromRounded] = [await build(source, { type: 'INT4' }), await build(rounded, { type: 'INT4' })]
    expect(fromRounded.manifest).toBe(fromSource.manifest)
  })

  test('training after quantising is not thrown away by quantising again', async () => {
    const { manifest: rounded } = await quantise({ type: 'INT8', method: 'ROUND_TO_NEAREST' })
    const before = await readManifest(context.payloads, rounded)
    const norm = { ...before.tensors.find(t => t.role === 'layers.0.attn_norm')! }
    const values = new Float32Array(norm.shape[0]!).fill(0.5)
    const { hash: trained } = await writeTrained(before, [{ name: 'layers.0.attn_norm', weight: values }], context)
    await expect(quantise({ type: 'INT4' }, trained)).rejects.toMatchObject({ code: 'CONFLICT' })
  })

  test('stops at once when cancelled, and keeps the stages before', async () => {
    const stopping = new AbortController()
    const on = {
      ...context.withSignal(stopping.signal),
      progress: ({ stage }: { stage: string }) => {
        if (stage === 'quantise') stopping.abort()
      },
    }
    await expect(build(source, { type: 'INT4', calibrationTokens: 1024 }, {}, on)).rejects.toThrow()
    const { stages } = await build(source, { type: 'INT4', calibrationTokens: 1024 })
    expect(stages?.map(({ reused }) => reused)).toEqual([true, false])
  })
})

test('a cancelled job stops and leaves no manifest', async () => {
  const before = []
  for await (const { hash } of context.payloads.list()) before.push(hash)
  const options = quantizationSchema.parse({ type: 'INT4', calibrationTokens: 4096 })
  const input = { manifest: source, options, probeSet, maxTokens: 64 }
  await expect(quantizeModel(input, context.withSignal(AbortSignal.abort()))).rejects.toThrow()
  const after = []
  for await (const { hash } of context.payloads.list()) after.push(hash)
  expect(after).toEqual(before)
})
