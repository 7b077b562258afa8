// The short form of `npm run bench -- kill-builds`.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { killBuilds } from '../../bench/kill/kill-builds.js'

it('two kill -9 during builds with measured stages: each ends with the manifest of an undisturbed one, nothing is orphaned', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kill-builds-'))
  try {
    const report = await killBuilds({ folder, kills: 2, seed: 2, samplesPerCapability: 1 })
    expect(report.broken).toEqual([])
    expect(report.serverKills + report.workerKills).toBe(2)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 240_000)
