// A worker that is killed while it searches for students: the job runs again by itself, takes over the losses that were kept, and ends with
// the recipes that an undisturbed search finds.
import { afterEach, expect, test } from 'vitest'
import type { JobInput, JobOutput } from '../../compute/pool/job-types.js'
import { projectFile } from '../../lib/project.js'
import { openTestPool, type TestPool, workerPids } from '../testkit/pool.js'

let pool: TestPool
afterEach(() => pool.close())

async function prepare() {
  pool = await openTestPool()
  const ingested = await pool.ended(await pool.enqueue('model.ingest', { source: projectFile('demo', 'model') }))
  const imported = await pool.ended(await pool.enqueue('probes.import', { source: projectFile('demo', 'probes') }))
  const { manifest } = ingested.output as JobOutput<'model.ingest'>
  const { probeSet } = imported.output as JobOutput<'probes.import'>
  const measured = { manifest, probeSet, maxTokens: 256, capabilities: ['translation', 'mathematical_reasoning'] }
  const id = await pool.enqueue('capability.analyze', { ...measured, samplesPerCapability: 2, maskedGroups: 0 })
  const { layers, heads } = (await pool.ended(id)).output as JobOutput<'capability.analyze'>
  const input: JobInput<'students.propose'> = {
    ...measured,
    samplesPerCapability: 16,
    modelName: 'demo',
    layers,
    heads,
    budgetTokens,
  }
  return () => pool.enqueue('students.propose', input)
}

// Enough for a search of seconds, so that neither kill comes when it has ended.
const budgetTokens = 100_000

const recipesOf = (output: unknown) =>
  (output as JobOutput<'students.propose'>).proposals.map(({ layers, groups, parameterCount, quality }) => ({
    layers: layers.map(({ from, to }) => [from, to]),
    groups,
    parameterCount,
    // Samples that are measured after the kill run in other batches, whose sums are rounded otherwise.
    quality: quality.toFixed(4),
  }))

test('a search whose worker is killed twice proposes what an undisturbed one does', async () => {
  let propose = await prepare()
  const expected = await pool.ended(await propose())
  expect(expected).toMatchObject({ state: 'SUCCEEDED', attempts: 1 })
  const recipes = recipesOf(expected.output)
  expect(recipes.length).toBeGreaterThan(1)
  expect(recipes.some(({ groups }) => groups)).toBe(true)
  await pool.close()

  propose = await prepare()
  const id = await propose()
  const spent = () => {
    const progress = pool.queue.progress(id)
    return progress?.stage === 'search' ? progress.completed : 0
  }
  for (const kills of [1, 2]) {
    const before = spent()
    await expect
      .poll(spent, { timeout: 60_000, interval: 2 })
      .toSatisfy((now: number) => now > 8_000 * kills && now !== before)
    process.kill(workerPids('device')[0]!, 'SIGKILL')
    // The next attempt runs in another process, and its progress is its own.
    await pool.until(id, ({ attempts, state }) => attempts > kills || state === 'SUCCEEDED')
  }
  const job = await pool.ended(id)
  expect(job).toMatchObject({ state: 'SUCCEEDED', attempts: 3, error: null })
  expect(recipesOf(job.output)).toEqual(recipes)
}, 300_000)
