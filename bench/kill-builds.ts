// bench kill-builds: kill -9 of server or workers at random points of builds whose stages run a model; every build must end as an undisturbed one.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { killBuilds } from './kill/kill-builds.js'

/** `--kills N` (100), `--seed N` (1). Throws where anything was lost or differs, naming it. */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: { kills: { type: 'string', default: '100' }, seed: { type: 'string', default: '1' } },
    allowPositionals: true,
    strict: false,
  })
  const folder = await mkdtemp(join(tmpdir(), 'kill-builds-'))
  try {
    const report = await killBuilds({
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
