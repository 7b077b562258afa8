// What the database knows of a model, for the card and the metadata of its exports.
import { basename } from 'node:path'
import { type EntityManager, In, Not } from 'typeorm'
import { jobTypes, type StageResult } from '../../compute/pool/job-types.js'
import {
  Job,
  ModelAtom,
  ModelEvaluation,
  ModelEvent,
  ProbeDataset,
  StudentModelRecipe,
} from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import type { Ancestor, FactScore, ModelFacts } from '../../lib/model-facts.js'
import { printRecipeYaml } from '../build/print-recipe.js'

/** Longer chains end here: a card is read by people. */
const mostAncestors = 50

/** A source as strangers may read it: repositories as they are, addresses without their query (keys are in it), of paths the last part. */
export function publicSource(source: string): string {
  if (/^hf:/i.test(source)) return source
  if (/^https?:/i.test(source)) return source.replace(/[?#].*$/, '')
  return basename(source.replace(/^file:/i, ''))
}

/** Of a living model. */
export async function modelFacts(em: EntityManager, model: ModelAtom): Promise<ModelFacts> {
  const { tenantId } = model
  const recipe = await em.findOneBy(StudentModelRecipe, { ...scoped(tenantId), studentModelId: model.id })
  const events = await em.find(ModelEvent, {
    where: { ...scoped(tenantId), modelId: model.id, kind: Not('EXPORTED') },
    order: { id: 'ASC' },
  })
  return {
    version: model.version,
    lineage: await lineageOf(em, model),
    layersFrom: recipe ? await layersFrom(em, recipe) : [],
    recipe: recipe && (await recipeYaml(em, recipe)),
    quality: recipe?.measuredQuality ?? null,
    besideTeacher: recipe?.stages?.healing?.teacher !== undefined,
    scores: await newestScores(em, model),
    history: events.map(
      ({ createdAt, description }) =>
        `${createdAt.toISOString().slice(0, 10)} ${model.source ? description.replaceAll(model.source, publicSource(model.source)) : description}`,
    ),
    built: await figuresOf(em, tenantId, events[0]?.jobId ?? null),
  }
}

async function lineageOf(em: EntityManager, model: ModelAtom): Promise<Ancestor[]> {
  const lineage: Ancestor[] = []
  for (let at: ModelAtom | null = model; at && lineage.length < mostAncestors; ) {
    lineage.push(ancestorOf(at))
    at = at.parentModelId ? await em.findOneBy(ModelAtom, { ...scoped(at.tenantId), id: at.parentModelId }) : null
  }
  return lineage
}

const ancestorOf = (row: ModelAtom): Ancestor => {
  const { name, manifestHash: manifest, parameterCount, layerCount, license, objective, source } = row
  return { name, manifest, parameterCount, layerCount, source: source && publicSource(source), license, objective }
}

/** The models beside the parent that the recipe takes layers of, in the order of their first layer. */
async function layersFrom(em: EntityManager, { tenantId, layers }: StudentModelRecipe): Promise<Ancestor[]> {
  const ids = [...new Set(layers.flatMap(range => range.modelId ?? []))]
  if (ids.length === 0) return []
  const rows = await em.findBy(ModelAtom, { ...scoped(tenantId), id: anyOf(ids) })
  return ids.flatMap(id => rows.find(row => row.id === id) ?? []).map(ancestorOf)
}

async function recipeYaml(em: EntityManager, recipe: StudentModelRecipe): Promise<string> {
  const ids = [recipe.parentModelId, ...recipe.layers.flatMap(range => range.modelId ?? [])]
  const rows = await em.find(ModelAtom, {
    select: { id: true, name: true },
    where: { ...scoped(recipe.tenantId), id: anyOf(ids) },
  })
  const names = new Map(rows.map(row => [row.id, row.name]))
  const { name, objective, layers, stages, parentModelId } = recipe
  return printRecipeYaml({ model: names.get(parentModelId)!, name, objective, layers, stages, others: names })
}

async function newestScores(em: EntityManager, { id: modelId, tenantId }: ModelAtom): Promise<FactScore[]> {
  const rows = await em.find(ModelEvaluation, { where: { ...scoped(tenantId), modelId }, order: { id: 'ASC' } })
  const sets = await em.findBy(ProbeDataset, {
    ...scoped(tenantId),
    id: In([...new Set(rows.map(row => row.probeDatasetId))]),
  })
  const names = new Map(sets.map(({ id, name, version }) => [id, `${name} (version ${version})`]))
  const newest = new Map(rows.map(row => [`${row.split} ${row.probeDatasetId} ${row.slug}`, row]))
  return [...newest.values()]
    .sort((a, b) => b.split.localeCompare(a.split) || a.slug.localeCompare(b.slug))
    .map(row => ({
      capability: row.slug,
      probeDataset: names.get(row.probeDatasetId) ?? row.probeDatasetId,
      split: row.split,
      loss: row.loss,
      perplexity: row.perplexity,
      accuracy: row.accuracy,
      sampleCount: Number(row.sampleCount),
      interval: row.lossInterval,
      measuredAt: row.createdAt.toISOString().slice(0, 10),
    }))
}

type Figures = ModelFacts['built'][number]['figures']

/** Those that are one number, word or yes; lists by layer are no reading for a card. */
const plain = (values: Record<string, unknown>): Figures =>
  Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, number | string | boolean] =>
      ['number', 'string', 'boolean'].includes(typeof entry[1]),
    ),
  )

async function figuresOf(em: EntityManager, tenantId: string, jobId: string | null): Promise<ModelFacts['built']> {
  const job = jobId === null ? null : await em.findOneBy(Job, { ...scoped(tenantId), id: jobId })
  if (job?.type === 'student.build') {
    // Outputs of older versions may look otherwise.
    const { stages = [] } = jobTypes['student.build'].output.safeParse(job.output).data ?? {}
    return stages.map(({ stage, measurements }: StageResult) => ({ step: stage, figures: plain(measurements ?? {}) }))
  }
  if (job?.type !== 'model.quantize') return []
  const input = jobTypes['model.quantize'].input.safeParse(job.input)
  const output = jobTypes['model.quantize'].output.safeParse(job.output)
  if (!input.success || !output.success) return []
  const { options, samplesPerCapability } = input.data
  const { comparison, types } = output.data
  const tensors = Object.fromEntries(Object.entries(types).map(([dtype, count]) => [`tensors in ${dtype}`, count]))
  const measured = { 'validation samples per capability': samplesPerCapability, ...plain(comparison) }
  return [{ step: 'quantise', figures: plain({ ...options, ...tensors, ...measured }) }]
}
