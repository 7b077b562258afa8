// Commands about students: propose recipes, look at them, decide, build.
import { readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { basename } from 'node:path'
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { allPages, findModel, findRecipe } from './find.js'
import { probeSetId } from './model-commands.js'
import type { MixtureOption } from './option-values.js'
import { decisionLines, figures, partsText, recipeTable } from './recipe-text.js'
import type { RecipeDetail, RecipeSummary } from './results.js'
import { followJob, print, printJson, runJob } from './run-job.js'
import { note, type Session } from './session.js'
import { idCell } from './short-id.js'
import { recipeNotes, showBuilt, showProposed } from './show-result.js'

/** Samples per capability of the short search. */
const usualSamples = 8

export interface ProposeOptions {
  capability?: string[]
  maximumParameters?: number
  samples?: number
  probes?: string
  mixture?: MixtureOption[]
  budget?: number
  budgetTokens?: number
  correctCuts?: boolean
}

export async function propose(session: Session, reference: string, o: ProposeOptions) {
  const model = await findModel(session, reference)
  const budgeted = o.budget !== undefined || o.budgetTokens !== undefined
  const input = {
    modelId: model.id,
    capabilities: o.capability,
    maximumParameters: o.maximumParameters,
    // A budget says how many samples are used.
    samplesPerCapability: (o.samples ?? (budgeted ? 0 : usualSamples)) || undefined,
    mixtures: o.mixture,
    budgetSeconds: o.budget,
    budgetTokens: o.budgetTokens,
    correctCuts: o.correctCuts,
    probeDatasetId: await probeSetId(session, o.probes),
  }
  await showProposed(session, await runJob(session, documents.proposeStudents, input, 'propose'))
}

export async function listRecipes(session: Session, o: { parent?: string; status?: string }) {
  const parent = o.parent ? (await findModel(session, o.parent)).id : undefined
  const wanted = { parentModelId: parent, status: o.status?.toUpperCase() }
  const recipes = await allPages<RecipeSummary>(session, documents.recipes, 'recipes', wanted)
  if (session.json) return printJson(recipes)
  if (recipes.length === 0) return print('No recipes yet: `hartonomous propose MODEL`.')
  print(recipeTable(recipes, session))
  print(`\n${recipeNotes(recipes)}`)
}

export async function showRecipe(session: Session, reference: string) {
  const found = await findRecipe(session, reference)
  const { recipe } = await session.client.query<{ recipe: RecipeDetail }>(documents.recipe, {
    id: found.id,
  })
  if (session.json) return printJson(recipe)
  print(recipeTable([recipe], session))
  print(`\n${recipe.objective}`)
  for (const line of [...figures(recipe), ...partsText(recipe), ...decisionLines(recipe.decisions)]) print(line)
  print(`\n${recipe.yaml}`)
}

export async function createRecipe(session: Session, file: string, o: { name?: string }) {
  const { recipe } = await session.client.mutate<{ recipe: RecipeSummary }>(documents.createRecipe, {
    yaml: readFileSync(file, 'utf8'),
    name: o.name,
  })
  session.json ? printJson(recipe) : print(recipeTable([recipe], session))
}

/** Recorded with the decision; null where the system does not say. */
function userName(): string | null {
  try {
    return userInfo().username
  } catch {
    return null
  }
}

export async function approve(session: Session, reference: string, o: { reason?: string }) {
  const recipe = await findRecipe(session, reference, ['PROPOSED', 'FAILED'])
  await session.client.mutate(documents.approveRecipe, { recipeId: recipe.id, reason: o.reason, decidedBy: userName() })
  print(`${recipe.name} is approved; build it with \`hartonomous build ${idCell(session, recipe.id)}\`.`)
}

export async function reject(session: Session, reference: string, reason: string) {
  const recipe = await findRecipe(session, reference, ['PROPOSED', 'FAILED', 'APPROVED'])
  await session.client.mutate(documents.rejectRecipe, { recipeId: recipe.id, reason, decidedBy: userName() })
  print(`${recipe.name} is rejected.`)
}

export async function build(session: Session, reference: string) {
  const recipe = await findRecipe(session, reference, ['APPROVED'])
  await showBuilt(session, await runJob(session, documents.buildStudent, { recipeId: recipe.id }, 'build'))
}

export interface PruneOptions {
  remove: number
  queryHeads?: boolean
  metric: string
  seed: number
  fit?: boolean
  capability?: string
  samples: number
  probes?: string
  name?: string
}

export async function pruneHeads(session: Session, reference: string, o: PruneOptions) {
  const model = await findModel(session, reference)
  const input = {
    modelId: model.id,
    name: o.name,
    unit: o.queryHeads ? 'QUERY_HEAD' : 'KEY_VALUE_GROUP',
    metric: o.metric.toUpperCase(),
    remove: o.remove,
    seed: o.seed,
    correct: o.fit ?? false,
    capability: o.capability,
    samplesPerCapability: o.samples,
    probeDatasetId: await probeSetId(session, o.probes),
  }
  await showBuilt(session, await runJob(session, documents.pruneHeads, input, 'prune'))
}

export interface DistillOptions {
  teacher?: string
  tokens: number
  rate: number
  batch: number
  crossEntropy?: number
  onPolicy: number
  hidden: number
  temperature: number
  train: string
  layers?: number[]
  rank: number
  keepAdapter?: boolean
  seed: number
  capability?: string
  data?: string
  name?: string
}

interface Distillation {
  job: { id: string }
  recipe: { healing: { tokens: number; learningRate: number; crossEntropy: number } }
}

/** What a distillation does, in a line: who learns from whom, on what, and how. */
export function distillationText(
  names: { student: string; teacher: string; texts: string; capability?: string | undefined },
  healing: Distillation['recipe']['healing'],
  onPolicy: number,
): string {
  const percent = (share: number) => `${Number((100 * share).toPrecision(3))} %`
  const { tokens, learningRate, crossEntropy } = healing
  return [
    `${names.student} learns from ${names.teacher}: ${quantity(tokens)} tokens of ${names.texts}, ${names.capability ?? 'all capabilities'}`,
    `learning rate up to ${learningRate}`,
    `${percent(crossEntropy)} of the loss is the texts' own`,
    onPolicy > 0 ? `${percent(onPolicy)} of the rows it writes itself` : 'it writes no rows itself',
  ].join('; ')
}

/** Low-rank changes as they were asked for; also where something else is trained and the adapter was to be kept, which the server refuses. */
export const loraInput = ({
  train,
  rank,
  keepAdapter = false,
}: Pick<DistillOptions, 'train' | 'rank' | 'keepAdapter'>) =>
  train.toUpperCase() === 'LORA' || keepAdapter ? { rank, alpha: 2 * rank, keepAdapter } : undefined

export async function distill(session: Session, reference: string, o: DistillOptions) {
  const model = await findModel(session, reference)
  const teacher = o.teacher ? await findModel(session, o.teacher) : undefined
  const input = {
    modelId: model.id,
    teacherId: teacher?.id,
    name: o.name,
    tokens: o.tokens,
    learningRate: o.rate,
    batchRows: o.batch,
    crossEntropy: o.crossEntropy,
    onPolicy: o.onPolicy || undefined,
    hidden: o.hidden,
    temperature: o.temperature,
    train: o.train.toUpperCase(),
    layers: o.layers,
    lora: loraInput(o),
    seed: o.seed,
    capability: o.capability,
    probeDatasetId: await probeSetId(session, o.data),
  }
  const parent = teacher ? undefined : (await session.client.query<Parent>(documents.parent, { id: model.id })).model
  const { job, recipe } = await session.client.mutate<Distillation>(documents.distillStudent, input)
  const names = {
    student: model.name,
    teacher: teacher?.name ?? parent?.parent?.name ?? 'its parent',
    texts: o.data ? `probe set ${basename(o.data, '.jsonl')}` : 'the built-in probe set',
    capability: o.capability,
  }
  note(distillationText(names, recipe.healing, o.onPolicy))
  await showBuilt(session, await followJob(session, job.id, 'distill'))
}

interface Parent {
  model: { parent: { name: string } | null }
}
