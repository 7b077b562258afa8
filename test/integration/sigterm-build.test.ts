// SIGTERM while builds run and wait: they go back to the queue and are done once by the next start.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { writePicoLlama } from '../testkit/pico-llama.js'
import { type Json, startTestPlatform, type TestPlatform } from '../testkit/platform.js'

const students = 8

test('builds that SIGTERM interrupts are finished by the next start, each student once', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sigterm-'))
  let platform: TestPlatform | undefined
  try {
    await writePicoLlama(join(folder, 'pico'), { layers: 4 })
    platform = await startTestPlatform({ dataFolder: join(folder, 'data') })
    const { id: parentModelId } = await platform.ingest(join(folder, 'pico'), 'pico')
    const jobs: string[] = []
    for (let i = 0; i < students; i++) {
      const layers = [{ from: 0, to: 3 }]
      const { recipe } = await platform.mutate(
        'createRecipe',
        { parentModelId, name: `s${i}`, layers },
        'recipe { id }',
      )
      await platform.mutate('approveRecipe', { recipeId: recipe.id }, 'recipe { id }')
      jobs.push((await platform.mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')).job.id)
    }
    process.kill(platform.pid, 'SIGTERM')
    await platform.stop()

    platform = await startTestPlatform({ dataFolder: join(folder, 'data') })
    for (const job of jobs) await platform.succeeded(job)
    const { recipes, models } = await platform.gql(
      '{ recipes { nodes { status student { name layerCount } } } models(isStudent: true) { totalCount nodes { uniqueBytes } } }',
    )
    expect(recipes.nodes.map((r: Json) => [r.status, r.student?.layerCount])).toEqual(
      Array(students).fill(['BUILT', 3]),
    )
    expect(models.totalCount).toBe(students)
    const verified = await platform.mutate('verifyStorage', {}, 'job { id }')
    expect((await platform.succeeded(verified.job.id)).output.corrupt).toEqual([])
  } finally {
    await platform?.stop()
    await rm(folder, { recursive: true, force: true })
  }
}, 90_000)
