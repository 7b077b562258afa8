// What analyses measured per sample, kept beside the payloads: a later analysis of the same model measures only samples it does not find
// here, and one that was cancelled or killed goes on where it stopped. A cache: what is lost or damaged is measured again.
import { createHash } from 'node:crypto'
import { appendFile, mkdir, open, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { HeadRecordStore } from '../probing/head-importance.js'
import type { GroupLosses, RecordStore, SampleRecord } from '../probing/sample-records.js'
import type { EncodedSample } from '../probing/scoring.js'
import { currentDevice } from '../runtime/providers.js'

/** Part of the file's name: to be raised whenever the same sample would measure differently. */
const recordVersion = 2
/** All records together; those of the models analysed longest ago go first. A sample of 30 layers of 576 units takes some 55 KB. */
const maximumBytes = 512 * 1024 * 1024

/** Part of a file's name where others than the processor compute: their losses may differ by more than rounding. */
export function measuredOn(): string {
  const { provider } = currentDevice()
  return provider === 'cpu' ? '' : `.${provider}`
}

const folderOf = (dataFolder: string) => join(dataFolder, 'derived', 'analyses')

const recordSchema = z.object({
  nll: z.number(),
  exact: z.boolean(),
  cosine: z.array(z.number()),
  norm: z.array(z.number()),
  angles: z.array(z.array(z.number())),
  skipped: z.array(z.number()),
  activation: z.array(
    z.object({
      tokens: z.number(),
      mean: z.number(),
      square: z.number(),
      largest: z.number(),
      kurtosis: z.number(),
    }),
  ),
  centroids: z.string(),
})
const headRecordSchema = z.object({
  loss: z.number(),
  gradients: z.array(z.number()),
  entropies: z.array(z.number()),
})
const groupRecordSchema = z.record(z.string(), z.number())
const lineSchema = z.object({ sample: z.string(), record: z.unknown() })

/** The tokens say everything that a measurement depends on besides the model. */
const sampleHash = ({ ids, completionStart }: EncodedSample) =>
  createHash('sha256')
    .update(JSON.stringify([completionStart, ids]))
    .digest('hex')

/** What layers do to samples, of a model by its manifest. */
export const openAnalysisRecords = (
  dataFolder: string,
  manifest: string,
  layerCount: number,
  hiddenSize: number,
): Promise<RecordStore<SampleRecord>> =>
  openRecords(
    dataFolder,
    `${manifest}${measuredOn()}.v${recordVersion}.jsonl`,
    recordSchema,
    ({ cosine, norm, skipped, activation, centroids }) =>
      [cosine, norm, skipped, activation].every(values => values.length === layerCount) &&
      Buffer.byteLength(centroids, 'base64') === 2 * layerCount * hiddenSize,
  )

/** What attention heads do to samples. @param headCount of all layers together */
export const openHeadRecords = (dataFolder: string, manifest: string, headCount: number): Promise<HeadRecordStore> =>
  openRecords(
    dataFolder,
    `${manifest}${measuredOn()}.heads-v${recordVersion}.jsonl`,
    headRecordSchema,
    ({ gradients, entropies }) => [gradients, entropies].every(values => values.length === headCount),
  )

/** What samples lose without key/value groups. */
export const openGroupRecords = (dataFolder: string, manifest: string): Promise<RecordStore<GroupLosses>> =>
  openRecords(dataFolder, `${manifest}${measuredOn()}.groups-v${recordVersion}.jsonl`, groupRecordSchema, () => true)

/**
 * The records of a file, one line of JSON each, of which the last of a sample counts. Appended batch by batch; a line that a killed process
 * left half written, or one that is not `complete`, counts as absent.
 */
async function openRecords<T>(
  dataFolder: string,
  file: string,
  schema: z.ZodType<T>,
  complete: (record: T) => boolean,
): Promise<{
  get(sample: EncodedSample): T | undefined
  add(entries: readonly (readonly [EncodedSample, T])[]): Promise<void>
}> {
  const folder = folderOf(dataFolder)
  const path = join(folder, file)
  const records = new Map<string, T>()
  for await (const line of readLines(path)) {
    const parsed = lineSchema.safeParse(parseJson(line))
    if (!parsed.success) continue
    const record = schema.safeParse(parsed.data.record)
    if (record.success && complete(record.data)) records.set(parsed.data.sample, record.data)
  }
  await removeOldest(folder, path)
  return {
    get: sample => records.get(sampleHash(sample)),
    async add(entries) {
      await mkdir(folder, { recursive: true })
      // The line break comes first, so that a line cut short before it spoils only itself.
      const lines = entries.map(([sample, record]) => `\n${JSON.stringify({ sample: sampleHash(sample), record })}`)
      await appendFile(path, lines.join(''))
      for (const [sample, record] of entries) records.set(sampleHash(sample), record)
    },
  }
}

/** None where there is no file: it is made with the first record, and may be removed at any time. */
async function* readLines(path: string): AsyncGenerator<string> {
  const file = await open(path).catch(() => undefined)
  if (!file) return
  try {
    yield* file.readLines({ encoding: 'utf8' })
  } catch {
    // What cannot be read is measured again.
  } finally {
    await file.close().catch(() => {})
  }
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

async function listRecords(folder: string) {
  const names = await readdir(folder).catch(() => [] as string[])
  const files = names.map(async name => {
    const path = join(folder, name)
    const entry = await stat(path).catch(() => undefined)
    return entry ? [{ path, manifest: name.split('.')[0]!, bytes: entry.size, usedAt: entry.mtimeMs }] : []
  })
  return (await Promise.all(files)).flat()
}

async function removeOldest(folder: string, keep: string) {
  const files = (await listRecords(folder)).sort((a, b) => a.usedAt - b.usedAt)
  let total = files.reduce((sum, file) => sum + file.bytes, 0)
  for (const file of files) {
    if (total <= maximumBytes) return
    if (file.path === keep) continue
    await rm(file.path, { force: true })
    total -= file.bytes
  }
}

/**
 * Removes the records of models that are gone, and where searches began that will not go on.
 * @param searches ids of the jobs that may go on; absent: all
 */
export async function removeDeadRecords(
  dataFolder: string,
  alive: ReadonlySet<string>,
  searches?: readonly string[],
): Promise<void> {
  const over = (path: string) =>
    searches && /\.begin(\.tmp)?$/.test(path) && !searches.some(job => path.endsWith(`.${job}.begin`))
  for (const { path, manifest } of await listRecords(folderOf(dataFolder)))
    if (!alive.has(manifest) || over(path)) await rm(path, { force: true })
}
