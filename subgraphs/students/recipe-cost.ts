// What a recipe is expected to cost, and what it has cost: DCUs, by docs/cost.md.
import { In, MoreThan } from 'typeorm'
import { unitsPerSecond, usualFlopsPerSecond } from '../../compute/pool/cost.js'
import { finalStates } from '../../compute/pool/queue.js'
import { Job, ModelAtom, StudentModelRecipe } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { estimateFlops } from '../../lib/build-cost.js'
import { loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { chooseProbeDataset, samplesByCapability } from '../build/probe-dataset.js'
import { countLayers, keptLayers } from './recipe-layers.js'

/** Jobs that say how fast this platform computes. */
const recentJobs = 50
/** Shorter jobs say more about opening a model than about computing. */
const leastSeconds = 1

/** Operations per device second of the newest jobs that ran a model and have ended; a usual figure before there are any. */
async function measuredRate({ platform, tenantId }: RequestContext): Promise<number> {
  const jobs = await platform.db.read.find(Job, {
    select: { id: true, flops: true, cost: true },
    where: {
      ...scoped(tenantId),
      ...{ lane: 'device', state: In([...finalStates]) },
      ...{ flops: MoreThan(0), cost: MoreThan(leastSeconds) },
    },
    order: { id: 'DESC' },
    take: recentJobs,
  })
  const flops = jobs.reduce((sum, job) => sum + job.flops, 0)
  const seconds = jobs.reduce((sum, job) => sum + job.cost, 0)
  return seconds > 0 ? flops / seconds : usualFlopsPerSecond
}

const teacherOf = ({ stages }: StudentModelRecipe) => stages?.healing?.teacher

/** Of the teachers that recipes name, by manifest; a deleted one had as many. */
async function teacherParameters(
  { platform, tenantId }: RequestContext,
  recipes: readonly StudentModelRecipe[],
): Promise<ReadonlyMap<string | undefined, number>> {
  const teachers = new Set(recipes.flatMap(recipe => teacherOf(recipe) ?? []))
  if (teachers.size === 0) return new Map()
  const models = await platform.db.read.find(ModelAtom, {
    select: { id: true, manifestHash: true, parameterCount: true },
    where: { ...scoped(tenantId), manifestHash: anyOf([...teachers]) },
  })
  return new Map(models.map(model => [model.manifestHash, model.parameterCount]))
}

/** Before: operations by formula, at the rate that was measured here. By recipe. */
export const estimatedCosts = (context: RequestContext) =>
  loader<string, number>(context, 'students.estimatedCosts', async ids => {
    const { platform, tenantId } = context
    const { read } = platform.db
    const recipes = await read.findBy(StudentModelRecipe, { ...scoped(tenantId), id: anyOf(ids) })
    const parents = await read.findBy(ModelAtom, { ...scoped(tenantId), id: In(recipes.map(r => r.parentModelId)) })
    const parentOf = new Map(parents.map(model => [model.id, model]))
    const parametersOf = await teacherParameters(context, recipes)
    const rate = await measuredRate(context)
    const builtIn = await chooseProbeDataset(read, tenantId, null).catch(() => undefined)
    const samples = new Map<string, Awaited<ReturnType<typeof samplesByCapability>>>()
    const samplesOf = async (id: string) => {
      const known = samples.get(id) ?? (await samplesByCapability(read, tenantId, id))
      samples.set(id, known)
      return known
    }
    const costs = new Map<string, number>()
    for (const recipe of recipes) {
      const parent = parentOf.get(recipe.parentModelId)
      const probeSet = recipe.probeDatasetId ?? builtIn?.id
      if (!parent || probeSet === undefined) continue
      const counts = await samplesOf(probeSet)
      const judged = [...counts].filter(([slug]) => recipe.capability === null || slug === recipe.capability)
      const validationSamples = judged.reduce((sum, [, { validation }]) => sum + validation, 0)
      if (validationSamples === 0) continue
      const { hiddenSize = 0, layerCount: depth = 0 } = parent.dimensions
      const queryHeads = parent.dimensions.attentionHeadCount ?? 1
      const flops = estimateFlops(recipe.stages, {
        parentParameters: parent.parameterCount,
        studentParameters: recipe.estimatedParameterCount,
        teacherParameters: parametersOf.get(teacherOf(recipe)) ?? parent.parameterCount,
        layers: countLayers(recipe.layers),
        cuts: keptLayers(recipe.layers).filter((layer, i, all) => (all[i + 1] ?? depth) > layer + 1).length,
        hiddenSize,
        attentionWidth: queryHeads * (parent.dimensions.headSize ?? hiddenSize / queryHeads),
        intermediateSize: parent.dimensions.intermediateSize ?? 0,
        queryHeads,
        keyValueHeads: parent.dimensions.keyValueHeadCount ?? queryHeads,
        validationSamples,
        capabilities: counts.size,
      })
      costs.set(recipe.id, (flops / rate) * unitsPerSecond.CPU)
    }
    return costs
  })

const recipeOf = (job: Job) => (job.context as { recipeId?: string } | null)?.recipeId

/** Builds of these recipes and measurements of their students, ended or not: they are of the parent or of a model made from it, deleted or not. */
async function buildJobs({ platform, tenantId }: RequestContext, recipes: readonly StudentModelRecipe[]) {
  const { read } = platform.db
  const parents = [...new Set(recipes.map(recipe => recipe.parentModelId))]
  const students = await read.find(ModelAtom, {
    select: { id: true },
    where: { ...scoped(tenantId), parentModelId: anyOf(parents) },
  })
  return read.find(Job, {
    select: { id: true, units: true, context: true },
    where: {
      ...scoped(tenantId),
      type: In(['student.build', 'model.evaluate']),
      modelId: anyOf([...parents, ...students.map(({ id }) => id)]),
    },
  })
}

/** After: DCUs of all build jobs, failed and cancelled ones too, and of the measurements of the students that they made. By recipe. */
export const measuredCosts = (context: RequestContext) =>
  loader<string, number>(context, 'students.measuredCosts', async ids => {
    const { platform, tenantId } = context
    const recipes = await platform.db.read.findBy(StudentModelRecipe, { ...scoped(tenantId), id: anyOf(ids) })
    const costs = new Map(recipes.map(({ id }) => [id, 0]))
    for (const job of await buildJobs(context, recipes)) {
      const known = costs.get(recipeOf(job) ?? '')
      if (known !== undefined) costs.set(recipeOf(job)!, known + job.units)
    }
    return costs
  })
