// Recipes as rows: written by hand, approved, rejected, listed.
import type { EntityManager, QueryDeepPartialEntity } from 'typeorm'
import {
  type ModelAtom,
  ModelAtom as ModelAtomEntity,
  StudentModelRecipe,
  StudentModelTaxonomy,
  TensorAtom,
} from '../../db/entities/index.js'
import { aliveModel } from '../../db/models.js'
import { anyOf, scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId, newId, parseGlobalId, toGlobalId } from '../../lib/ids.js'
import { holdsModel } from '../../payloads/holds-model.js'
import { checkText } from '../build/check-text.js'
import { type ConnectionArguments, paginate, paginateEach } from '../build/connection.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel } from '../build/live-model.js'
import { loader } from '../build/loader.js'
import type { Platform, RequestContext } from '../build/platform.js'
import { chooseProbeDataset } from '../build/probe-dataset.js'
import { quantizationOf } from '../build/quantization.js'
import { readManifest } from '../build/read-manifest.js'
import { recordDecision } from './decisions.js'
import type { RecipeStatus } from './recipe.type.js'
import { toRecipe } from './recipe.type.js'
import { checkCodes } from './recipe-codes.js'
import { checkExports } from './recipe-exports.js'
import { checkLayers, countLayers, type LayerRangeValue } from './recipe-layers.js'
import { type CountedModel, type StudentSize, studentLayers, studentSize } from './recipe-size.js'
import { codesSpeed } from './recipe-speed.js'
import { completeStages, readStages, type StagesInput } from './recipe-stages.js'
import { nextStatus, type RecipeAction } from './recipe-status.js'
import { checkYamlDtype, parseRecipeYaml } from './recipe-yaml.js'

export interface CreateRecipe extends StagesInput {
  parentModelId?: string | null
  name?: string | null
  objective?: string | null
  layers?: { from: number; to: number; reason?: string | null; modelId?: string | null }[] | null
  yaml?: string | null
  idempotencyKey?: string | null
}

/** Of a recipe that nothing was measured for. */
export const unmeasured = {
  mixture: null,
  estimatedQuality: null,
  estimatedQualityInterval: null,
  validationSamples: null,
  estimatedSizeBytes: null,
  estimatedTokensPerSecond: null,
  estimatedCostSeconds: null,
}

const textLimits = { name: 200, objective: 2_000, reason: 2_000, layerReason: 500 } as const

/**
 * Writes a recipe; returns its row id. It begins PROPOSED: the approval policy decides on proposals only.
 * @throws BAD_USER_INPUT, NOT_FOUND (parent, capability), INVALID_RECIPE (ranges, YAML), CONFLICT (ambiguous name in the YAML)
 */
export async function createRecipe({ platform, tenantId }: RequestContext, input: CreateRecipe): Promise<string> {
  return platform.db.tx(async em => {
    const { recipeId } = await idempotent(em, tenantId, 'createRecipe', input.idempotencyKey, input, async () => {
      const recipe = await insertRecipe(em, tenantId, input)
      await checkRoundable(em, platform, recipe)
      return { recipeId: recipe.id }
    })
    return recipeId
  })
}

/**
 * Whether what a recipe quantises is not rounded already, or what it was rounded from is kept.
 * @throws CONFLICT saying why and what can be done
 */
async function checkRoundable(em: EntityManager, { payloads }: Platform, recipe: StudentModelRecipe): Promise<void> {
  const { quantization } = recipe.stages ?? {}
  // Healing that trains every weight leaves none that is rounded, but where it does not help the student stays as it was.
  if (!quantization || quantization.requantize) return
  const used = new Set([recipe.parentModelId, ...recipe.layers.flatMap(({ modelId }) => modelId ?? [])])
  for (const id of used) {
    const { name, dtype, manifestHash } = await aliveModel(em, recipe.tenantId, id)
    if (quantizationOf(dtype) === 'NONE') continue
    const { quantisedFrom } = await readManifest(payloads, manifestHash)
    const isKept = quantisedFrom && (await payloads.has(quantisedFrom))
    // Kept as lineage only, a manifest has lost its tensors.
    if (isKept && (await holdsModel(payloads, await readManifest(payloads, quantisedFrom)))) continue
    throw new DomainError(
      'CONFLICT',
      `quantization: model "${name}" ${quantisedFrom ? 'was quantised here and the full-precision model it was made of was deleted or is damaged' : `came quantised (most of it is ${dtype}) and no full-precision source of it is here`}: rounding rounded weights again adds up both errors. With requantize its values are taken as they are`,
      { field: ['input', 'quantization', 'requantize'] },
    )
  }
}

/** Writes the row of a recipe as people give it, within a transaction; it begins PROPOSED. */
export async function insertRecipe(
  em: EntityManager,
  tenantId: string,
  input: CreateRecipe,
): Promise<StudentModelRecipe> {
  const { parent, layers, name, stages, others } = await readCreateInput(em, tenantId, input)
  const kept = countLayers(layers)
  const size = await sizeOfRecipe(em, parent, layers, stages, others)
  const { maximumBytes, minimumQuality } = stages?.quantization ?? {}
  // What a wanted quality takes is not known before it is measured; a limit beyond the whole model is none.
  const limited = maximumBytes === undefined ? size.bytes : Math.min(maximumBytes, size.mostBytes)
  const bytes = minimumQuality !== undefined && maximumBytes === undefined ? null : limited
  const recipe: StudentModelRecipe = {
    id: newId(),
    tenantId,
    name:
      checkText(input.name ?? name, textLimits.name, 'name') ?? `${parent.name}-${kept}-of-${parent.layerCount}-layers`,
    parentModelId: parent.id,
    objective:
      checkText(input.objective, textLimits.objective, 'objective') ??
      (others.size > 0
        ? `${kept} layers of ${[parent, ...others.values()].map(model => model.name).join(', ')}`
        : `${kept} of the ${parent.layerCount} layers of ${parent.name}`),
    capability: await checkCapability(em, tenantId, input.capability),
    layers,
    stages,
    ...unmeasured,
    estimatedParameterCount: size.parameters,
    estimatedSizeBytes: bytes,
    estimatedTokensPerSecond: stages?.quantization && bytes !== null ? await codesSpeed(em, tenantId, bytes) : null,
    measuredQuality: null,
    status: 'PROPOSED',
    decision: null,
    studentModelId: null,
    jobId: null,
    proposalJobId: null,
    // Checked to be there, whether or not a stage reads it.
    probeDatasetId: input.probeDatasetId ? (await chooseProbeDataset(em, tenantId, input.probeDatasetId)).id : null,
    createdAt: new Date(),
    builtAt: null,
  }
  await em.insert(StudentModelRecipe, recipe as QueryDeepPartialEntity<StudentModelRecipe>)
  return recipe
}

async function readCreateInput(em: EntityManager, tenantId: string, input: CreateRecipe) {
  const { yaml, layers } = input
  if ((yaml == null) === (layers == null))
    throw new DomainError('BAD_USER_INPUT', 'layers and yaml: give one of them, not both or none', {
      field: ['input', yaml == null ? 'layers' : 'yaml'],
    })
  const parentField = ['input', 'parentModelId']
  if (yaml != null) {
    const field = ['input', 'yaml']
    const parsed = parseRecipeYaml(yaml, field)
    const parent = await findByReference(em, tenantId, parsed.model, field)
    if (input.parentModelId != null && fromGlobalId('Model', input.parentModelId, parentField) !== parent.id)
      throw new DomainError('BAD_USER_INPUT', `parentModelId: is not the model "${parsed.model}" that the yaml names`, {
        field: parentField,
      })
    checkYamlDtype(parsed.dtype, parent, field)
    const others = new Map<string, ModelAtom>()
    const ranges: LayerRangeValue[] = []
    for (const { model, ...range } of parsed.layers) {
      const of = model === parsed.model ? parent : await findByReference(em, tenantId, model, field)
      if (of.id !== parent.id) others.set(of.id, of)
      ranges.push(of.id === parent.id ? range : { ...range, modelId: of.id })
    }
    checkLayers(ranges, parent, field, others)
    await checkShapes(em, parent, others, field)
    if (
      parsed.stages &&
      (input.headPruning ||
        input.feedForwardPruning ||
        input.correctCuts ||
        input.healing ||
        input.quantization ||
        input.fusion ||
        input.exports)
    )
      throw new DomainError(
        'BAD_USER_INPUT',
        'yaml: says what is done; leave correctCuts, headPruning, feedForwardPruning, healing, quantization, fusion and exports out',
        {
          field,
        },
      )
    const stages = parsed.stages
      ? await completeStages(em, tenantId, parsed.stages, input)
      : await readStages(em, tenantId, input)
    return { parent, layers: ranges, name: parsed.name, stages, others }
  }
  if (input.parentModelId == null)
    throw new DomainError('BAD_USER_INPUT', 'parentModelId: is missing', { field: parentField })
  const parent = await liveModel(em, tenantId, input.parentModelId, parentField)
  const others = new Map<string, ModelAtom>()
  const ranges: LayerRangeValue[] = []
  for (const [i, { from, to, reason, modelId }] of (layers ?? []).entries()) {
    const why = checkText(reason, textLimits.layerReason, 'layers', String(i), 'reason')
    const of =
      modelId == null ? parent : await liveModel(em, tenantId, modelId, ['input', 'layers', String(i), 'modelId'])
    if (of.id !== parent.id) others.set(of.id, of)
    ranges.push({ from, to, ...(why ? { reason: why } : {}), ...(of.id === parent.id ? {} : { modelId: of.id }) })
  }
  checkLayers(ranges, parent, ['input', 'layers'], others)
  await checkShapes(em, parent, others, ['input', 'layers'])
  return { parent, layers: ranges, name: null, stages: await readStages(em, tenantId, input), others }
}

/** What layers of two models must have in common to follow each other: absent, there is none. */
const sharedDimensions = ['ropeScaling', 'slidingWindow'] as const
/** Also these, but a source may leave them to its family: compared where both say them; the worker, which knows the families, compares all. */
const defaultableDimensions = ['hiddenSize', 'normEpsilon', 'ropeTheta', 'ropeLayout'] as const
/** Families whose head size, where it is not stated, is a number of their own. */
export const ownHeadSize: readonly string[] = ['qwen3', 'gemma']

/** As it is stated (always in pruned models), or as hidden size and heads make it. */
function headSizeOf({ architecture, dimensions: d }: ModelAtom): number | undefined {
  if (d.headSize || !d.hiddenSize || !d.attentionHeadCount || ownHeadSize.includes(architecture)) return d.headSize
  return d.hiddenSize / d.attentionHeadCount
}

/** @throws INVALID_RECIPE naming the models and the first dimension that differs */
async function checkShapes(
  em: EntityManager,
  parent: ModelAtom,
  others: ReadonlyMap<string, ModelAtom>,
  field: string[],
) {
  const factors = others.size > 0 ? await ropeFactors(em, parent.tenantId, [parent.id, ...others.keys()]) : new Map()
  for (const other of others.values()) {
    const compare = (what: string, ours: unknown, theirs: unknown, absent = 'not stated') => {
      const [expected, found] = [ours, theirs].map(value => JSON.stringify(value) ?? absent)
      if (found === expected) return
      throw new DomainError(
        'INVALID_RECIPE',
        `layers of "${other.name}" do not fit "${parent.name}": ${what} is ${found}, expected ${expected}`,
        { field },
      )
    }
    const compareStated = (what: string, ours: unknown, theirs: unknown) => {
      if (ours !== undefined && theirs !== undefined) compare(what, ours, theirs)
    }
    compare('architecture', parent.architecture, other.architecture)
    compareStated('headSize', headSizeOf(parent), headSizeOf(other))
    for (const key of defaultableDimensions) compareStated(key, parent.dimensions[key], other.dimensions[key])
    for (const key of sharedDimensions) compare(key, parent.dimensions[key], other.dimensions[key])
    compare('tensor of RoPE factors', factors.get(parent.id), factors.get(other.id), 'absent')
  }
}

/** Payloads of the tensors that RoPE frequencies are divided by, by model; GGUF models may have one. */
async function ropeFactors(em: EntityManager, tenantId: string, modelIds: readonly string[]) {
  const rows = await em.find(TensorAtom, {
    select: { id: true, modelId: true, payloadHash: true },
    where: { ...scoped(tenantId), modelId: anyOf(modelIds), role: 'rope_factors' },
  })
  return new Map(rows.map(row => [row.modelId, row.payloadHash]))
}

/** The live model that a YAML means: by global id, or by a name that only one has. */
async function findByReference(
  em: EntityManager,
  tenantId: string,
  reference: string,
  field: string[],
): Promise<ModelAtom> {
  const parsed = parseGlobalId(reference)
  if (parsed?.type === 'Model') return aliveModel(em, tenantId, parsed.id, field)
  const named = await em
    .createQueryBuilder(ModelAtomEntity, 'm')
    .where({ ...scoped(tenantId), name: reference })
    .andWhere('m.deletedAt IS NULL')
    .orderBy('m.id', 'DESC')
    .getMany()
  if (named.length > 1) {
    const ids = named.slice(0, 3).map(m => toGlobalId('Model', m.id))
    throw new DomainError(
      'CONFLICT',
      `yaml: ${named.length} models are called "${reference}"; write the id of one of them (${ids.join(', ')}${named.length > 3 ? ' …' : ''})`,
      { field },
    )
  }
  if (!named[0]) throw new DomainError('NOT_FOUND', `yaml: no model is called "${reference.slice(0, 200)}"`, { field })
  return named[0]
}

async function checkCapability(em: EntityManager, tenantId: string, slug: string | null | undefined) {
  if (slug == null) return null
  const field = ['input', 'capability']
  const row = await em.findOneBy(StudentModelTaxonomy, { ...scoped(tenantId), slug })
  if (!row) throw new DomainError('NOT_FOUND', `No capability has the slug "${slug.slice(0, 200)}"`, { field })
  if (row.capabilityLevel > 0)
    throw new DomainError(
      'BAD_USER_INPUT',
      `capability: "${slug}" is a part of another; recipes are measured on top-level capabilities`,
      { field },
    )
  return slug
}

async function countedModel(em: EntityManager, model: ModelAtom): Promise<CountedModel> {
  const { name, parameterCount, dimensions } = model
  const tensors = await em.find(TensorAtom, {
    select: { id: true, layerIndex: true, role: true, shape: true, dtype: true, sizeBytes: true },
    where: { ...scoped(model.tenantId), modelId: model.id },
  })
  return { name, parameterCount, dimensions, tensors }
}

/** Parameters of the student, exactly, and bytes. @throws INVALID_RECIPE, UNSUPPORTED_FORMAT */
async function sizeOfRecipe(
  em: EntityManager,
  parent: ModelAtom,
  layers: readonly LayerRangeValue[],
  stages: StudentModelRecipe['stages'],
  others: ReadonlyMap<string, ModelAtom>,
): Promise<StudentSize> {
  const counted = new Map<string, CountedModel>()
  for (const [id, model] of others) counted.set(id, await countedModel(em, model))
  const own = await countedModel(em, parent)
  const size = studentSize(own, layers, stages, counted)
  checkCodes([own, ...counted.values()], stages, size)
  if (stages?.exports) checkExports(stages, parent.architecture, studentLayers(own, layers, stages, counted))
  return size
}

/** @throws NOT_FOUND */
export async function findRecipe(em: EntityManager, tenantId: string, globalId: string, field = ['input', 'recipeId']) {
  const row = await em.findOneBy(StudentModelRecipe, {
    ...scoped(tenantId),
    id: fromGlobalId('Recipe', globalId, field),
  })
  if (!row) throw new DomainError('NOT_FOUND', `No Recipe has the id "${globalId.slice(0, 80)}"`, { field })
  return row
}

/**
 * Moves a recipe to its next status within a transaction. Approvals and rejections are recorded.
 * @param person who asked for it, where it said so
 * @throws CONFLICT where its status does not allow the action
 */
export async function moveRecipe(
  em: EntityManager,
  row: StudentModelRecipe,
  action: RecipeAction,
  changes: Partial<StudentModelRecipe> = {},
  person: string | null = null,
): Promise<void> {
  const status = nextStatus(row, action)
  if (status === 'APPROVED' || status === 'REJECTED') {
    const asked = action === 'approve' || action === 'reject'
    if (asked) await recordDecision(em, row, status, changes.decision ?? status, { person })
  }
  Object.assign(row, changes, { status })
  await em.update(StudentModelRecipe, { ...scoped(row.tenantId), id: row.id }, { ...changes, status })
}

/** @throws NOT_FOUND (recipe, parent deleted), CONFLICT, BAD_USER_INPUT (reason or name too long) */
export async function approveRecipe(context: RequestContext, input: DecideRecipe): Promise<string> {
  return decide(context, input, 'approve', 'Approved')
}

/** @throws NOT_FOUND, CONFLICT, BAD_USER_INPUT (reason or name too long) */
export async function rejectRecipe(context: RequestContext, input: DecideRecipe): Promise<string> {
  return decide(context, input, 'reject', 'Rejected')
}

export interface DecideRecipe {
  recipeId: string
  reason?: string | null
  decidedBy?: string | null
}

async function decide(
  { platform, tenantId }: RequestContext,
  input: DecideRecipe,
  action: 'approve' | 'reject',
  done: string,
): Promise<string> {
  const why = checkText(input.reason, textLimits.reason, 'reason')
  const person = checkText(input.decidedBy, textLimits.name, 'decidedBy')
  return platform.db.tx(async em => {
    const row = await findRecipe(em, tenantId, input.recipeId)
    nextStatus(row, action)
    if (action === 'approve') await aliveModel(em, tenantId, row.parentModelId, ['input', 'recipeId'])
    const decision = `${done} by ${person ?? 'a person'}${why ? `: ${why}` : ''}`
    await moveRecipe(em, row, action, { decision }, person)
    return row.id
  })
}

/** Recipes newest first. */
export async function listRecipes(
  context: RequestContext,
  filter: { parentModelId?: string | null; status?: RecipeStatus | null },
  args: ConnectionArguments,
) {
  const query = context.platform.db.read.createQueryBuilder(StudentModelRecipe, 'recipe').where({
    ...scoped(context.tenantId),
    ...(filter.parentModelId == null ? {} : { parentModelId: filter.parentModelId }),
    ...(filter.status == null ? {} : { status: filter.status }),
  })
  return (await paginate(query, args, 'recipes')).map(toRecipe)
}

/** A page of a model's recipes, newest first; the same pages of several models are one query. */
export async function recipesOfModel(context: RequestContext, modelId: string, args: ConnectionArguments) {
  const pages = loader(context, `students.recipesOfModel ${JSON.stringify(args)}`, (ids: readonly string[]) => {
    const query = context.platform.db.read
      .createQueryBuilder(StudentModelRecipe, 'recipe')
      .where(scoped(context.tenantId))
    return paginateEach(query, args, 'parentModelId', ids, id => `Model.recipes ${id}`)
  })
  return (await pages.load(modelId))!.map(toRecipe)
}
