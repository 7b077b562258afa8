// Recipes, their parents and capabilities as the resolvers of one request need them: one query per kind and tick.
import { IsNull } from 'typeorm'
import { jobTypes } from '../../compute/pool/job-types.js'
import { Job, ModelAtom, StudentModelRecipe, StudentModelTaxonomy } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { toGlobalId } from '../../lib/ids.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { type BuildStage, type Recipe, toBuildStage, toRecipe } from './recipe.type.js'

export const recipeById = (context: RequestContext) =>
  loader<string, Recipe>(context, 'students.recipeById', async ids => {
    const rows = await context.platform.db.read.findBy(StudentModelRecipe, {
      ...scoped(context.tenantId),
      id: anyOf(ids),
    })
    return new Map(rows.map(r => [r.id, toRecipe(r)]))
  })

/** Proposals by the job that made them, in the order of the search. */
export const recipesOfProposal = (context: RequestContext) =>
  loader<string, Recipe[]>(context, 'students.recipesOfProposal', async jobIds => {
    const rows = await context.platform.db.read.find(StudentModelRecipe, {
      where: { ...scoped(context.tenantId), proposalJobId: anyOf(jobIds) },
      order: { id: 'ASC' },
    })
    return new Map([...groupBy(rows, r => r.proposalJobId!)].map(([id, own]) => [id, own.map(toRecipe)]))
  })

/** The recipe that a build job builds. */
export const recipeOfBuild = (context: RequestContext) =>
  loader<string, Recipe>(context, 'students.recipeOfBuild', async jobIds => {
    const rows = await context.platform.db.read.findBy(StudentModelRecipe, {
      ...scoped(context.tenantId),
      jobId: anyOf(jobIds),
    })
    return new Map(rows.map(r => [r.jobId!, toRecipe(r)]))
  })

/** What finished builds did, by job. */
export const stagesOfBuild = (context: RequestContext) =>
  loader<string, BuildStage[]>(context, 'students.stagesOfBuild', async jobIds => {
    const rows = await context.platform.db.read.find(Job, {
      select: { id: true, output: true },
      where: { ...scoped(context.tenantId), id: anyOf(jobIds), type: 'student.build', state: 'SUCCEEDED' },
    })
    return new Map(
      rows.map(({ id, output }) => [
        id,
        (jobTypes['student.build'].output.parse(output).stages ?? []).map(toBuildStage),
      ]),
    )
  })

/** Export jobs of models, oldest first. */
export const exportsOfModel = (context: RequestContext) =>
  loader<string, string[]>(context, 'students.exportsOfModel', async modelIds => {
    const rows = await context.platform.db.read.find(Job, {
      select: { id: true, modelId: true },
      where: { ...scoped(context.tenantId), modelId: anyOf(modelIds), type: 'model.export' },
      order: { id: 'ASC' },
    })
    return new Map([...groupBy(rows, row => row.modelId!)].map(([id, own]) => [id, own.map(row => row.id)]))
  })

/** Bytes of models' tensors. */
export const sizeOfModel = (context: RequestContext) =>
  loader<string, number>(context, 'students.sizeOfModel', async modelIds => {
    const rows = await context.platform.db.read.find(ModelAtom, {
      select: { id: true, sizeBytes: true },
      where: { ...scoped(context.tenantId), id: anyOf(modelIds) },
    })
    return new Map(rows.map(row => [row.id, row.sizeBytes]))
  })

/** The recipe that a student was built from. */
export const recipeOfStudent = (context: RequestContext) =>
  loader<string, Recipe>(context, 'students.recipeOfStudent', async modelIds => {
    const rows = await context.platform.db.read.findBy(StudentModelRecipe, {
      ...scoped(context.tenantId),
      studentModelId: anyOf(modelIds),
    })
    return new Map(rows.map(r => [r.studentModelId!, toRecipe(r)]))
  })

/** Living models with this manifest, by its hash, the newest last. */
export const modelsOfManifest = (context: RequestContext) =>
  loader<string, string[]>(context, 'students.modelsOfManifest', async hashes => {
    const rows = await context.platform.db.read.find(ModelAtom, {
      select: { id: true, manifestHash: true },
      where: { ...scoped(context.tenantId), manifestHash: anyOf(hashes), deletedAt: IsNull() },
      order: { id: 'ASC' },
    })
    return new Map([...groupBy(rows, row => row.manifestHash)].map(([hash, own]) => [hash, own.map(row => row.id)]))
  })

export const capabilityIdBySlug = (context: RequestContext) =>
  loader<string, string>(context, 'students.capabilityIdBySlug', async slugs => {
    const rows = await context.platform.db.read.find(StudentModelTaxonomy, {
      select: { id: true, slug: true },
      where: { ...scoped(context.tenantId), slug: anyOf(slugs) },
    })
    return new Map(rows.map(r => [r.slug, r.id]))
  })

/** How a recipe's YAML calls its parent: by name where that is unambiguous, by global id otherwise. */
export const modelHandle = (context: RequestContext) =>
  loader<string, string>(context, 'students.modelHandle', async ids => {
    const { read } = context.platform.db
    const models = await read.find(ModelAtom, {
      select: { id: true, name: true },
      where: { ...scoped(context.tenantId), id: anyOf(ids) },
    })
    const counts = await read
      .createQueryBuilder(ModelAtom, 'm')
      .select('m.name', 'name')
      .addSelect('COUNT(*)', 'count')
      .where({ ...scoped(context.tenantId), name: anyOf(models.map(m => m.name)) })
      .andWhere('m.deletedAt IS NULL')
      .groupBy('m.name')
      .getRawMany<{ name: string; count: number | string }>()
    const namesakes = new Map(counts.map(c => [c.name, Number(c.count)]))
    return new Map(models.map(({ id, name }) => [id, (namesakes.get(name) ?? 0) > 1 ? toGlobalId('Model', id) : name]))
  })
