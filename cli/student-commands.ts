// Commands about students: propose recipes, look at them, decide, build.
import { readFileSync } from 'node:fs'
import { ranges, table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { allPages, findModel, findRecipe } from './find.js'
import { probeSetId } from './model-commands.js'
import type { ModelDetail, RecipeSummary } from './results.js'
import { print, printJson, runJob } from './run-job.js'
import type { Session } from './session.js'

const quality = (r: RecipeSummary) => (r.measuredQuality ?? r.estimatedQuality)?.toFixed(3) ?? '–'

function recipeTable(recipes: RecipeSummary[]): string {
  const rows = recipes.map(r => [
    r.name,
    r.capability?.slug ?? '–',
    r.status,
    quantity(Number(r.estimatedParameterCount)),
    quality(r),
    ranges(r.layers),
    r.id,
  ])
  return table(['recipe', 'capability', 'status', 'parameters', 'quality', 'layers kept', 'id'], rows)
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
  print(recipeTable(recipes))
}

export async function listRecipes(session: Session, o: { parent?: string; status?: string }) {
  const parent = o.parent ? (await findModel(session, o.parent)).id : undefined
  const recipes = await recipesOf(session, parent, o.status?.toUpperCase())
  if (session.json) return printJson(recipes)
  print(recipes.length ? recipeTable(recipes) : 'No recipes yet: `hartonomous propose MODEL`.')
}

export async function showRecipe(session: Session, reference: string) {
  const found = await findRecipe(session, reference)
  const { recipe } = await session.client.query<{ recipe: RecipeSummary & { yaml: string } }>(documents.recipe, {
    id: found.id,
  })
  if (session.json) return printJson(recipe)
  print(recipeTable([recipe]))
  print(`\n${recipe.objective}`)
  for (const layer of recipe.layers) print(`  layers ${ranges([layer])}: ${layer.reason ?? 'no reason given'}`)
  print(`\n${recipe.yaml}`)
}

export async function createRecipe(session: Session, file: string) {
  const { recipe } = await session.client.mutate<{ recipe: RecipeSummary }>(documents.createRecipe, {
    yaml: readFileSync(file, 'utf8'),
  })
  session.json ? printJson(recipe) : print(recipeTable([recipe]))
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
  const built = await session.client.query<{ recipe: RecipeSummary }>(documents.recipe, { id: recipe.id })
  const id = built.recipe.student?.id
  const { model } = await session.client.query<{ model: ModelDetail }>(documents.model, { id })
  if (session.json) return printJson(model)
  print(
    `${model.name}: ${model.layerCount} layers, ${quantity(Number(model.parameterCount))} parameters, built in ${job.durationMs} ms. ` +
      `Of its ${quantity(Number(model.sizeBytes), 'bytes')} it added ${quantity(Number(model.uniqueBytes), 'bytes')}; the rest is its parent's.`,
  )
  print(`id ${model.id}`)
}
