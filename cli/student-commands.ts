// Commands about students: propose recipes, look at them, decide, build.
import { readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { PlatformError } from '../lib/client/platform-client.js'
import { colors, ranges, table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { allPages, findModel, findRecipe } from './find.js'
import { fusionText } from './fusion-commands.js'
import { comparisonText, probeSetId, searchText } from './model-commands.js'
import type { MixtureOption } from './option-values.js'
import type {
  BuildStage,
  Comparison,
  FusionResult,
  JobSummary,
  ModelDetail,
  RecipeSummary,
  SchemeSearch,
} from './results.js'
import { followJob, print, printJson, runJob } from './run-job.js'
import { note, type Session } from './session.js'
import { idCell } from './short-id.js'

/** Below this a student has lost half of the likelihood its parent gives a right token. */
const poorQuality = 0.5

const quality = (value: number | null) => {
  if (value === null) return '–'
  return value < poorQuality ? colors.dim(`${value.toFixed(3)} poor`) : value.toFixed(3)
}

/** What it cost, or with ~ what it is expected to. */
const cost = ({ estimatedCost, measuredCost }: RecipeSummary) =>
  measuredCost !== null ? measuredCost.toFixed(1) : estimatedCost !== null ? `~${estimatedCost.toFixed(1)}` : '–'

/** Layers, and how many heads they lack. */
function kept({ layers, headPruning }: RecipeSummary): string {
  const removed = headPruning?.removePerLayer.reduce((sum, count) => sum + count, 0) ?? 0
  if (removed === 0) return ranges(layers)
  const unit = headPruning?.unit === 'QUERY_HEAD' ? 'query heads per group' : 'key/value heads'
  return `${ranges(layers)} less ${removed} ${unit}`
}

function recipeTable(session: Session, recipes: RecipeSummary[]): string {
  const rows = recipes.map(r => [
    r.name,
    r.capability?.slug ?? r.mixture?.name ?? '–',
    r.status,
    quantity(Number(r.estimatedParameterCount)),
    quality(r.estimatedQuality),
    quality(r.measuredQuality),
    cost(r),
    kept(r),
    idCell(session, r.id),
  ])
  return table(
    ['recipe', 'capability', 'status', 'parameters', 'predicted', 'measured', 'DCU', 'layers kept', 'id'],
    rows,
  )
}

async function recipesOf(session: Session, parentModelId?: string, status?: string): Promise<RecipeSummary[]> {
  return allPages<RecipeSummary>(session, documents.recipes, 'recipes', { parentModelId, status })
}

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
  const before = new Set((await recipesOf(session, model.id)).map(r => r.id))
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

interface RecipeDetail extends RecipeSummary {
  yaml: string
  estimatedSizeBytes: number | null
  measuredSizeBytes: number | null
  estimatedTokensPerSecond: number | null
  measuredTokensPerSecond: number | null
  estimatedQualityInterval: [number, number] | null
  validationSamples: number | null
  decisions: { reason: string; policyVersion: number | null; createdAt: string }[]
}

/** What the search says of size, speed and quality; nothing of recipes written by hand. */
function figures(recipe: RecipeDetail): string[] {
  const { estimatedSizeBytes: bytes, estimatedTokensPerSecond: speed, estimatedQualityInterval: interval } = recipe
  const { measuredSizeBytes: trueBytes, measuredTokensPerSecond: trueSpeed } = recipe
  const quality = interval
    ? [
        `  quality between ${interval.map(bound => bound.toFixed(3)).join(' and ')} (95 %), on ${recipe.validationSamples ?? 'the'} held-out samples`,
      ]
    : []
  const before = [
    ...(bytes === null ? [] : [quantity(Number(bytes), 'bytes')]),
    ...(speed === null
      ? []
      : recipe.quantization
        ? [`about ${speed.toFixed(0)} tokens per second`]
        : [`at most ${speed.toFixed(0)} tokens per second on the device that searched`]),
  ]
  const after = [
    ...(trueBytes === null ? [] : [quantity(Number(trueBytes), 'bytes')]),
    ...(trueSpeed === null ? [] : [`${trueSpeed.toFixed(0)} tokens per second`]),
  ]
  return [
    ...quality,
    ...(before.length > 0 ? [`  expected: ${before.join(', ')}`] : []),
    ...(after.length > 0 ? [`  built: ${after.join(', ')}`] : []),
  ]
}

export async function showRecipe(session: Session, reference: string) {
  const found = await findRecipe(session, reference)
  const { recipe } = await session.client.query<{ recipe: RecipeDetail }>(documents.recipe, {
    id: found.id,
  })
  if (session.json) return printJson(recipe)
  print(recipeTable(session, [recipe]))
  print(`\n${recipe.objective}`)
  for (const line of figures(recipe)) print(line)
  for (const layer of recipe.layers)
    print(
      `  layers ${ranges([layer])}${layer.model ? ` of ${layer.model.name}` : ''}: ${layer.reason ?? 'no reason given'}`,
    )
  const { headPruning: heads, feedForwardPruning: units } = recipe
  const counts = (list: number[]) =>
    new Set(list).size === 1 ? `${list[0]} in each layer` : `${list.join(', ')} by layer`
  if (heads) {
    const what = heads.unit === 'QUERY_HEAD' ? 'query heads of each key/value head' : 'key/value heads'
    const how = heads.metric === 'GIVEN' ? 'named one by one' : `chosen by ${heads.metric.toLowerCase()}`
    print(`  without ${what}: ${counts(heads.removePerLayer)}, ${how}`)
  }
  if (units) print(`  feed-forward units kept: ${counts(units.keepPerLayer)}, chosen by ${units.metric.toLowerCase()}`)
  if (recipe.quantization) {
    const { type, symmetric, blockSize, method, head } = recipe.quantization
    print(
      `  quantised: ${type}, ${symmetric ? 'symmetric' : 'asymmetric'}, blocks of ${blockSize}, ${method.toLowerCase().replaceAll('_', ' ')}, head ${head}`,
    )
  }
  if (recipe.fusion)
    print(`  fused: from a speed-up of ${recipe.fusion.threshold} on${recipe.fusion.together ? ', all at once' : ''}`)
  for (const { createdAt, reason, policyVersion } of recipe.decisions)
    print(
      `  ${createdAt.slice(0, 19).replace('T', ' ')}  ${reason}${policyVersion === null ? '' : ` (policy version ${policyVersion})`}`,
    )
  print(`\n${recipe.yaml}`)
}

export async function createRecipe(session: Session, file: string, o: { name?: string }) {
  const { recipe } = await session.client.mutate<{ recipe: RecipeSummary }>(documents.createRecipe, {
    yaml: readFileSync(file, 'utf8'),
    name: o.name,
  })
  session.json ? printJson(recipe) : print(recipeTable(session, [recipe]))
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
  await showBuilt(session, recipe.id, await runJob(session, documents.buildStudent, { recipeId: recipe.id }, 'build'))
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
  const job = await runJob(session, documents.pruneHeads, input, 'prune')
  const { job: built } = await session.client.query<{ job: { recipe: { id: string } } }>(documents.recipeOfJob, {
    id: job.id,
  })
  await showBuilt(session, built.recipe.id, job)
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

export async function distill(session: Session, reference: string, o: DistillOptions) {
  const model = await findModel(session, reference)
  const train = o.train.toUpperCase()
  const input = {
    modelId: model.id,
    teacherId: o.teacher ? (await findModel(session, o.teacher)).id : undefined,
    name: o.name,
    tokens: o.tokens,
    learningRate: o.rate,
    batchRows: o.batch,
    crossEntropy: o.crossEntropy,
    onPolicy: o.onPolicy || undefined,
    hidden: o.hidden,
    temperature: o.temperature,
    train,
    layers: o.layers,
    lora: train === 'LORA' ? { rank: o.rank, alpha: 2 * o.rank, keepAdapter: o.keepAdapter ?? false } : undefined,
    seed: o.seed,
    capability: o.capability,
    probeDatasetId: await probeSetId(session, o.data),
  }
  const job = await runJob(session, documents.distillStudent, input, 'distill')
  const { job: built } = await session.client.query<{ job: { recipe: { id: string } } }>(documents.recipeOfJob, {
    id: job.id,
  })
  await showBuilt(session, built.recipe.id, job)
}

/** Waits for the measurement of a student and says what was built, step by step. */
async function showBuilt(session: Session, recipeId: string, job: { id: string; durationMs: number | null }) {
  const find = () => session.client.query<{ recipe: RecipeSummary }>(documents.recipe, { id: recipeId })
  const id = (await find()).recipe.student?.id
  await measurement(session, id)
  const { measuredQuality, estimatedQuality } = (await find()).recipe
  const { model } = await session.client.query<{ model: ModelDetail }>(documents.model, { id })
  if (session.json) return printJson({ ...model, measuredQuality })
  print(
    `${model.name}: ${model.layerCount} layers, ${quantity(Number(model.parameterCount))} parameters, built in ${job.durationMs} ms. ` +
      `Of its ${quantity(Number(model.sizeBytes), 'bytes')} it added ${quantity(Number(model.uniqueBytes), 'bytes')}; the rest is its parent's.`,
  )
  const { job: done } = await session.client.query<{ job: { stages: BuildStage[] } }>(documents.stages, { id: job.id })
  if (done.stages.length > 1)
    for (const { stage, seconds, reused, measurements } of done.stages) {
      print(`  ${stage}: ${reused ? 'was there already' : `${seconds.toFixed(1)} s`}`)
      if (stage === 'quantise') {
        const found = measurements as unknown as Comparison & { search?: SchemeSearch }
        print(comparisonText(found))
        if (found.search) print(searchText(found.search))
      }
      if (stage === 'fuse') print(fusionText(measurements as unknown as FusionResult))
    }
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
