// What searches over cuts measured, kept beside the analyses (and collected with them): a search that was killed goes on where it
// stopped, and one with more budget begins where the last one ended. A cache: what is lost or damaged is measured again.
import { createHash } from 'node:crypto'
import { appendFile, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { CutRecords } from '../probing/cut-table.js'
import type { EncodedSample } from '../probing/scoring.js'
import { measuredOn } from './analysis-records.js'

/** Part of the file's name: to be raised whenever the same cut would measure differently. */
const recordVersion = 1

/** One line: a cut and the summed losses of some samples. */
const lineSchema = z.object({ cut: z.string(), nll: z.record(z.string(), z.number()) })

/** The tokens say everything that a measurement depends on besides model and cut; 64 bits tell a few thousand samples apart. */
const sampleKey = ({ ids, completionStart }: EncodedSample) =>
  createHash('sha256')
    .update(JSON.stringify([completionStart, ids]))
    .digest('hex')
    .slice(0, 16)

type Losses = Map<string, Map<string, number>>

/**
 * @param manifest hash of the model's manifest
 * @param search names a search that may be killed and begun again: what it measured before is told apart from what it began with, so that its
 *   budget is spent on the same measurements as an undisturbed one's. Its mark stays when it ends: whether the queue has its output is not known here
 *   (`removeDeadRecords` clears marks).
 */
export async function openCutRecords(dataFolder: string, manifest: string, search?: string): Promise<CutRecords> {
  const folder = join(dataFolder, 'derived', 'analyses')
  const path = join(folder, `${manifest}${measuredOn()}.cuts-v${recordVersion}.jsonl`)
  const mark = join(folder, `${manifest}${measuredOn()}.cuts-v${recordVersion}.${search}.begin`)
  const known: Losses = new Map()
  const own: Losses = new Map()
  const rowOf = (cut: string, losses = known) => {
    const row = losses.get(cut) ?? new Map<string, number>()
    losses.set(cut, row)
    return row
  }
  const text = await readFile(path, 'utf8').catch(() => '')
  let begin = text.length
  if (search !== undefined) {
    const noted = await readFile(mark, 'utf8').catch(() => '')
    begin = /^\d+$/.test(noted) ? Number(noted) : Number.POSITIVE_INFINITY
    if (begin > text.length) {
      begin = text.length
      await mkdir(folder, { recursive: true })
      await writeFile(`${mark}.tmp`, String(begin))
      await rename(`${mark}.tmp`, mark)
    }
  }
  const read = (part: string, losses: Losses) => {
    for (const line of part.split('\n')) {
      const parsed = lineSchema.safeParse(parseJson(line))
      if (parsed.success)
        for (const [sample, nll] of Object.entries(parsed.data.nll)) rowOf(parsed.data.cut, losses).set(sample, nll)
    }
  }
  read(text.slice(0, begin), known)
  read(text.slice(begin), own)
  const keys = new WeakMap<EncodedSample, string>()
  const keyOf = (sample: EncodedSample) => {
    const key = keys.get(sample) ?? sampleKey(sample)
    keys.set(sample, key)
    return key
  }
  return {
    cuts: () => [...known.keys()],
    get: (cut, sample) => known.get(cut)?.get(keyOf(sample)),
    kept: (cut, sample) => own.get(cut)?.get(keyOf(sample)),
    async add(entries) {
      const lines = new Map<string, Record<string, number>>()
      for (const { cut, sample, nll } of entries) {
        const line = lines.get(cut) ?? {}
        line[keyOf(sample)] = nll
        lines.set(cut, line)
        rowOf(cut).set(keyOf(sample), nll)
      }
      await mkdir(folder, { recursive: true })
      // The line break comes first, so that a line cut short before it spoils only itself.
      await appendFile(path, [...lines].map(([cut, nll]) => `\n${JSON.stringify({ cut, nll })}`).join(''))
    },
  }
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
