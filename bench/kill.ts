// bench kill: 200 kill -9 of server or worker at random points of ingest and build, and what is left afterwards.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { killRun } from './kill/kill-run.js'

/** `--kills N` (200), `--seed N` (1). Throws where anything was lost, naming it. */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: { kills: { type: 'string', default: '200' }, seed: { type: 'string', default: '1' } },
    allowPositionals: true,
    strict: false,
  })
  const folder = await mkdtemp(join(tmpdir(), 'kill-'))
  try {
    const report = await killRun({
      folder,
      kills: Number(values.kills),
      seed: Number(values.seed),
      say: line => process.stderr.write(`${line}\n`),
    })
    if (report.broken.length > 0) throw new Error(report.broken.join('\n'))
    return { ...report }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
