// Healing as a stage of a build: kept only where it helps, the same after a kill, and clear about what it cannot do.
import { createHash } from 'node:crypto'
import { existsSync, rmSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { listDerived, readTensorFloat32 } from '../../../../compute/formats/float-weights.js'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { keptStages, runStages } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import type { HandlerContext } from '../../../../compute/handlers/handler.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { quantizeModel } from '../../../../compute/handlers/quantize-model.js'
import { stageFolder } from '../../../../compute/handlers/stage-records.js'
import { heal } from '../../../../compute/handlers/stages/heal.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { canonicalProbeSet, type ProbeSample } from '../../../../compute/probing/probe-set.js'
import { trainedTensor } from '../../../../compute/training/adamw.js'
import { readCheckpoint, readCheckpointState, writeCheckpoint } from '../../../../compute/training/checkpoint.js'
import type { TrainingState } from '../../../../compute/training/train.js'
import { headPruningSchema } from '../../../../lib/build-stages.js'
import { DomainError } from '../../../../lib/errors.js'
import { type Healing, healingSchema } from '../../../../lib/healing.js'
import { quantizationSchema } from '../../../../lib/quantization.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { healingSamples as samples } from '../../../testkit/healing-samples.js'
import { picoTokenizer, writePicoLlama } from '../../../testkit/pico-llama.js'
import { smallDisk } from '../../../testkit/small-disk.js'

let context: TestHandlerContext
let parent: string
let data: string
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  const folder = join(context.dataFolder, 'teacher')
  await writePicoLlama(folder, { heads: 2, keyValueHeads: 1, layers: 3 })
  parent = (await ingestModel({ source: folder }, context)).manifest
  data = await store(samples())
})
afterAll(() => context.dispose())

const store = async (lines: ProbeSample[]) => (await context.payloads.put([canonicalProbeSet(lines)])).hash

const healing = (changes: Partial<Healing> = {}): Healing =>
  healingSchema.parse({
    data,
    tokens: 64 * 24,
    sequence: 64,
    batchRows: 2,
    learningRate: 0.01,
    teacherTokens: 16,
    crossEntropy: 0.7,
    checkpointSteps: 3,
    ...changes,
  })
const build = (changes: Partial<Healing> = {}, given: HandlerContext = context) =>
  runStages(
    {
      parent,
      layers: [
        { from: 0, to: 1 },
        { from: 2, to: 3 },
      ],
      stages: { healing: healing(changes) },
    },
    given,
  )

/** Float32 tensors of a SafeTensors file, by the format's own description. */
function parseFloats(bytes: Buffer) {
  const begin = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.subarray(8, begin).toString('utf8')) as Record<
    string,
    { shape: number[]; data_offsets: [number, number] }
  >
  return new Map(
    Object.entries(header).flatMap(([name, { shape, data_offsets }]) => {
      if (name === '__metadata__') return []
      const [from, to] = data_offsets
      const data = new Float32Array(new Uint8Array(bytes.subarray(begin + from, begin + to)).buffer)
      return [[name, { shape, data }] as const]
    }),
  )
}

describe('healing a cut student', () => {
  test('lowers held-out loss, keeps the cut’s lineage, and changes weights only', async () => {
    const [cut, healed] = await build()
    const found = healed!.measurements as Record<string, number>
    expect(found.improved).toBe(true)
    expect(found.heldOutAfter).toBeLessThan(0.8 * found.heldOutBefore!)
    expect(found.tokens).toBe(64 * 24)
    expect(found.leaks).toBe(0)
    const [before, after] = [
      await readManifest(context.payloads, cut!.manifest),
      await readManifest(context.payloads, healed!.manifest),
    ]
    expect(after.parent).toEqual({ manifest: parent, layers: [0, 2] })
    expect(after.tensors.map(({ name, shape }) => [name, shape])).toEqual(
      before.tensors.map(({ name, shape }) => [name, shape]),
    )
    expect(after.tensors.every((tensor, i) => tensor.payload !== before.tensors[i]!.payload)).toBe(true)
    const report = context.reports.filter(({ stage }) => stage === 'heal').at(-1)!
    expect(report).toMatchObject({ completed: 12, total: 12, unit: 'steps' })
    expect(Object.keys(report.metrics!)).toEqual(
      expect.arrayContaining([
        'loss',
        'learningRate',
        'gradientNorm',
        'tokensPerSecond',
        'heldOutLoss',
        'bestHeldOutLoss',
      ]),
    )
  })

  test.each<[string, Partial<Healing>]>([
    ['on the data', { seed: 7 }],
    ['half on its own words', { seed: 8, onPolicy: 0.5 }],
    [
      'low-rank changes on its own words, two passes a step',
      { seed: 9, onPolicy: 0.5, train: 'LORA', accumulation: 2, tokens: 64 * 48 },
    ],
  ])('%s, stopped after a checkpoint, it ends with the manifest of an undisturbed run', async (_name, changes) => {
    const [, undisturbed] = await build(changes)
    const other = await handlerContext({ HARTONOMOUS_THREADS: '1' })
    try {
      const folder = join(context.dataFolder, 'teacher')
      expect((await ingestModel({ source: folder }, other)).manifest).toBe(parent)
      await other.payloads.put([canonicalProbeSet(samples())])
      const abort = new AbortController()
      const stopping: HandlerContext = {
        ...other.withSignal(abort.signal),
        progress: report => {
          if (report.stage === 'heal' && report.completed === 8) abort.abort(new DomainError('CANCELLED', 'stop'))
        },
      }
      await expect(build(changes, stopping)).rejects.toThrow('stop')
      let first = 0
      const going: HandlerContext = {
        ...other,
        progress: report => {
          if (report.stage === 'heal') first ||= report.completed
        },
      }
      const [, resumed] = await build(changes, going)
      expect(first).toBe(7) // behind the checkpoint of step 6
      expect(resumed!.manifest).toBe(undisturbed!.manifest)
      expect(resumed!.measurements).toEqual(undisturbed!.measurements)
    } finally {
      await other.dispose()
    }
  })

  test('a student that learns from its own words becomes better, another one than on the data, and leaves no weights behind', async () => {
    const folder = join(context.dataFolder, 'on-policy')
    const [, onData] = await build({ seed: 8, crossEntropy: 0 })
    const [cut, own] = await build({ seed: 8, crossEntropy: 0, onPolicy: 1 })
    expect(own!.manifest).not.toBe(onData!.manifest)
    const found = own!.measurements as Record<string, number>
    expect(found.heldOutAfter).toBeLessThan(found.heldOutBefore!)
    await heal(cut!.manifest, parent, healing({ onPolicy: 0.5, tokens: 64 * 8 }), { ...context, folder })
    expect(await readdir(folder)).not.toContain('own')

    // Matrices that are joined to be computed at once are derived files: of snapshots they would be nobody's.
    const fused = await writeManifest(context.payloads, {
      ...(await readManifest(context.payloads, cut!.manifest)),
      fusions: ['QKV', 'GATE_UP'],
    })
    const derived = async () => {
      const paths: string[] = []
      for await (const { path } of listDerived(context.dataFolder)) paths.push(path)
      return paths.sort()
    }
    const before = await derived()
    await heal(fused.hash, parent, healing({ onPolicy: 0.5, tokens: 64 * 8 }), { ...context, folder })
    expect(await derived()).toEqual(before)
  })

  test('cancelled while the student writes rows it stops, leaves none of them, and goes on to the same weights', async () => {
    const folder = join(context.dataFolder, 'own-cancelled')
    const [cut] = await build()
    const own = healing({ onPolicy: 1, seed: 21, tokens: 64 * 8 })
    const controller = new AbortController()
    const watch = setInterval(() => {
      if (existsSync(join(folder, 'own'))) controller.abort()
    }, 1)
    const error = await heal(cut!.manifest, parent, own, {
      ...context.withSignal(controller.signal),
      folder,
    })
      .catch(e => e)
      .finally(() => clearInterval(watch))
    expect(error.code).toBe('CANCELLED')
    expect(await readdir(folder)).not.toContain('own')
    const resumed = await heal(cut!.manifest, parent, own, { ...context, folder })
    const undisturbed = await heal(cut!.manifest, parent, own, { ...context, folder: `${folder}-not` })
    expect(resumed.manifest).toBe(undisturbed.manifest)
  })

  test('a run that goes on computes as it began, however much memory is free then', async () => {
    const folder = join(context.dataFolder, 'resumed')
    const free = vi.spyOn(process, 'availableMemory').mockReturnValue(0)
    const states = () => readCheckpointState<TrainingState>(folder, 'checkpoint', key)
    const wanted = healing({ tokens: 64 * 8, looks: 1, checkpointSteps: 1 })
    const key = createHash('sha256')
      .update(JSON.stringify([parent, parent, wanted]))
      .digest('hex')
    try {
      const abort = new AbortController()
      const run = (changes: object = {}) => heal(parent, parent, wanted, { ...context, folder, ...changes })
      const stopping = (report: { completed: number }) => {
        if (report.completed === 1) abort.abort(new DomainError('CANCELLED', 'stop'))
      }
      await expect(run({ signal: abort.signal, progress: stopping })).rejects.toThrow('stop')
      expect(await states()).toMatchObject({ step: 1, recompute: true })
      free.mockReturnValue(2 ** 40)
      await run()
      expect(await states()).toMatchObject({ step: 3, recompute: true })
      await rm(folder, { recursive: true })
      await run()
      expect(await states()).toMatchObject({ step: 3, recompute: false })
    } finally {
      free.mockRestore()
    }
  })

  test('a cut of a model that was quantised here, to be quantised again, is trained after the values before', async () => {
    const options = quantizationSchema.parse({ type: 'INT8', method: 'ROUND_TO_NEAREST' })
    const { manifest: rounded } = await quantizeModel(
      { manifest: parent, options, probeSet: data, maxTokens: 64 },
      context,
    )
    const given = (of: string) =>
      jobTypes['student.build'].input.parse({
        parent: of,
        layers: [
          { from: 0, to: 1 },
          { from: 2, to: 3 },
        ],
        stages: {
          healing: healing({ hidden: 0.5, crossEntropy: 0.2, tokens: 64 * 8, looks: 1 }),
          quantization: { type: 'INT8', method: 'ROUND_TO_NEAREST', probeSet: data },
        },
      })
    const [whole, again] = [await runStages(given(parent), context), await runStages(given(rounded), context)]
    expect(again.map(({ manifest }) => manifest)).toEqual(whole.map(({ manifest }) => manifest))
    expect(again[1]!.measurements).toEqual(whole[1]!.measurements)
  })

  test('what the teacher said is asked for once, and shared by its students', async () => {
    const folder = join(context.dataFolder, 'derived', 'teachers', parent)
    await build({ seed: 11 })
    const rows = await readdir(folder)
    await build({ seed: 11, learningRate: 0.005 })
    expect(await readdir(folder)).toEqual(rows)
  })

  test.each<[string, Partial<Healing>]>([
    ['low-rank changes', { train: 'LORA', lora: { rank: 4, alpha: 8, targets: ['q', 'v', 'up', 'down'] } }],
    ['norms alone', { train: 'NORMS' }],
    ['one layer', { train: 'LAYERS', layers: [1] }],
    ['hidden states and attention', { hidden: 0.5, attention: 0.1, hiddenLoss: 'COSINE', crossEntropy: 0.5 }],
  ])('%s: only what is trained changes, and it helps', async (name, changes) => {
    const [cut, healed] = await build({ ...changes, learningRate: 0.02 })
    const found = healed!.measurements as Record<string, number>
    expect(found.heldOutAfter).toBeLessThan(found.heldOutBefore!)
    const [before, after] = [
      await readManifest(context.payloads, cut!.manifest),
      await readManifest(context.payloads, healed!.manifest),
    ]
    const changed = after.tensors.filter((tensor, i) => tensor.payload !== before.tensors[i]!.payload).map(t => t.role!)
    const expected: Record<string, RegExp> = {
      'low-rank changes': /\.(q|v|up|down)$/,
      'norms alone': /norm$/,
      'one layer': /^layers\.1\./,
      'hidden states and attention': /./,
    }
    expect(changed).toEqual(before.tensors.map(t => t.role!).filter(role => expected[name]!.test(role)))
  })

  test('low-rank changes that are kept can be written for PEFT, and lead from the weights before to those after', async () => {
    const lora = { rank: 4, alpha: 8, targets: ['q' as const, 'up' as const], keepAdapter: true }
    const [cut, healed] = await build({ train: 'LORA', lora, learningRate: 0.02 })
    const manifest = await readManifest(context.payloads, healed!.manifest)
    const ancestor = (name: string, hash: string, source: string | null = null) => ({
      ...{ name, manifest: hash, parameterCount: 1, layerCount: 2, source, license: null, objective: null },
    })
    const facts = (...lineage: ReturnType<typeof ancestor>[]) => ({
      ...{ version: null, recipe: null, quality: null, scores: [], history: [], built: [] },
      lineage: [ancestor('healed', healed!.manifest), ...lineage],
    })
    const of = facts(ancestor('cut', cut!.manifest), ancestor('parent', manifest.parent!.manifest))
    const wanted = { manifest: healed!.manifest, name: 'healed', format: 'PEFT' as const, facts: of }
    await exportModel(wanted, context)
    const folder = join(context.dataFolder, 'exports', context.jobId)
    const config = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8'))
    expect(config).toMatchObject({ peft_type: 'LORA', r: 4, lora_alpha: 8, target_modules: ['q_proj', 'up_proj'] })
    expect(config.base_model_name_or_path).toBe('cut')
    // Cut and healed by one recipe: the parent has other layers at these places, and what was healed is no model.
    const unnamed = { ...wanted, facts: facts(ancestor('parent', manifest.parent!.manifest, 'hf:owner/parent')) }
    await expect(exportModel(unnamed, context)).rejects.toThrow(/no model of its own/)
    const factors = parseFloats(await readFile(join(folder, 'adapter_model.safetensors')))
    expect([...factors.keys()].sort()).toEqual(
      [0, 1].flatMap(layer =>
        ['mlp.up_proj', 'self_attn.q_proj'].flatMap(module =>
          ['A', 'B'].map(kind => `base_model.model.model.layers.${layer}.${module}.lora_${kind}.weight`),
        ),
      ),
    )
    const before = await readManifest(context.payloads, cut!.manifest)
    for (const module of ['model.layers.1.self_attn.q_proj', 'model.layers.0.mlp.up_proj']) {
      const of = async ({ tensors }: typeof manifest) =>
        readTensorFloat32(context.payloads, tensors.find(t => t.name === `${module}.weight`)!)
      const [base, merged] = [await of(before), await of(manifest)]
      const [a, b] = ['A', 'B'].map(kind => factors.get(`base_model.model.${module}.lora_${kind}.weight`)!)
      const [outputs, inputs] = [b!.shape[0]!, a!.shape[1]!]
      let most = 0
      for (let o = 0; o < outputs; o++)
        for (let i = 0; i < inputs; i++) {
          let change = 0
          for (let r = 0; r < 4; r++) change += b!.data[o * 4 + r]! * a!.data[r * inputs + i]!
          most = Math.max(most, Math.abs(base[o * inputs + i]! + 2 * change - merged[o * inputs + i]!))
        }
      expect(most).toBeLessThan(1e-6)
    }
    await expect(exportModel({ ...wanted, manifest: cut!.manifest }, context)).rejects.toThrow('healed: has no adapter')
    // Distilled afterwards, as `distillStudent` does it: a build of all layers, whose own manifest of the same tensors is no model either.
    const { manifest: distilled } = (
      await runStages(
        {
          parent: cut!.manifest,
          layers: [{ from: 0, to: 2 }],
          stages: { healing: healing({ train: 'LORA', lora, learningRate: 0.02, teacher: parent }) },
        },
        context,
      )
    ).at(-1)!
    const after = { ...of, lineage: [ancestor('distilled', distilled), ...of.lineage.slice(1)] }
    await exportModel({ ...wanted, manifest: distilled, facts: after }, context)
    const again = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8'))
    expect(again.base_model_name_or_path).toBe('cut')
    // Trained on from there: the adapter leads to other weights than these, and is not kept.
    const tensors = manifest.tensors.map(t =>
      t.role === 'layers.0.up' ? { ...t, payload: before.tensors[0]!.payload } : t,
    )
    const { hash } = await writeManifest(context.payloads, { ...manifest, tensors })
    await expect(exportModel({ ...wanted, manifest: hash }, context)).rejects.toThrow('was changed after its adapter')
  })

  test('that does not help changes nothing, or fails where it must help', async () => {
    const [, good] = await build()
    // A teacher of random weights, followed alone, leads away from the texts.
    const away = (changes: Partial<Healing>) =>
      heal(good!.manifest, parent, healing({ crossEntropy: 0, seed: 5, ...changes }), {
        ...context,
        folder: join(context.dataFolder, 'away'),
      })
    const { manifest, measurements } = await away({})
    expect(measurements).toMatchObject({ improved: false, keptStep: 0 })
    expect(manifest).toBe(good!.manifest)
    await expect(away({ required: true })).rejects.toMatchObject({
      code: 'NOT_IMPROVED',
      message: expect.stringMatching(/below \d+\.\d+ nats per token in 12 steps, after which it was \d+\.\d+;/),
    })
  })

  test('a build that ends without a better student leaves nothing to go on from', async () => {
    const parentOf = { parent: (await build())[1]!.manifest, layers: [{ from: 0, to: 2 }] }
    const stages = { healing: healing({ crossEntropy: 0, seed: 5, required: true, teacher: parent }) }
    await expect(runStages({ ...parentOf, stages }, context)).rejects.toMatchObject({ code: 'NOT_IMPROVED' })
    const { keys } = await keptStages({ ...parentOf, stages }, context.dataFolder)
    for (const key of keys) expect(existsSync(stageFolder(context.dataFolder, key))).toBe(false)
  })

  test('the loss that is said is the mean of both, each by its share', async () => {
    const first = async (crossEntropy: number) => {
      const [, healed] = await build({ crossEntropy, seed: 31, tokens: 64 * 2, learningRate: 1e-9 })
      const report = context.reports.findLast(({ stage }) => stage === 'heal')!.metrics!
      return { loss: healed!.measurements!.firstLoss as number, crossEntropy: Number(report.crossEntropy) }
    }
    const [divergence, half, texts] = [await first(0), await first(0.5), await first(1)]
    expect(half.loss).toBeCloseTo((divergence.loss + texts.loss) / 2, 4)
    expect(half.crossEntropy).toBeCloseTo(texts.crossEntropy, 4)
  })

  test('learning rates that diverge are said to, with step and rate, and keep nothing', async () => {
    const [, good] = await build()
    const wild = healing({ learningRate: 1, warmup: 0, clip: 1e9, tokens: 64 * 60, crossEntropy: 1 })
    await expect(
      heal(good!.manifest, parent, wild, { ...context, folder: join(context.dataFolder, 'wild') }),
    ).rejects.toThrow(/Step \d+: (training diverges, the loss grew from .* at a learning rate of|.*NaN)/)
  })
})

describe('teachers that are not the parent', () => {
  const folder = () => join(context.dataFolder, `stage-${Math.random()}`)

  test('hidden states of a cut of a cut are mapped through both cuts', async () => {
    const cut = (await build())[0]!.manifest
    const again = (await runStages({ parent: cut, layers: [{ from: 0, to: 2 }], stages: {} }, context))[0]!.manifest
    expect((await readManifest(context.payloads, again)).parent?.manifest).toBe(cut)
    const { measurements } = await heal(again, parent, healing({ hidden: 0.5 }), { ...context, folder: folder() })
    expect(measurements.steps).toBe(12)
    const { hash: stranger } = await writeManifest(context.payloads, {
      ...(await readManifest(context.payloads, parent)),
      sourceName: 'stranger',
    })
    await expect(heal(again, stranger, healing({ hidden: 0.5 }), { ...context, folder: folder() })).rejects.toThrow(
      'the student is not a cut of this teacher',
    )
  })

  test('attention of a layer without some of its heads is refused by name', async () => {
    const headPruning = headPruningSchema.parse({ unit: 'QUERY_HEAD', metric: 'GIVEN', heads: [[], [1], []], seed: 0 })
    const pruned = await runStages(
      {
        parent,
        layers: [{ from: 0, to: 3 }],
        stages: { headPruning },
      },
      context,
    )
    const like = (student: number) =>
      heal(
        pruned.at(-1)!.manifest,
        parent,
        healing({ attention: 0.5, layerMapping: [{ student, teacher: student }] }),
        {
          ...context,
          folder: folder(),
        },
      )
    await expect(like(1)).rejects.toThrow(
      '1 attention heads over 1 key/value heads of student layer 1 cannot be like 2 attention heads over 1 key/value heads of teacher layer 1',
    )
    expect((await like(2)).measurements.steps).toBe(12)
    // States of the residual stream are alike in size, whatever heads a layer has left: each layer's with its own.
    const states = healing({ hidden: 1, tokens: 64 * 4 })
    const { measurements } = await heal(pruned.at(-1)!.manifest, parent, states, { ...context, folder: folder() })
    expect(measurements.firstLoss).toBeGreaterThan(0)
  })

  test('a teacher whose table is padded further names only tokens that the student has', async () => {
    const source = join(context.dataFolder, 'padded')
    const vocabulary = (await readManifest(context.payloads, parent)).dimensions.vocabularySize!
    await writePicoLlama(source, { heads: 2, keyValueHeads: 1, layers: 3, seed: 4, vocabulary: vocabulary + 24 })
    await writeFile(join(source, 'tokenizer.json'), JSON.stringify(picoTokenizer(vocabulary)))
    const padded = (await ingestModel({ source }, context)).manifest
    const cut = (await build())[0]!.manifest
    // Every token is named: the teacher's last 24 would be none of the student's.
    const all = healing({ teacherTokens: 4096, crossEntropy: 0, required: false })
    const { measurements } = await heal(cut, padded, all, { ...context, folder: folder() })
    expect(measurements.steps).toBe(12)
    expect(Number.isFinite(measurements.lastLoss)).toBe(true)
  })
})

describe('data and models that do not fit', () => {
  const line = (changes: Partial<ProbeSample>): ProbeSample => ({ ...samples()[1]!, ...changes })
  const run = async (lines: ProbeSample[] | Uint8Array, changes: Partial<Healing> = {}) => {
    const hash = lines instanceof Uint8Array ? (await context.payloads.put([lines])).hash : await store(lines)
    return heal(parent, parent, healing({ data: hash, ...changes }), {
      ...context,
      folder: join(context.dataFolder, 'x'),
    })
  }
  const text = (value: string) => new TextEncoder().encode(value)

  test.each<[string, () => Promise<unknown>, string]>([
    ['nothing at all', () => run(text('')), 'holds no samples'],
    ['other bytes than UTF-8', () => run(Uint8Array.of(0x7b, 0xff, 0xfe, 0x0a)), 'line 1: not valid UTF-8'],
    ['nothing held out', () => run([line({ split: 'probe' })]), 'no held-out lines'],
    ['nothing to train on', () => run([line({ split: 'validation' })]), 'no lines to train on'],
    [
      'the same prompts on both sides',
      () => run([line({ split: 'probe' }), line({ split: 'validation' })]),
      'All 1 training lines have prompts that are held out too',
    ],
    [
      'everything masked, because prompts fill the rows',
      () =>
        run(
          samples().map(s => ({ ...s, prompt: s.prompt.repeat(9) })),
          { promptWeight: 0, sequence: 32 },
        ),
      'Every token of the training data is masked',
    ],
    [
      'its own words where no teacher judges',
      () => run(samples(), { onPolicy: 0.5, crossEntropy: 1 }),
      'nobody judges what the student writes',
    ],
    [
      'its own words where prompts leave it no room',
      () =>
        run(
          samples().map(s => (s.split === 'probe' ? { ...s, prompt: s.prompt.repeat(9) } : { ...s, prompt: 'a' })),
          { onPolicy: 0.5, promptWeight: 1, sequence: 32 },
        ),
      'Every prompt of the training data fills a row of 32 tokens',
    ],
    ['a capability it does not have', () => run(samples(), { capabilities: ['flying'] }), 'no capability "flying"'],
    [
      'rows longer than the context',
      () => run(samples(), { sequence: 96 }),
      'healing.sequence: rows of 96 tokens, but the student reads at most 64',
    ],
    [
      'more steps than a run keeps',
      () => run(samples(), { tokens: 64 * 200_002, batchRows: 2 }),
      'healing.tokens: 12800128 tokens are 100001 steps',
    ],
    [
      'layers beyond the student',
      () => run(samples(), { train: 'LAYERS', layers: [9] }),
      'the student has the layers 0 to 2',
    ],
  ])('%s is refused by name', async (_name, attempt, message) => {
    await expect(attempt()).rejects.toThrow(message)
  })

  test('texts longer than a row are cut, and counted', async () => {
    const { measurements } = await run(samples(), { sequence: 32, tokens: 320 })
    expect(measurements.cutTexts).toBeGreaterThan(0)
  })

  test('a teacher with other tokens is refused, and the tokens are named', async () => {
    const folder = join(context.dataFolder, 'other-tokens')
    await writePicoLlama(folder, { heads: 2, keyValueHeads: 1, seed: 5 })
    const other = picoTokenizer(64) as { model: { vocab: Record<string, number> } }
    const { a, b } = other.model.vocab
    Object.assign(other.model.vocab, { a: b, b: a })
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(other))
    const teacher = (await ingestModel({ source: folder }, context)).manifest
    await expect(
      heal(parent, teacher, healing(), { ...context, folder: join(context.dataFolder, 'y') }),
    ).rejects.toThrow(
      /VOCABULARY_MISMATCH|do not have the same tokens: token 4 is "b" for the teacher and "a" for the student; token 5 is "a"/,
    )
  })
})

test('a disk that is full during a checkpoint leaves the one before it', async ({ skip }) => {
  const disk = await smallDisk(2)
  if (!disk) return skip('this process may not mount a file system')
  try {
    const tensor = trainedTensor('w', [50_000], new Float32Array(50_000).fill(1), false)
    await writeCheckpoint(disk.path, 'checkpoint', 'k', { step: 1 }, [tensor])
    tensor.weight.fill(2)
    await writeFile(join(disk.path, 'filler'), new Uint8Array(1_300_000))
    await expect(writeCheckpoint(disk.path, 'checkpoint', 'k', { step: 2 }, [tensor])).rejects.toMatchObject({
      code: 'DISK_FULL',
    })
    expect((await readdir(disk.path)).sort()).toEqual(['checkpoint', 'filler'])
    expect(await readCheckpoint(disk.path, 'checkpoint', 'k', [tensor])).toEqual({ step: 1 })
    expect(tensor.weight[49_999]).toBe(1)
    expect(await readCheckpoint(disk.path, 'checkpoint', 'another run', [tensor])).toBeUndefined()
  } finally {
    await disk.remove()
  }
})

test('a disk that is full while the student writes rows costs those rows: texts stand in, and the report says so', async ({
  skip,
}) => {
  const disk = await smallDisk(2, context.dataFolder)
  if (!disk) return skip('this process may not mount a file system')
  try {
    const [cut] = await build()
    const { tensors } = await readManifest(context.payloads, cut!.manifest)
    const weights = tensors.reduce((sum, { shape }) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0)
    const filler = join(disk.path, 'filler')
    // Room for the weights to fall back on, and for half of those of a snapshot.
    await writeFile(filler, new Uint8Array(2 * 1024 * 1024 - Math.ceil(1.5 * weights)))
    const troubles: unknown[] = []
    const going: HandlerContext = {
      ...context,
      progress: ({ stage, metrics }) => {
        if (stage !== 'heal') return
        troubles.push(metrics?.checkpoint)
        rmSync(filler, { force: true })
      },
    }
    const folder = join(disk.path, 'stage')
    await mkdir(folder)
    const few = healing({ onPolicy: 0.5, tokens: 64 * 8, checkpointSteps: 2, looks: 1 })
    const { measurements } = await heal(cut!.manifest, parent, few, { ...going, folder })
    expect(measurements).toMatchObject({ steps: 4 })
    expect(troubles[0]).toMatch(/disk|space/i)
    expect(troubles.at(-1)).toBeUndefined()
    expect(await readdir(folder)).not.toContain('own')
  } finally {
    await disk.remove()
  }
})
