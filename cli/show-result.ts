// What finished jobs brought forth, as the commands that start them print it, and those that follow a job again.
import { PlatformError } from '../lib/client/platform-client.js'
import { table } from '../lib/client/tables.js'
import { quantity, took, type WatchedJob } from '../lib/client/watch-job.js'
import { analysisText } from './analysis-text.js'
import { builtText, stageLines, storedText } from './built-text.js'
import { comparisonText, fusionText, searchText } from './change-text.js'
import { documents } from './documents.js'
import { downloadFiles, type ExportedFile } from './download.js'
import { costNote, quality, recipeTable } from './recipe-text.js'
import type {
  Analysis,
  BuildStage,
  Comparison,
  FusionResult,
  JobSummary,
  ModelDetail,
  RecipeSummary,
  SchemeSearch,
} from './results.js'
import { followJob, print, printJson } from './run-job.js'
import { note, type Session } from './session.js'

/** What stands before the progress of a job: the command that starts such jobs, mostly. */
const labels: Record<string, string> = {
  MODEL_INGEST: 'ingest',
  MODEL_EXPORT: 'export',
  MODEL_QUANTIZE: 'quantize',
  MODEL_FUSE: 'fuse',
  MODEL_GENERATE: 'generate',
  MODEL_EVALUATE: 'measure',
  CAPABILITY_ANALYZE: 'analyze',
  STUDENTS_PROPOSE: 'propose',
  STUDENT_BUILD: 'build',
  PROBES_IMPORT: 'probes',
  STORAGE_VERIFY: 'verify',
  STORAGE_COLLECT: 'gc',
}
export const jobLabel = (type: string | undefined): string => labels[type ?? ''] ?? 'job'

/** Prints what came of a job that has succeeded; nothing where its end is all there is to say. */
export async function showResult(session: Session, job: WatchedJob): Promise<unknown> {
  switch (job.type) {
    case 'MODEL_INGEST':
      return showIngested(session, job)
    case 'MODEL_EXPORT':
      return showExported(session, job)
    case 'MODEL_QUANTIZE':
      return showQuantized(session, job)
    case 'MODEL_FUSE':
      return showFused(session, job)
    case 'CAPABILITY_ANALYZE':
      return showAnalysed(session, job)
    case 'STUDENTS_PROPOSE':
      return showProposed(session, job)
    case 'STUDENT_BUILD':
      return showBuilt(session, job)
    case 'STORAGE_VERIFY':
      return showVerified(session, job)
    case 'STORAGE_COLLECT':
      return showCollected(session, job)
  }
}

/** Null where it was deleted since. */
const modelOf = async (session: Session, id: string | undefined): Promise<ModelDetail | null> =>
  id === undefined ? null : (await session.client.query<{ model: ModelDetail | null }>(documents.model, { id })).model

export async function showIngested(session: Session, job: WatchedJob) {
  const model = await modelOf(session, job.model?.id)
  if (session.json) return printJson(model)
  if (!model) return print('The model is deleted.')
  print(
    `${model.name}: ${model.architecture}, ${quantity(Number(model.parameterCount))} parameters in ${model.tensors.totalCount} tensors, ` +
      `${quantity(Number(model.sizeBytes), 'bytes')}, of which ${quantity(Number(model.uniqueBytes), 'bytes')} are its own. ${took(job.durationMs ?? 0)}`,
  )
  print(`id ${model.id}`)
}

/** @param folder to save the files in */
export async function showExported(session: Session, job: WatchedJob, folder?: string) {
  const { files, notes = [] } = job.output as { files: ExportedFile[]; notes?: string[] }
  const paths = folder === undefined ? undefined : await downloadFiles(session.client.url, files, folder)
  const listed = files.map((f, i) => ({ ...f, url: `${session.address}${f.url}`, ...(paths && { savedAs: paths[i] }) }))
  if (session.json) return printJson({ files: listed, notes })
  const rows = listed.map(f => [quantity(Number(f.sizeBytes), 'bytes'), f.sha256.slice(0, 16), f.savedAs ?? f.url])
  print(table(['size', 'sha256 begins', paths ? 'file' : 'url'], rows))
  for (const note of notes) print(note)
  if (session.ownPlatform && !paths)
    print('The addresses answer while a platform serves (`npm start`); --output FOLDER saves the files at once.')
}

export function showQuantized(session: Session, job: WatchedJob) {
  const { comparison, search } = job.output as { comparison: Comparison; search?: SchemeSearch }
  if (session.json) return printJson({ model: job.model, comparison, search })
  print(`${job.model?.name}: ${comparisonText(comparison)}`)
  if (search) print(searchText(search))
  print(`id ${job.model?.id}`)
}

/** @param before name of the model that was to be fused */
export function showFused(session: Session, job: WatchedJob, before = job.model?.name) {
  const result = job.output as FusionResult
  if (session.json) return printJson({ model: job.model, ...result })
  print(fusionText(result))
  if (result.applied.length === 0) return print(`Nothing was applied; ${before} is as it was.`)
  print(`${job.model?.name}: ${result.applied.join(', ')}. \`hartonomous unfuse\` gives the model before back.`)
  print(`id ${job.model?.id}`)
}

export async function showAnalysed(session: Session, job: WatchedJob) {
  type Found = { job: { model: { id: string } | null; analysis: Analysis | null } }
  const { analysis, model } = (await session.client.query<Found>(documents.analysisOfJob, { id: job.id })).job
  if (session.json) return printJson(analysis)
  if (!analysis) return print('The analysis is gone with its model.')
  print(analysisText(analysis))
  const { capabilities } = await session.client.query<{ capabilities: { discoveredIn: { id: string } | null }[] }>(
    documents.capabilities,
    { status: 'PROPOSED' },
  )
  const proposed = capabilities.filter(c => c.discoveredIn?.id === model?.id).length
  if (proposed > 0)
    print(
      `\n${proposed} kinds of samples that nobody named are proposed as capabilities: \`hartonomous capabilities --proposed\`.`,
    )
}

/** Below every table of recipes. */
export const recipeNotes = (recipes: readonly RecipeSummary[]): string =>
  [
    `${costNote} ~ is what is expected.`,
    '`hartonomous recipe ID` says why, with interval, size and speed.',
    ...(recipes.some(r => r.status === 'PROPOSED') ? ['`hartonomous approve ID` allows a build.'] : []),
  ].join('\n')

export async function showProposed(session: Session, job: { id: string }) {
  type Found = { job: { recipes: RecipeSummary[] } }
  const { recipes } = (await session.client.query<Found>(documents.proposals, { id: job.id })).job
  if (session.json) return printJson(recipes)
  if (recipes.length === 0) return print('No student was found that is worth proposing.')
  print('Quality compares with the parent (1.0) on held-out samples: exp(-(student loss - parent loss)).')
  const withoutStatus = recipes.every(r => r.status === 'PROPOSED')
  print(recipeTable(recipes, { ids: session.ids, withoutStatus }))
  print(`\n${recipeNotes(recipes)}`)
}

/** Waits for the measurement of a student and says what was built, step by step. */
export async function showBuilt(session: Session, job: { id: string; durationMs: number | null }) {
  type Built = { job: { recipe: { id: string } | null } }
  const built = (await session.client.query<Built>(documents.recipeOfJob, { id: job.id })).job
  // A recipe that was built again has another job.
  if (!built.recipe) return session.json ? printJson(null) : print('Its recipe was built anew since.')
  const { id: recipeId } = built.recipe
  const find = () => session.client.query<{ recipe: RecipeSummary }>(documents.recipe, { id: recipeId })
  const { student, measuredQuality: before } = (await find()).recipe
  const id = student?.id
  if (id && before === null) await measurement(session, id)
  const model = await modelOf(session, id)
  const { measuredQuality, estimatedQuality, measuredAgainst, parentModel } = (await find()).recipe
  if (session.json) return printJson({ ...model, measuredQuality })
  if (!model) return print('Its student is deleted.')
  print(builtText(model, job.durationMs))
  const { job: done } = await session.client.query<{ job: { stages: BuildStage[] } }>(documents.stages, { id: job.id })
  for (const line of stageLines(done.stages)) print(line)
  for (const line of storedText(model)) print(line)
  if (measuredQuality !== null)
    print(
      `Quality beside its ${measuredAgainst?.id === parentModel.id ? 'parent' : 'teacher'} ${measuredAgainst?.name ?? '(deleted)'} on held-out samples: ${quality(measuredQuality)} measured${estimatedQuality === null ? '' : `, ${quality(estimatedQuality)} predicted`}.`,
    )
  print(`id ${model.id}`)
}

/** Follows the measurement that a build queues; the student stands where it fails. */
async function measurement(session: Session, modelId: string) {
  const { jobs } = await session.client.query<{ jobs: { nodes: JobSummary[] } }>(documents.jobs, {
    types: ['MODEL_EVALUATE'],
    modelId,
    first: 1,
  })
  const job = jobs.nodes[0]
  if (!job) return note('It is not measured: there is no tokenizer, or no held-out sample of its capability.')
  if (job.state === 'SUCCEEDED') return
  note('Built; measuring it on held-out samples.')
  try {
    await followJob(session, job.id, 'measure')
  } catch (error) {
    if (!(error instanceof PlatformError)) throw error
    note(`It could not be measured: ${error.message}`)
  }
}

interface Verified {
  payloads: number
  bytes: number
  corrupt: string[]
  missing: string[]
  affected: { hash: string; part: string; models?: string[] }[]
}

/** @throws Error, which is exit code 1, where anything is corrupt or missing. */
export function showVerified(session: Session, job: WatchedJob) {
  const output = job.output as Verified
  const { corrupt, missing, affected } = output
  const found = [
    ...(corrupt.length > 0 ? [`${corrupt.length} corrupt (set aside)`] : []),
    ...(missing.length > 0 ? [`${missing.length} missing`] : []),
  ].join(', ')
  if (session.json) printJson(output)
  else {
    print(`${output.payloads} payloads, ${quantity(output.bytes, 'bytes')}: ${found || 'all whole'}.`)
    const parts = (hash: string) =>
      affected.filter(a => a.hash === hash).map(a => [...(a.models ?? []), a.part].join(', '))
    const show = (what: string, hash: string) => print(`  ${what} ${hash}  ${parts(hash).join('; ')}`.trimEnd())
    for (const hash of corrupt) show('corrupt', hash)
    for (const hash of missing) show('missing', hash)
  }
  if (found) throw new Error(`payloads ${found}. Ingest the sources of these models again to repair them.`)
}

export function showCollected(session: Session, job: WatchedJob) {
  const output = job.output as { removed: number; bytes: number; exports?: number }
  if (session.json) return printJson(output)
  const exports = output.exports ? ` and ${output.exports} ${output.exports === 1 ? 'export' : 'exports'}` : ''
  print(`${output.removed} payloads${exports} removed, ${quantity(output.bytes, 'bytes')} freed.`)
}
