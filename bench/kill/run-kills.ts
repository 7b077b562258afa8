// What the benches of kills have in common: their options, a folder that goes afterwards, and a failure that names what was lost.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

interface KillOptions {
  folder: string
  kills: number
  seed: number
  say(line: string): void
}

/** Options `--kills N` and `--seed N` (1). Throws where the report names something broken. */
export async function runKills<R extends { broken: readonly string[] }>(
  args: string[],
  defaultKills: number,
  kill: (options: KillOptions) => Promise<R>,
): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: { kills: { type: 'string', default: `${defaultKills}` }, seed: { type: 'string', default: '1' } },
    allowPositionals: true,
    strict: false,
  })
  const folder = await mkdtemp(join(tmpdir(), 'kill-'))
  try {
    const report = await kill({
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
