// Commands about models: ingest, list, show, analyse, export, quantise, delete.

import { existsSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { PlatformError } from '../lib/client/platform-client.js'
import { table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import { analysisText, scoreTable } from './analysis-text.js'
import { confirm } from './confirm.js'
import { documents } from './documents.js'
import { allPages, findModel, findOneModel } from './find.js'
import type { ModelDetail, ModelSummary } from './results.js'
import { print, printJson, runJob } from './run-job.js'
import { note, type Session } from './session.js'
import { idCell } from './short-id.js'
import { showAnalysed, showExported, showIngested, showQuantized } from './show-result.js'

/** A path is made absolute here: the platform may run in another folder. */
const absoluteSource = (source: string) => (existsSync(source) ? resolve(source) : source)

export async function ingest(
  session: Session,
  source: string,
  o: { name?: string; modelVersion?: string; revision?: string },
) {
  const input = { source: absoluteSource(source), name: o.name, version: o.modelVersion, revision: o.revision }
  await showIngested(session, await runJob(session, documents.ingestModel, input, 'ingest'))
}

export async function listModels(session: Session, nameContains?: string) {
  const models = await allPages<ModelSummary>(session, documents.models, 'models', { nameContains })
  if (session.json) return printJson(models)
  if (models.length === 0) return print('No models yet: `hartonomous ingest PATH`.')
  const rows = models.map(m => [
    m.name,
    m.isStudent ? 'student' : m.architecture,
    quantity(Number(m.parameterCount)),
    String(m.layerCount),
    quantity(Number(m.sizeBytes), 'bytes'),
    quantity(Number(m.uniqueBytes), 'bytes'),
    idCell(session, m.id),
  ])
  print(table(['name', 'kind', 'parameters', 'layers', 'size', 'own', 'id'], rows))
}

export async function show(session: Session, reference: string) {
  const found = await findModel(session, reference)
  const { model } = await session.client.query<{ model: ModelDetail }>(documents.model, { id: found.id })
  if (session.json) return printJson(model)
  const facts: [string, string | number | null | undefined][] = [
    ['id', model.id],
    ['architecture', model.architecture],
    ['parameters', Number(model.parameterCount).toLocaleString('en')],
    ['layers', model.layerCount],
    [
      'heads (query / key-value)',
      model.attentionHeadCount && `${model.attentionHeadCount} / ${model.keyValueHeadCount}`,
    ],
    ['hidden / intermediate', model.hiddenSize && `${model.hiddenSize} / ${model.intermediateSize}`],
    ['vocabulary', model.vocabularySize],
    ['context', model.contextLength && `${model.contextLength} tokens`],
    ['stored as', `${model.dtype}, ${model.tensors.totalCount} tensors, ${quantity(Number(model.sizeBytes), 'bytes')}`],
    ['bytes no other model holds', quantity(Number(model.uniqueBytes), 'bytes')],
    ['licence', model.license],
    ['source', model.source],
    ['objective', model.objective],
    ['parent', model.parent?.name],
    ['students', model.students.nodes.map(s => s.name).join(', ') || null],
  ]
  print(`${model.name}${model.version ? ` ${model.version}` : ''}`)
  for (const [label, value] of facts) if (value) print(`  ${label.padEnd(28)}${value}`)
  for (const event of model.history)
    print(`  ${event.createdAt.slice(0, 19).replace('T', ' ')}         ${event.description}`)
  if (model.analysis) print(`\n${analysisText(model.analysis)}`)
  else if (model.capabilityScores.length) print(`\n${scoreTable(model.capabilityScores)}`)
  else print('\nNot analysed yet: `hartonomous analyze`.')
  const judged = model.recipes.nodes.some(r => (r.measuredQuality ?? r.estimatedQuality) !== null)
  const pictures = [...(model.analysis ? ['layers', 'map', 'heads'] : []), ...(judged ? ['students'] : [])]
  if (pictures.length) print('\nPictures, while a platform serves:')
  for (const picture of pictures) print(`  ${session.address}/pictures/models/${model.id}/${picture}.svg`)
}

export async function analyze(session: Session, reference: string, o: { samples?: number; probes?: string }) {
  const model = await findModel(session, reference)
  const input = {
    modelId: model.id,
    probeDatasetId: await probeSetId(session, o.probes),
    samplesPerCapability: o.samples || undefined,
  }
  await showAnalysed(session, await runJob(session, documents.analyzeModel, input, 'analyze'))
}

/**
 * The id of a probe set given by id, by name (its newest version) or by a JSONL file or a folder of them, which is imported first and
 * then called as the file is.
 */
export async function probeSetId(session: Session, reference?: string): Promise<string | undefined> {
  if (!reference) return undefined
  type Sets = { probeDatasets: { id: string; name: string; version: number }[] }
  const newest = async (wanted: string) => {
    const { probeDatasets } = await session.client.query<Sets>(documents.probeDatasets)
    const matches = probeDatasets.filter(d => d.id === wanted || d.name === wanted)
    return matches.sort((a, b) => a.version - b.version).at(-1)?.id
  }
  const known = await newest(reference)
  if (known) return known
  const path = resolve(reference)
  if (!existsSync(path))
    throw new PlatformError(`No probe set has the id or name "${reference}", and there is no file ${path}`, 'NOT_FOUND')
  const name = basename(path, '.jsonl')
  await runJob(session, documents.importProbeDataset, { name, source: path }, 'probes')
  return newest(name)
}

export async function exportModel(
  session: Session,
  reference: string,
  o: { format: string; quantization?: string; output?: string },
) {
  const model = await findModel(session, reference)
  const job = await runJob(
    session,
    documents.exportModel,
    { modelId: model.id, format: o.format.toUpperCase(), quantization: o.quantization?.toUpperCase() },
    'export',
  )
  await showExported(session, job, o.output)
}

export interface QuantizeOptions {
  type: string
  asymmetric?: boolean
  blockSize: number
  roundToNearest?: boolean
  embeddings: string
  head: string
  raised?: string[]
  calibrationTokens?: number
  maximumBytes?: number
  minimumQuality?: number
  requantize?: boolean
  probes?: string
  samples: number
  name?: string
}

export async function quantize(session: Session, reference: string, o: QuantizeOptions) {
  const model = await findModel(session, reference)
  const input = {
    modelId: model.id,
    type: o.type.toUpperCase(),
    symmetric: !o.asymmetric,
    blockSize: o.blockSize,
    method: o.roundToNearest ? 'ROUND_TO_NEAREST' : 'CALIBRATED',
    embeddings: o.embeddings.toUpperCase(),
    head: o.head.toUpperCase(),
    raised: o.raised,
    calibrationTokens: o.calibrationTokens,
    maximumBytes: o.maximumBytes,
    minimumQuality: o.minimumQuality,
    requantize: o.requantize === true,
    probeDatasetId: await probeSetId(session, o.probes),
    samplesPerCapability: o.samples,
    name: o.name,
  }
  showQuantized(session, await runJob(session, documents.quantizeModel, input, 'quantize'))
}

interface Dependents {
  recipe: { name: string } | null
  students: { nodes: { name: string }[]; totalCount: number }
  recipes: { nodes: { name: string; status: string }[]; totalCount: number }
}

const some = (names: string[], count: number) => `${names.join(', ')}${count > names.length ? ', …' : ''}`

/** What goes with a model, and what becomes of what was made from it. */
export function deletionText(
  model: Pick<ModelSummary, 'name' | 'parameterCount' | 'uniqueBytes'>,
  d: Dependents,
): string {
  const open = d.recipes.nodes.filter(r => ['PROPOSED', 'APPROVED', 'BUILDING'].includes(r.status)).map(r => r.name)
  const students = d.students.nodes.map(s => s.name)
  const more = d.recipes.totalCount > d.recipes.nodes.length ? ' or more' : ''
  return [
    `${model.name} goes: ${quantity(Number(model.parameterCount))} parameters, ${quantity(Number(model.uniqueBytes), 'bytes')} that no other model holds.`,
    ...(students.length > 0
      ? [
          `  ${d.students.totalCount === 1 ? 'Its student stays' : `Its ${d.students.totalCount} students stay`}: ${some(students, d.students.totalCount)}.`,
        ]
      : []),
    ...(open.length > 0
      ? [
          `  ${open.length === 1 && !more ? 'A recipe that is open cannot' : `${open.length}${more} recipes that are open cannot`} be built any more: ${some(open.slice(0, 10), open.length)}.`,
        ]
      : []),
    ...(d.recipe ? [`  Its recipe ${d.recipe.name} stays and can be built again.`] : []),
  ].join('\n')
}

/** A person is asked first; where nobody can answer, as in a script, it goes on. */
export async function deleteModel(session: Session, reference: string, o: { yes?: boolean }) {
  const model = await findOneModel(session, reference)
  if (!o.yes && !session.json && process.stdin.isTTY && process.stderr.isTTY) {
    const data = await session.client.query<{ model: Dependents }>(documents.dependents, { id: model.id })
    note(deletionText(model, data.model))
    if (!(await confirm('Delete it?'))) {
      note('Nothing is deleted.')
      return 1
    }
  }
  await session.client.mutate(documents.deleteModel, { modelId: model.id })
  print(`${model.name} is deleted; payloads that no other model holds go with \`hartonomous gc\`.`)
}
