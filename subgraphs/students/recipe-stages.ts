// What a recipe asks for beyond its layers, as people give it: checked, completed with a probe set, and kept as the build's parameters.
import { type EntityManager, In } from 'typeorm'
import { ModelAtom, ProbeDataset } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import {
  type BuildStages,
  buildStagesSchema,
  feedForwardPruningSchema,
  headPruningSchema,
  measures,
  type StudentExport,
} from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { fusionSchema } from '../../lib/fusion.js'
import { contradictionOf } from '../../lib/healing.js'
import { recipeQuantizationSchema } from '../../lib/quantization.js'
import { checkOptions } from '../build/check-options.js'
import {
  checkCapabilities,
  checkSamplesPerCapability,
  chooseProbeDataset,
  samplesByCapability,
} from '../build/probe-dataset.js'
import type { RecipeFusionInput } from './fusion.inputs.js'
import type { FeedForwardPruningInput, HeadPruningInput } from './pruning.inputs.js'
import type { RecipeQuantizationInput } from './quantization.inputs.js'
import { type HealingWish, readHealing } from './recipe-healing.js'
import type { StagesAsked } from './recipe-yaml.js'

export interface StagesInput {
  headPruning?: HeadPruningInput | null
  feedForwardPruning?: FeedForwardPruningInput | null
  correctCuts?: boolean | null
  healing?: HealingWish | null
  quantization?: RecipeQuantizationInput | null
  fusion?: RecipeFusionInput | null
  exports?: StudentExport[] | null
  /** What measured stages measure on. */
  probeDatasetId?: string | null
  samplesPerCapability?: number | null
  capability?: string | null
}

/** Samples of each capability that stages measure on where nobody says how many: enough to choose by, minutes on a small machine. */
const usualSamples = 8

/**
 * The stages of a recipe; null where it asks for none.
 * @throws INVALID_RECIPE naming the field, NOT_FOUND (probe set, capability), INVALID_PROBE_DATASET, BAD_USER_INPUT
 */
export async function readStages(em: EntityManager, tenantId: string, input: StagesInput): Promise<BuildStages | null> {
  const headPruning = input.headPruning ? readHeadPruning(input.headPruning) : undefined
  const feedForwardPruning = input.feedForwardPruning ? readFeedForward(input.feedForwardPruning) : undefined
  return completeStages(
    em,
    tenantId,
    {
      headPruning,
      feedForwardPruning,
      correctCuts: input.correctCuts || undefined,
      healing: input.healing ? await readHealing(em, tenantId, input.healing, input.capability) : undefined,
      quantization: input.quantization
        ? checkOptions(recipeQuantizationSchema, { ...input.quantization }, 'INVALID_RECIPE', ['quantization'])
        : undefined,
      fusion: input.fusion ? checkOptions(fusionSchema, { ...input.fusion }, 'INVALID_RECIPE', ['fusion']) : undefined,
      exports: readExports(input.exports),
    },
    input,
  )
}

/** Stages without what they measure on, from GraphQL or YAML, with it. */
export async function completeStages(
  em: EntityManager,
  tenantId: string,
  asked: StagesAsked,
  {
    probeDatasetId,
    samplesPerCapability,
    capability,
  }: Pick<StagesInput, 'probeDatasetId' | 'samplesPerCapability' | 'capability'>,
): Promise<BuildStages | null> {
  await checkHashes(em, tenantId, asked)
  const stages = await withTexts(em, tenantId, asked, probeDatasetId)
  const contradiction = stages.healing && contradictionOf(stages.healing)
  if (contradiction) throw new DomainError('INVALID_RECIPE', contradiction, { field: ['input', 'healing'] })
  const { headPruning, feedForwardPruning } = stages
  if (Object.values(stages).every(value => value === undefined)) return null
  for (const [field, pruning] of Object.entries({ headPruning, feedForwardPruning }))
    if (pruning?.metric === 'MAGNITUDE')
      throw new DomainError(
        'INVALID_RECIPE',
        `${field}: MAGNITUDE is there for comparisons in benches only: the norm of weights chooses worse than chance (arXiv 2305.11627)`,
        { field: ['input', field, 'metric'] },
      )
  if (!stages.correctCuts && !measures(headPruning) && !measures(feedForwardPruning))
    return buildStagesSchema.parse(stages)
  const probeSet = await chooseProbeDataset(em, tenantId, probeDatasetId)
  const samples = await samplesByCapability(em, tenantId, probeSet.id)
  const shown = [...samples].flatMap(([slug, { probe }]) => (probe > 0 ? [slug] : []))
  if (shown.length === 0)
    throw new DomainError('INVALID_PROBE_DATASET', `Probe set "${probeSet.name}" has no probe samples to measure on`, {
      field: ['input', 'probeDatasetId'],
    })
  const capabilities = checkCapabilities(
    capability == null ? null : [capability],
    shown,
    `probe set "${probeSet.name}" has no probe samples of`,
  )
  return buildStagesSchema.parse({
    ...stages,
    calibration: {
      probeSet: probeSet.probeSetHash,
      samplesPerCapability: checkSamplesPerCapability(samplesPerCapability) ?? usualSamples,
      ...(capabilities ? { capabilities } : {}),
    },
  })
}

/**
 * YAML names payloads by hash: each must be what its stage reads, here, before a worker reads it whole or trains up to it.
 * @throws NOT_FOUND naming the field
 */
async function checkHashes(em: EntityManager, tenantId: string, asked: StagesAsked) {
  const { quantization, fusion, healing } = asked
  const texts = [
    ['quantization.probeSet', quantization?.probeSet],
    ['fusion.probeSet', fusion?.probeSet],
    ['healing.data', healing?.data],
  ] as const
  const refuse = (path: string, hash: string, what: string) => {
    throw new DomainError('NOT_FOUND', `${path}: ${hash.slice(0, 12)}… is not the hash of a ${what} of this platform`, {
      field: ['input', ...path.split('.')],
    })
  }
  const wanted = texts.flatMap(([, hash]) => hash ?? [])
  const sets = wanted.length > 0 ? await em.findBy(ProbeDataset, { ...scoped(tenantId), probeSetHash: In(wanted) }) : []
  for (const [path, hash] of texts)
    if (hash !== undefined && !sets.some(set => set.probeSetHash === hash)) refuse(path, hash, 'probe set')
  const { teacher } = healing ?? {}
  if (teacher === undefined) return
  const models = await em.findBy(ModelAtom, { ...scoped(tenantId), manifestHash: teacher })
  if (!models.some(model => !model.deletedAt)) refuse('healing.teacher', teacher, 'model')
}

/** Healing, quantisation and fusion, where they do not say which texts they learn, are calibrated or compared on, with those that stages measure on. */
async function withTexts(
  em: EntityManager,
  tenantId: string,
  stages: StagesAsked,
  probeDatasetId: string | null | undefined,
): Promise<Omit<BuildStages, 'calibration'>> {
  const { quantization, fusion, healing } = stages
  const { data } = healing ?? {}
  if ((!quantization || quantization.probeSet) && (!fusion || fusion.probeSet) && (!healing || data))
    return { ...stages, healing: healing && data ? { ...healing, data } : undefined }
  const { id, name, probeSetHash } = await chooseProbeDataset(em, tenantId, probeDatasetId)
  const samples = [...(await samplesByCapability(em, tenantId, id)).values()]
  if (!samples.some(({ probe }) => probe > 0) || !samples.some(({ validation }) => validation > 0))
    throw new DomainError(
      'INVALID_PROBE_DATASET',
      `Probe set "${name}" has not both texts to learn from or calibrate with (probe split) and texts to compare on (validation split)`,
      { field: ['input', 'probeDatasetId'] },
    )
  const named = { probeSet: probeSetHash }
  return {
    ...stages,
    quantization: quantization && { ...named, ...quantization },
    fusion: fusion && { ...named, ...fusion },
    healing: healing && { ...healing, data: data ?? probeSetHash },
  }
}

const readExports = (exports: StudentExport[] | null | undefined) =>
  exports && exports.length > 0 ? [...new Set(exports)] : undefined

const bad = (field: string, message: string): never => {
  throw new DomainError('INVALID_RECIPE', `${field}: ${message}`, { field: ['input', field] })
}

/** One of a number for all layers and a list for each. */
function oneOfCounts(field: string, all: string, each: string, one?: number | null, list?: number[] | null) {
  if ((one == null) === (list == null)) bad(field, `give one of ${all} and ${each}, not both or none`)
  return one ?? list
}

function readHeadPruning({ unit, metric, remove, removePerLayer, heads, seed, correct }: HeadPruningInput) {
  const field = 'headPruning'
  if (metric === 'GIVEN' && (heads == null || remove != null || removePerLayer != null))
    bad(field, 'with metric GIVEN the heads are named in `heads`, without remove and removePerLayer')
  if (metric !== 'GIVEN' && heads != null) bad(field, `heads are named with metric GIVEN only, not with ${metric}`)
  const counts =
    metric === 'GIVEN' ? {} : { remove: oneOfCounts(field, 'remove', 'removePerLayer', remove, removePerLayer) }
  return parsed(headPruningSchema, field, {
    unit: unit ?? undefined,
    metric,
    ...counts,
    heads: heads ?? undefined,
    seed: seed ?? undefined,
    correct: correct ?? undefined,
  })
}

function readFeedForward({ metric, keep, keepPerLayer, seed, correct }: FeedForwardPruningInput) {
  const field = 'feedForwardPruning'
  return parsed(feedForwardPruningSchema, field, {
    metric: metric ?? undefined,
    keep: oneOfCounts(field, 'keep', 'keepPerLayer', keep, keepPerLayer),
    seed: seed ?? undefined,
    correct: correct ?? undefined,
  })
}

function parsed<T>(
  schema: {
    safeParse(value: unknown): {
      success: boolean
      data?: T
      error?: { issues: { path: PropertyKey[]; message: string }[] }
    }
  },
  field: string,
  value: unknown,
): T {
  const result = schema.safeParse(value)
  const issue = result.error?.issues[0]
  if (issue) bad(field, `${issue.path.map(String).join('.')}: ${issue.message}`)
  return result.data as T
}
