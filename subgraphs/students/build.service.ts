// Building: an approved recipe becomes a job, its result a model with lineage, and then a measurement.
import { type EntityManager, Like, MoreThan } from 'typeorm'
import { z } from 'zod'
import type { ExportQuantization, JobInput, JobOutput } from '../../compute/pool/job-types.js'
import {
  CapabilityAnalysis,
  Job,
  type ModelAtom,
  ProbeDataset,
  ProbeSampleCount,
  StudentModelCapabilityMapping,
  StudentModelRecipe,
  StudentModelTaxonomy,
} from '../../db/entities/index.js'
import { aliveModel, aliveModelOfManifest, registerModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import type { StudentExport } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { newId, toGlobalId } from '../../lib/ids.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel } from '../build/live-model.js'
import type { JobEffect, Platform, RequestContext } from '../build/platform.js'
import { chooseProbeDataset, samplesByCapability } from '../build/probe-dataset.js'
import { readManifest } from '../build/read-manifest.js'
import type { DistillStudentInput } from './healing.inputs.js'
import type { PruneHeadsInput } from './pruning.inputs.js'
import { findRecipe, insertRecipe, moveRecipe } from './recipe.service.js'
import { countLayers } from './recipe-layers.js'
import { recipeNames, unusedName } from './recipe-names.js'
import { allows, nextStatus } from './recipe-status.js'

const buildContext = z.object({ recipeId: z.string() })

/**
 * Queues the build of an approved recipe; returns the row ids of recipe and job.
 * @throws NOT_FOUND (recipe; parent, teacher or a model of its layers deleted), CONFLICT (status), IDEMPOTENCY_CONFLICT
 */
export async function buildStudent(
  { platform, tenantId }: RequestContext,
  input: { recipeId: string; idempotencyKey?: string | null },
): Promise<{ recipeId: string; jobId: string }> {
  return platform.db.tx(em =>
    idempotent(em, tenantId, 'buildStudent', input.idempotencyKey, input, async () => {
      return startBuild(em, platform, await findRecipe(em, tenantId, input.recipeId))
    }),
  )
}

/** Queues the build within a transaction: asked for by a person, or by the policy that has just approved the recipe. */
export async function startBuild(em: EntityManager, platform: Platform, recipe: StudentModelRecipe) {
  const { tenantId } = recipe
  const field = ['input', 'recipeId']
  // Nothing can be done about this one, so it is said first.
  const parent = await aliveModel(em, tenantId, recipe.parentModelId, field)
  await checkTeacher(em, recipe, field)
  nextStatus(recipe, 'build')
  const layers = []
  for (const { modelId, ...range } of recipe.layers)
    layers.push(
      modelId === undefined
        ? range
        : { ...range, manifest: (await aliveModel(em, tenantId, modelId, field)).manifestHash },
    )
  const job = await enqueue(em, platform, {
    tenantId,
    type: 'student.build',
    modelId: parent.id,
    input: { parent: parent.manifestHash, layers, ...(recipe.stages ? { stages: recipe.stages } : {}) },
    context: { recipeId: recipe.id } satisfies z.infer<typeof buildContext>,
  })
  await moveRecipe(em, recipe, 'build', { jobId: job.id })
  return { recipeId: recipe.id, jobId: job.id }
}

/**
 * A model without some of its heads: a recipe with all its layers, approved and queued at once; returns the row ids of recipe and job.
 * @throws NOT_FOUND (model, probe set, capability), INVALID_RECIPE, BAD_USER_INPUT, INVALID_PROBE_DATASET, IDEMPOTENCY_CONFLICT
 */
export async function pruneHeads(
  { platform, tenantId }: RequestContext,
  input: PruneHeadsInput,
): Promise<{ recipeId: string; jobId: string }> {
  return platform.db.tx(em =>
    idempotent(em, tenantId, 'pruneHeads', input.idempotencyKey, input, async () => {
      const { modelId, name, capability, probeDatasetId, samplesPerCapability, ...headPruning } = input
      const model = await liveModel(em, tenantId, modelId)
      const recipe = await insertRecipe(em, tenantId, {
        parentModelId: modelId,
        name: name ?? unusedName(`${model.name}-pruned`, await recipeNames(em, tenantId, model.id)),
        objective: `${model.name} with fewer attention heads`,
        layers: [{ from: 0, to: model.layerCount, reason: 'all layers stay' }],
        capability,
        probeDatasetId,
        samplesPerCapability,
        headPruning,
      })
      await moveRecipe(em, recipe, 'approve', { decision: 'Approved by a person: asked for by pruneHeads' })
      return startBuild(em, platform, recipe)
    }),
  )
}

/**
 * A model trained after a teacher: a recipe with all its layers and healing, approved and queued at once; returns the row ids of recipe and
 * job. The build fails with NOT_IMPROVED where held-out loss does not fall.
 * @throws NOT_FOUND (model, teacher, probe set, capability), INVALID_RECIPE, BAD_USER_INPUT, INVALID_PROBE_DATASET, IDEMPOTENCY_CONFLICT
 */
export async function distillStudent(
  { platform, tenantId }: RequestContext,
  input: DistillStudentInput,
): Promise<{ recipeId: string; jobId: string }> {
  return platform.db.tx(em =>
    idempotent(em, tenantId, 'distillStudent', input.idempotencyKey, input, async () => {
      const { modelId, name, capability, idempotencyKey: _key, ...healing } = input
      const model = await liveModel(em, tenantId, modelId)
      if (healing.teacherId == null) {
        if (model.parentModelId === null)
          throw new DomainError(
            'BAD_USER_INPUT',
            `teacherId: is missing, and "${model.name}" has no parent that could be its teacher`,
            { field: ['input', 'teacherId'] },
          )
        healing.teacherId = toGlobalId('Model', model.parentModelId)
      }
      const recipe = await insertRecipe(em, tenantId, {
        parentModelId: modelId,
        name: name ?? unusedName(`${model.name}-distilled`, await recipeNames(em, tenantId, model.id)),
        objective: `${model.name} trained after its teacher`,
        layers: [{ from: 0, to: model.layerCount, reason: 'all layers stay' }],
        capability,
        healing: { ...healing, required: true },
      })
      await moveRecipe(em, recipe, 'approve', { decision: 'Approved by a person: asked for by distillStudent' })
      return startBuild(em, platform, recipe)
    }),
  )
}

const recipeOf = (em: EntityManager, job: { tenantId: string; context: unknown }) =>
  em.findOneByOrFail(StudentModelRecipe, {
    ...scoped(job.tenantId),
    id: buildContext.parse(job.context).recipeId,
  })

export const buildEffect: JobEffect<'student.build'> = {
  async claim(em, job, input) {
    const recipe = await recipeOf(em, job)
    await aliveParents(em, recipe)
    await moveRecipe(em, recipe, 'start', { jobId: job.id })
    return input
  },

  async succeeded(em, job, output, platform) {
    const { tenantId } = job
    const recipe = await recipeOf(em, job)
    nextStatus(recipe, 'built')
    const parent = await aliveParents(em, recipe)
    const manifest = await readManifest(platform.payloads, output.manifest)
    if (manifest.parameterCount !== recipe.estimatedParameterCount)
      throw new DomainError(
        'INVALID_RECIPE',
        `The student has ${manifest.parameterCount} parameters, its recipe says ${recipe.estimatedParameterCount}`,
      )
    const student = await registerModel(em, {
      tenantId,
      manifest,
      manifestHash: output.manifest,
      name: recipe.name,
      source: null,
      parentModelId: parent.id,
      isStudent: true,
      objective: recipe.objective,
      jobId: job.id,
      description: describeBuild(recipe, parent, output),
    })
    await em.update(Job, { ...scoped(tenantId), id: job.id }, { modelId: student.id })
    await moveRecipe(em, recipe, 'built', { studentModelId: student.id, jobId: job.id, builtAt: new Date() })
    await mapCapability(em, recipe, student.id)
    for (const wanted of recipe.stages?.exports ?? [])
      await enqueue(em, platform, {
        tenantId,
        type: 'model.export',
        modelId: student.id,
        input: { manifest: output.manifest, name: recipe.name, ...exportOf(wanted) },
      })
    // Without a tokenizer nothing can be measured.
    if (manifest.tokenizer)
      await measure(em, platform, recipe, {
        student: student.id,
        manifest: output.manifest,
        reference: recipe.stages?.healing?.teacher ?? parent.manifestHash,
      })
  },

  async ended(em, job) {
    const recipe = await recipeOf(em, job)
    const action = job.state === 'CANCELLED' ? 'cancelled' : 'failed'
    // A retried job that fails beside a recipe that another job built changes nothing.
    if (recipe.jobId !== job.id || !allows(recipe.status, action)) return
    const decision =
      action === 'failed'
        ? `Build failed: ${job.error?.message ?? 'no reason given'}`
        : `${recipe.decision ?? 'Approved'}; build cancelled`
    await moveRecipe(em, recipe, action, { decision })
  },
}

/** `GGUF_Q8_0` as the export job takes it. */
function exportOf(wanted: StudentExport): Pick<JobInput<'model.export'>, 'format' | 'quantization'> {
  const [format, ...type] = wanted.split('_')
  const quantization = type.join('_') as ExportQuantization | 'PARENT' | ''
  return { format: format as JobInput<'model.export'>['format'], ...(quantization ? { quantization } : {}) }
}

/** The parent, which must be there still, as must every other model whose layers are used. */
async function aliveParents(em: EntityManager, recipe: StudentModelRecipe): Promise<ModelAtom> {
  for (const modelId of new Set(recipe.layers.flatMap(range => range.modelId ?? [])))
    await aliveModel(em, recipe.tenantId, modelId)
  return aliveModel(em, recipe.tenantId, recipe.parentModelId)
}

/**
 * The teacher that the recipe names must be there when the build is asked for. From then on garbage collections leave it to the build, which may
 * have trained for hours when the model is deleted.
 * @throws NOT_FOUND naming it
 */
async function checkTeacher(em: EntityManager, { tenantId, stages }: StudentModelRecipe, field?: string[]) {
  const teacher = stages?.healing?.teacher
  if (teacher !== undefined) await aliveModelOfManifest(em, tenantId, teacher, 'teacher', field)
}

/** One line for the student's history. */
function describeBuild(
  recipe: StudentModelRecipe,
  parent: ModelAtom,
  { stages = [] }: JobOutput<'student.build'>,
): string {
  const models = new Set(recipe.layers.map(range => range.modelId ?? parent.id))
  const layers =
    models.size > 1
      ? `${countLayers(recipe.layers)} layers of ${parent.name} and ${models.size - 1} other ${models.size > 2 ? 'models' : 'model'}`
      : `${countLayers(recipe.layers)} of the ${parent.layerCount} layers of ${parent.name}`
  const further = stages.filter(({ stage }) => stage !== 'extract').map(describeStage)
  return `Built from recipe "${recipe.name}": ${layers}, ${further.length > 0 ? `then ${further.join(', ')}` : 'sharing their tensors'}`
}

function describeStage({
  stage,
  measurements = {},
}: NonNullable<JobOutput<'student.build'>['stages']>[number]): string {
  if (stage === 'quantise')
    return `quantised to ${((100 * Number(measurements.sizeBytes)) / Number(measurements.referenceSizeBytes)).toFixed(0)} % of its bytes (KL ${Number(measurements.divergence).toFixed(4)} nats, same best token at ${(100 * Number(measurements.agreement)).toFixed(1)} %)`
  const applied = measurements.applied as string[] | undefined
  if (stage === 'fuse') return applied?.length ? `fused (${applied.join(', ')})` : 'fusing tried and not worth it'
  if (stage !== 'heal') return stage
  const loss = (key: string) => Number(measurements[key]).toFixed(3)
  return measurements.improved === true
    ? `distilled from its teacher (held-out loss ${loss('heldOutBefore')}, then ${loss('heldOutAfter')})`
    : `healing tried and not kept (held-out loss ${loss('heldOutBefore')} did not fall)`
}

/** What the search measured holds until the student itself has been measured. */
async function mapCapability(em: EntityManager, recipe: StudentModelRecipe, studentModelId: string) {
  if (recipe.capability === null || recipe.estimatedQuality === null) return
  const { tenantId } = recipe
  const capability = await em.findOneBy(StudentModelTaxonomy, { ...scoped(tenantId), slug: recipe.capability })
  if (!capability) return
  await em.insert(StudentModelCapabilityMapping, {
    id: newId(),
    tenantId,
    studentModelId,
    taxonomyId: capability.id,
    capabilityScore: recipe.estimatedQuality,
  })
}

/**
 * Queues the measurement of the student against its parent, or the teacher its recipe names, on the validation split; the evaluation subgraph writes what comes of it.
 * Nothing is queued where the probe set has no validation samples for it.
 */
async function measure(
  em: EntityManager,
  platform: Platform,
  recipe: StudentModelRecipe,
  models: { student: string; manifest: string; reference: string },
) {
  const { tenantId } = recipe
  const { probeSet, capabilities } = await probeSetFor(em, recipe)
  if (capabilities.length === 0) return
  await enqueue(em, platform, {
    tenantId,
    type: 'model.evaluate',
    modelId: models.student,
    input: {
      manifest: models.manifest,
      reference: models.reference,
      probeSet: probeSet.probeSetHash,
      split: 'validation',
      maxTokens: 256,
      capabilities,
    },
    context: { probeDatasetId: probeSet.id, recipeId: recipe.id },
  })
}

/**
 * What a student is measured on: the set its recipe was found with; for recipes written by hand the set they name, that it was healed on (the
 * held-out part), that of the parent's newest analysis, the product's own, or the newest set, whichever comes first that has validation samples of the recipe's capability.
 */
async function probeSetFor(
  em: EntityManager,
  { tenantId, parentModelId, probeDatasetId, proposalJobId, capability, mixture, stages }: StudentModelRecipe,
) {
  const newest = { order: { id: 'DESC' } } as const
  const analysis = await em.findOne(CapabilityAnalysis, {
    where: { ...scoped(tenantId), modelId: parentModelId },
    ...newest,
  })
  const builtIn = await chooseProbeDataset(em, tenantId, null)
  const shown =
    capability === null
      ? null
      : await em.findOne(ProbeSampleCount, {
          where: { ...scoped(tenantId), slug: Like(`${capability}/%`), validationCount: MoreThan(0) },
          ...newest,
        })
  const taught =
    stages?.healing &&
    (await em.findOne(ProbeDataset, { where: { ...scoped(tenantId), probeSetHash: stages.healing.data }, ...newest }))
  const named = probeDatasetId ?? undefined
  const candidates =
    named && proposalJobId ? [named] : [named, taught?.id, analysis?.probeDatasetId, builtIn.id, shown?.probeDatasetId]
  for (const id of candidates) {
    if (id === undefined) continue
    const samples = await samplesByCapability(em, tenantId, id)
    const measurable = [...samples].flatMap(([slug, { validation }]) => (validation > 0 ? [slug] : []))
    const wanted = mixture?.weights.map(w => w.capability) ?? (capability === null ? measurable : [capability])
    const capabilities = measurable.filter(slug => wanted.includes(slug))
    if (capabilities.length > 0)
      return { probeSet: await em.findOneByOrFail(ProbeDataset, { ...scoped(tenantId), id }), capabilities }
  }
  return { probeSet: builtIn, capabilities: [] }
}
