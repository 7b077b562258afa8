// What the stages of builds made, kept by content: a build that was stopped goes on behind its last finished stage, and builds that begin
// alike share the work. One small file per result beside the payloads; the tensors that it names are payloads.
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { hashSchema } from '../../lib/manifest.js'
import { stageResultSchema } from '../pool/job-types.js'

/** To be raised whenever the same stage would make something else. */
const recordVersion = 1

const recordSchema = stageResultSchema.omit({ reused: true }).extend({
  /** The manifest it began with. */
  input: hashSchema,
})
export type StageRecord = z.infer<typeof recordSchema>

const folderOf = (dataFolder: string) => join(dataFolder, 'derived', 'stages')
const fileOf = (dataFolder: string, key: string) => join(folderOf(dataFolder), `${key}.json`)

/** Keys of objects in order, so that equal parameters are equal text. */
const canonical = (value: unknown) =>
  JSON.stringify(value, (_, v: unknown) =>
    v === null || typeof v !== 'object' || Array.isArray(v)
      ? v
      : Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1))),
  )

/** What a stage's result is kept under. @param version of the stage itself */
export const stageKey = (stage: string, version: number, parameters: unknown, manifest: string): string =>
  createHash('sha256')
    .update(canonical([recordVersion, stage, version, parameters, manifest]))
    .digest('hex')

/** A folder of the stage's own for what it has done so far (checkpoints); it goes when the stage has ended. */
export const stageFolder = (dataFolder: string, key: string) => join(folderOf(dataFolder), key)

/** Locked while a job makes the stage's result, so that others wait for it instead of making it too. */
export const stageLockFile = (dataFolder: string, key: string) => join(folderOf(dataFolder), `${key}.lock`)

/** undefined where there is none, or what is there is damaged. */
export async function readStageRecord(dataFolder: string, key: string): Promise<StageRecord | undefined> {
  const text = await readFile(fileOf(dataFolder, key), 'utf8').catch(() => '')
  try {
    const record = recordSchema.parse(JSON.parse(text))
    return record.key === key ? record : undefined
  } catch {
    return undefined
  }
}

/** Appears whole or not at all. */
export async function writeStageRecord(dataFolder: string, record: StageRecord): Promise<void> {
  await mkdir(folderOf(dataFolder), { recursive: true })
  const temporary = join(folderOf(dataFolder), `.${process.pid}-${randomUUID()}.tmp`)
  try {
    await writeFile(temporary, JSON.stringify(recordSchema.parse(record)))
    await rename(temporary, fileOf(dataFolder, record.key))
  } finally {
    await rm(temporary, { force: true })
  }
}

/** Removes the results and folders of all stages but these, and results whose manifest is not `alive`. */
export async function removeStages(
  dataFolder: string,
  kept: ReadonlySet<string>,
  alive: ReadonlySet<string>,
): Promise<void> {
  const folder = folderOf(dataFolder)
  for (const name of await readdir(folder).catch(() => [] as string[])) {
    const key = name.replace(/\.json$/, '')
    if (kept.has(key)) continue
    const record = name.endsWith('.json') ? await readStageRecord(dataFolder, key) : undefined
    if (record && alive.has(record.manifest)) continue
    await rm(join(folder, name), { recursive: true, force: true })
  }
}
