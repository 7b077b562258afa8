// A worker that is killed while it analyses: the job runs again by itself, goes on where it stood, and gives what an undisturbed one gives.
import { afterEach, expect, test } from 'vitest'
import type { JobOutput } from '../../compute/pool/job-types.js'
import { projectFile } from '../../lib/project.js'
import { openTestPool, type TestPool, workerPids } from '../testkit/pool.js'

let pool: TestPool
afterEach(() => pool.close())

interface Metrics {
  samplesDone: number
  samplesReused: number
}
const samples = 7 * 10

async function prepare() {
  pool = await openTestPool()
  const ingested = await pool.ended(await pool.enqueue('model.ingest', { source: projectFile('demo', 'model') }))
  const imported = await pool.ended(await pool.enqueue('probes.import', { source: projectFile('demo', 'probes') }))
  const { manifest } = ingested.output as JobOutput<'model.ingest'>
  const { probeSet } = imported.output as JobOutput<'probes.import'>
  return () => pool.enqueue('capability.analyze', { manifest, probeSet, maxTokens: 256, samplesPerCapability: 10 })
}
/** Waits until the job has measured samples in a stage; their number. */
async function measuring(jobId: string, stage: string): Promise<number> {
  const done = () => {
    const progress = pool.queue.progress(jobId)
    return progress?.stage === stage ? (progress.metrics as unknown as Metrics).samplesDone : 0
  }
  await expect.poll(done, { timeout: 60_000, interval: 2 }).toBeGreaterThan(0)
  return done()
}

test('an analysis whose worker is killed at its heads and again at its layers loses at most the batch it ran', async () => {
  const analyse = await prepare()
  const id = await analyse()
  await measuring(id, 'heads')
  process.kill(workerPids('device')[0]!, 'SIGKILL')
  const kept = await measuring(id, 'layers')
  process.kill(workerPids('device')[0]!, 'SIGKILL')
  const job = await pool.ended(id)
  expect(job).toMatchObject({ state: 'SUCCEEDED', attempts: 3, error: null })
  const { samplesDone, samplesReused } = job.progress!.metrics as unknown as Metrics
  expect(samplesDone + samplesReused).toBe(samples)
  expect(samplesReused).toBeGreaterThanOrEqual(kept)

  const again = await pool.ended(await analyse())
  expect(again.progress!.metrics).toMatchObject({ samplesDone: 0, samplesReused: samples })
  expect(again.output).toEqual(job.output)
}, 180_000)
