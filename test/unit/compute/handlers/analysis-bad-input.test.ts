// Analyses of what is wrong: refused with a sentence that names it, or measured as far as it goes; two at once harm nothing.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { analyzeCapabilities } from '../../../../compute/handlers/analyze-capabilities.js'
import { evaluateModel } from '../../../../compute/handlers/evaluate-model.js'
import type { HandlerContext } from '../../../../compute/handlers/handler.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { encodeSafetensors, type PicoLlama, picoTokenizer, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeEach(async () => {
  context = await handlerContext()
})
afterEach(() => context.dispose())

interface Line {
  task: string
  subtask: string
  split?: 'probe' | 'validation'
  prompt: string
  completion: string
}
const line = (task: string, prompt: string, split: 'probe' | 'validation' = 'probe'): Line => ({
  task,
  subtask: 'all',
  split,
  prompt,
  completion: ' yes',
})
async function probes(...lines: Line[]): Promise<string> {
  const source = join(context.dataFolder, 'probes.jsonl')
  await writeFile(source, lines.map(l => `${JSON.stringify(l)}\n`).join(''))
  return (await importProbes({ source }, context)).probeSet
}
async function pico(change: (pico: PicoLlama) => void = () => {}, name = 'pico'): Promise<string> {
  const folder = join(context.dataFolder, name)
  const made = await writePicoLlama(folder, { layers: 4 })
  change(made)
  await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(made.tensors))
  return (await ingestModel({ source: folder }, context)).manifest
}
const analyse = async (manifest: string, probeSet: string, own: HandlerContext = context) =>
  jobTypes['capability.analyze'].output.parse(await analyzeCapabilities({ manifest, probeSet, maxTokens: 256 }, own))
const words = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight']

test('an empty probe set is refused before anything runs', async () => {
  await expect(probes()).rejects.toMatchObject({
    code: 'INVALID_PROBE_DATASET',
    message: expect.stringContaining('holds no samples'),
  })
})

test('a set of one sample is measured: no interval, no kinds of samples, layers in one or more clusters', async () => {
  const output = await analyse(await pico(), await probes(line('greeting', 'hello')))
  expect(output.baseline).toMatchObject([{ capability: 'greeting', sampleCount: 1, interval: null }])
  expect(output.discoveries).toEqual([])
  expect(output.clusters!.flatMap(c => c.layers).sort()).toEqual([0, 1, 2, 3])
  expect(output.groups).toHaveLength(4)
  expect(output.groups!.every(g => g.capabilities[0]!.interval === null)).toBe(true)
})

test('prompts longer than the context are left out and counted; where none is left the capability is named', async () => {
  const manifest = await pico()
  const long = 'a'.repeat(80)
  const output = await analyse(manifest, await probes(line('greeting', 'hello'), line('greeting', long)))
  expect(output.dropped).toEqual([{ capability: 'greeting', count: 1 }])
  expect(output.baseline[0]!.sampleCount).toBe(1)
  const none = await probes(line('greeting', 'hello'), line('novel', long), line('novel', `${long}b`))
  await expect(analyse(manifest, none)).rejects.toMatchObject({
    code: 'INVALID_PROBE_DATASET',
    message:
      'novel: the prompts of all its 2 samples fill the 64 tokens that are read, with no room for a completion; raise maxTokens (as far as the model’s context goes) or shorten the prompts',
  })
})

test('a capability without samples of the split is named, whichever split it is', async () => {
  const manifest = await pico()
  const probeSet = await probes(
    line('greeting', 'hello'),
    line('greeting', 'bye', 'validation'),
    line('parting', 'bye'),
  )
  expect((await analyse(manifest, probeSet)).baseline).toHaveLength(2)
  const input = { manifest, probeSet, maxTokens: 256, split: 'validation' as const }
  await expect(evaluateModel(input, context)).rejects.toMatchObject({
    code: 'INVALID_PROBE_DATASET',
    message: 'The probe set has no validation samples of parting',
  })
  const other = await probes(line('greeting', 'hello'), line('parting', 'bye', 'validation'))
  await expect(analyse(manifest, other)).rejects.toMatchObject({
    message: 'The probe set has no probe samples of parting',
  })
})

test.each([
  ['NaN', Number.NaN, 'model.layers.2.mlp.up_proj.weight', 40, '[1, 8]'],
  ['infinite', Number.NEGATIVE_INFINITY, 'model.norm.weight', 3, '[3]'],
  ['NaN in the embedding', Number.NaN, 'model.embed_tokens.weight', 33 * 32, '[33, 0]'],
])('a weight that is %s is named with its tensor and place', async (_, value, tensor, at, place) => {
  const manifest = await pico(made => {
    made.tensors.get(tensor)!.data[at] = value
  })
  const text = `!${'abcdefghijklmnopqrstuvwxyz0123456789?.,'.slice(0, 39)}`
  await expect(analyse(manifest, await probes(line('greeting', text)))).rejects.toMatchObject({
    code: 'NOT_A_NUMBER',
    message: expect.stringContaining(`: tensor ${tensor} holds ${value} at ${place}; nothing can be measured with it`),
  })
})

test('a tokenizer with more tokens than the model’s vocabulary is named with both numbers', async () => {
  const folder = join(context.dataFolder, 'other')
  await writePicoLlama(folder, { layers: 2, vocabulary: 32 })
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(picoTokenizer(64)))
  const { manifest } = await ingestModel({ source: folder }, context)
  const fits = await probes(line('greeting', 'hello'))
  expect((await analyse(manifest, fits)).baseline).toHaveLength(1)
  await expect(analyse(manifest, await probes(line('greeting', 'HELLO')))).rejects.toMatchObject({
    code: 'INVALID_MODEL_FILE',
    message: expect.stringMatching(
      /: its tokenizer gives token \d+, its vocabulary has 32: they do not belong together$/,
    ),
  })
})

test('two analyses of one model at once give what one gives, and leave whole records', async () => {
  const manifest = await pico()
  const probeSet = await probes(
    ...words.map(word => line('numbers', word)),
    ...words.map(word => line('twice', word + word)),
  )
  const both = await Promise.all([analyse(manifest, probeSet), analyse(manifest, probeSet)])
  expect(both[1].baseline).toEqual(both[0].baseline)
  expect(both[1].clusters).toEqual(both[0].clusters)
  context.reports.length = 0
  const again = await analyse(manifest, probeSet)
  expect(context.reports.filter(r => r.stage === 'layers').at(-1)).toMatchObject({
    completed: 0,
    total: 0,
    metrics: { samplesDone: 0, samplesReused: 16 },
  })
  expect(again.baseline).toEqual(both[0].baseline)
  const folder = join(context.dataFolder, 'derived', 'analyses')
  for (const file of await readdir(folder))
    for (const text of (await readFile(join(folder, file), 'utf8')).split('\n').filter(Boolean))
      expect(() => JSON.parse(text)).not.toThrow()
})

test('the same seed gives the same clusters, and groups that were measured are not measured again', async () => {
  const manifest = await pico()
  const probeSet = await probes(...words.map(word => line('numbers', word)))
  const run = (maskedGroups: number, seed: number) =>
    analyzeCapabilities({ manifest, probeSet, maxTokens: 256, maskedGroups, seed }, context)
  const first = await run(2, 7)
  context.reports.length = 0
  const second = await run(2, 7)
  expect(second).toEqual(first)
  expect(context.reports.filter(r => r.stage === 'layers').at(-1)).toMatchObject({ completed: 0, total: 0 })
  const none = await run(0, 7)
  expect(none.groups).toEqual([])
  const more = await run(3, 7)
  const known = more.groups!.filter(g => first.groups!.some(f => JSON.stringify(f) === JSON.stringify(g)))
  expect(known).toHaveLength(2)
  // One new group of eight samples, each through the whole model once.
  const last = context.reports.filter(r => r.stage === 'layers').at(-1)!
  expect(last.total).toBe(words.reduce((sum, word) => sum + 1 + word.length + ' yes'.length, 0))
  expect(last.completed).toBeCloseTo(last.total!, 6)
})

test('an analysis cancelled while it measures heads keeps what it measured', async () => {
  const manifest = await pico()
  const probeSet = await probes(...words.map(word => line('numbers', word)))
  const controller = new AbortController()
  const stopping: HandlerContext = {
    ...context.withSignal(controller.signal),
    progress: report => {
      const done = (report.metrics as { samplesDone?: number } | undefined)?.samplesDone ?? 0
      if (report.stage === 'heads' && done > 0) controller.abort()
    },
  }
  await expect(analyse(manifest, probeSet, stopping)).rejects.toMatchObject({ code: 'CANCELLED' })
  context.reports.length = 0
  await analyse(manifest, probeSet)
  expect(context.reports.find(r => r.stage === 'heads')).toMatchObject({ completed: 8, metrics: { samplesReused: 8 } })
})
