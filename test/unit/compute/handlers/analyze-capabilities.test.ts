// Analyses of the demo model: what is measured once is not measured again, whatever happened in between.
import { appendFile, readdir, readFile, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { analyzeCapabilities } from '../../../../compute/handlers/analyze-capabilities.js'
import { collectGarbage } from '../../../../compute/handlers/collect-garbage.js'
import type { HandlerContext } from '../../../../compute/handlers/handler.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { projectFile } from '../../../../lib/project.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
let manifest: string
let probeSet: string
beforeEach(async () => {
  context = await handlerContext()
  manifest = (await ingestModel({ source: projectFile('demo', 'model') }, context)).manifest
  probeSet = (await importProbes({ source: projectFile('demo', 'probes') }, context)).probeSet
})
afterEach(() => context.dispose())

/** Runs an analysis; `tokens` are those it had to run, over all variants. */
async function analyse(samplesPerCapability: number, own: HandlerContext = context) {
  context.reports.length = 0
  const output = await analyzeCapabilities({ manifest, probeSet, maxTokens: 256, samplesPerCapability }, own)
  const last = context.reports.filter(r => r.stage === 'layers').at(-1)!
  return { output, tokens: last.completed, metrics: last.metrics as { samplesDone: number; samplesReused: number } }
}
const records = () => join(context.dataFolder, 'derived', 'analyses')
const recordFiles = async () => (await readdir(records())).filter(name => name.startsWith(`${manifest}.v`))
const recordFile = async () => join(records(), (await recordFiles())[0]!)

test('twice the samples cost only the new ones, and give what measuring all afresh gives', async () => {
  const few = await analyse(2)
  const more = await analyse(4)
  const again = await analyse(4)
  expect(few.metrics).toMatchObject({ samplesDone: 14, samplesReused: 0 })
  expect(more.metrics).toMatchObject({ samplesDone: 14, samplesReused: 14 })
  expect(again.metrics).toMatchObject({ samplesDone: 0, samplesReused: 28 })
  expect(again.tokens).toBe(0)
  expect(again.output).toEqual(more.output)

  const fresh = await handlerContext()
  try {
    const stored = (await ingestModel({ source: projectFile('demo', 'model') }, fresh)).manifest
    const set = (await importProbes({ source: projectFile('demo', 'probes') }, fresh)).probeSet
    const input = { manifest: stored, probeSet: set, maxTokens: 256, samplesPerCapability: 4 }
    const output = await analyzeCapabilities(input, fresh)
    const total = fresh.reports.filter(r => r.stage === 'layers').at(-1)!.completed
    expect(few.tokens + more.tokens).toBeCloseTo(total, 3)
    output.baseline.forEach((score, c) => {
      expect(score.loss).toBeCloseTo(more.output.baseline[c]!.loss, 5)
    })
  } finally {
    await fresh.dispose()
  }
})

test('a cancelled analysis keeps every finished batch', async () => {
  const controller = new AbortController()
  const stopping = {
    ...context.withSignal(controller.signal),
    progress: (report: Parameters<HandlerContext['progress']>[0]) => {
      context.reports.push(report)
      const done = (report.metrics as { samplesDone?: number } | undefined)?.samplesDone ?? 0
      if (done > 0) controller.abort()
    },
  }
  const error = await analyse(8, stopping).catch(e => e)
  expect(error.code).toBe('CANCELLED')
  const kept = (context.reports.at(-1)!.metrics as { samplesDone: number }).samplesDone
  const { metrics } = await analyse(8)
  expect(metrics).toEqual(expect.objectContaining({ samplesReused: kept, samplesDone: 56 - kept }))
})

test('a record that was cut short or damaged is measured again', async () => {
  const before = await analyse(2)
  const path = await recordFile()
  const size = (await readFile(path)).length
  await truncate(path, size - 100)
  await appendFile(path, '\nno json\n{"sample":"x","record":{}}')
  const { metrics, output } = await analyse(2)
  expect(metrics).toMatchObject({ samplesDone: 1, samplesReused: 13 })
  output.baseline.forEach((score, c) => {
    expect(score.loss).toBeCloseTo(before.output.baseline[c]!.loss, 5)
  })
})

test('records of models that are gone are collected, those of living ones stay', async () => {
  await analyse(2)
  await collectGarbage({ manifests: [manifest], payloads: [probeSet] }, context)
  expect(await recordFiles()).toHaveLength(1)
  await collectGarbage({ manifests: [], payloads: [] }, context)
  expect(await readdir(records())).toEqual([])
})

test('losses carry their interval and layers the angles of the blocks that begin with them', async () => {
  const { output } = await analyse(4)
  for (const { loss, interval } of output.baseline) {
    expect(interval![0]).toBeLessThanOrEqual(loss)
    expect(interval![1]).toBeGreaterThanOrEqual(loss)
  }
  expect(output.layers.map(l => l.angularDistances!.length)).toEqual([8, 7, 6, 5, 4, 3, 2, 1])
  expect((await analyse(1)).output.baseline[0]!.interval).toBeNull()
})
