// Commands about students: propose recipes, look at them, decide, build.
import { readFileSync } from 'node:fs'
import { PlatformError } from '../lib/client/platform-client.js'
import { colors, ranges, table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { allPages, findModel, findRecipe, idCell } from './find.js'
import { probeSetId } from './model-commands.js'
import type { JobSummary, ModelDetail, RecipeSummary } from './results.js'
import { followJob, print, printJson, runJob } from './run-job.js'
import { note, type Session } from './session.js'

/** Below this a student has lost half of the likelihood its parent gives a right token. */
const poorQuality = 0.5

const quality = (value: number | null) => {
  if (value === null) return '–'
  return value < poorQuality ? colors.dim(`${value.toFixed(3)} poor`) : value.toFixed(3)
}

function recipeTable(session: Session, recipes: RecipeSummary[]): string {
  const rows = recipes.map(r => [
    r.name,
    r.capability?.slug ?? '–',
    r.status,
    quantity(Number(r.estimatedParameterCount)),
    quality(r.estimatedQuality),
    quality(r.measuredQuality),
    ranges(r.layers),
    idCell(session, r.id),
  ])
  return table(['recipe', 'capability', 'status', 'parameters', 'predicted', 'measured', 'layers kept', 'id'], rows)
}

async function recipesOf(session: Session, parentModelId?: string, status?: string): Promise<RecipeSummary[]> {
  return allPages<RecipeSummary>(session, documents.recipes, 'recipes', { parentModelId, status })
}

export interface ProposeOptions {
  capability?: string[]
  maximumParameters?: number
  samples?: number
  probes?: string
}

export async function propose(session: Session, reference: string, o: ProposeOptions) {
  const model = await findModel(session, reference)
  const before = new Set((await recipesOf(session, model.id)).map(r => r.id))
  const input = {
    modelId: model.id,
    capabilities: o.capability,
    maximumParameters: o.maximumParameters,
    samplesPerCapability: o.samples || undefined,
    probeDatasetId: await probeSetId(session, o.probes),
  }
  await runJob(session, documents.proposeStudents, input, 'propose')
  const recipes = (await recipesOf(session, model.id)).filter(r => !before.has(r.id))
  if (session.json) return printJson(recipes)
  print('Quality compares with the parent (1.0) on held-out samples: exp(-(student loss - parent loss)).')
  print(recipeTable(session, recipes))
}

export async function listRecipes(session: Session, o: { parent?: string; status?: string }) {
  const parent = o.parent ? (await findModel(session, o.parent)).id : undefined
  const recipes = await recipesOf(session, parent, o.status?.toUpperCase())
  if (session.json) return printJson(recipes)
  print(recipes.length ? recipeTable(session, recipes) : 'No recipes yet: `hartonomous propose MODEL`.')
}

export async function showRecipe(session: Session, reference: string) {
  const found = await findRecipe(session, reference)
  const { recipe } = await session.client.query<{ recipe: RecipeSummary & { yaml: string } }>(documents.recipe, {
    id: found.id,
  })
  if (session.json) return printJson(recipe)
  print(recipeTable(session, [recipe]))
  print(`\n${recipe.objective}`)
  for (const layer of recipe.layers) print(`  layers ${ranges([layer])}: ${layer.reason ?? 'no reason given'}`)
  print(`\n${recipe.yaml}`)
}

export async function createRecipe(session: Session, file: string, o: { name?: string }) {
  const { recipe } = await session.client.mutate<{ recipe: RecipeSummary }>(documents.createRecipe, {
    yaml: readFileSync(file, 'utf8'),
    name: o.name,
  })
  session.json ? printJson(recipe) : print(recipeTable(session, [recipe]))
}

export async function approve(session: Session, reference: string) {
  const recipe = await findRecipe(session, reference)
  await session.client.mutate(documents.approveRecipe, { recipeId: recipe.id })
  print(`${recipe.name} is approved; build it with \`hartonomous build ${recipe.id}\`.`)
}

export async function reject(session: Session, reference: string, reason: string) {
  const recipe = await findRecipe(session, reference)
  await session.client.mutate(documents.rejectRecipe, { recipeId: recipe.id, reason })
  print(`${recipe.name} is rejected.`)
}

export async function build(session: Session, reference: string) {
  const recipe = await findRecipe(session, reference)
  const job = await runJob(session, documents.buildStudent, { recipeId: recipe.id }, 'build')
  const find = () => session.client.query<{ recipe: RecipeSummary }>(documents.recipe, { id: recipe.id })
  const id = (await find()).recipe.student?.id
  await measurement(session, id)
  const { measuredQuality, estimatedQuality } = (await find()).recipe
  const { model } = await session.client.query<{ model: ModelDetail }>(documents.model, { id })
  if (session.json) return printJson({ ...model, measuredQuality })
  print(
    `${model.name}: ${model.layerCount} layers, ${quantity(Number(model.parameterCount))} parameters, built in ${job.durationMs} ms. ` +
      `Of its ${quantity(Number(model.sizeBytes), 'bytes')} it added ${quantity(Number(model.uniqueBytes), 'bytes')}; the rest is its parent's.`,
  )
  if (measuredQuality !== null)
    print(
      `Quality against its parent on held-out samples: ${quality(measuredQuality)} measured${estimatedQuality === null ? '' : `, ${quality(estimatedQuality)} predicted`}.`,
    )
  print(`id ${model.id}`)
}

/** Follows the measurement that a build queues; the student stands where it fails. */
async function measurement(session: Session, modelId?: string) {
  const { jobs } = await session.client.query<{ jobs: { nodes: JobSummary[] } }>(documents.jobs, {
    types: ['MODEL_EVALUATE'],
    modelId,
    first: 1,
  })
  const job = jobs.nodes[0]
  if (!job) return note('It is not measured: there is no tokenizer, or no held-out sample of its capability.')
  note('Built; measuring it against its parent.')
  try {
    await followJob(session, job.id, 'measure')
  } catch (error) {
    if (!(error instanceof PlatformError)) throw error
    note(`It could not be measured: ${error.message}`)
  }
}
