// The short form of `npm run bench -- kill`, which deals 200 blows.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { killRun } from '../../bench/kill/kill-run.js'

it('six kill -9 of server and worker during ingests and builds break no model, orphan no payload and leave no job unended', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kill-'))
  try {
    const report = await killRun({ folder, kills: 6, seed: 6 })
    expect(report.broken).toEqual([])
    expect(report).toMatchObject({ serverKills: 3, workerKills: 3 })
    expect(report.models).toBeGreaterThan(0)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 240_000)
