// Queries, fields and mutations of recipes, and what models and jobs gain by them.
import { Arg, Args, Ctx, FieldResolver, Float, ID, Mutation, Query, Resolver, Root } from 'type-graphql'
import { fromGlobalId, parseGlobalId } from '../../lib/ids.js'
import { ConnectionArguments } from '../build/connection.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { printRecipeYaml } from '../build/print-recipe.js'
import { BigIntScalar } from '../build/scalars.js'
import { buildStudent, distillStudent, pruneHeads } from './build.service.js'
import { decisionsOfRecipe } from './decisions.js'
import { DistillStudentInput } from './healing.inputs.js'
import { currentPolicy, setApprovalPolicy } from './policy.service.js'
import { proposeStudents } from './proposal.service.js'
import { PruneHeadsInput } from './pruning.inputs.js'
import {
  ApproveRecipeInput,
  BuildStudentInput,
  BuildStudentPayload,
  CreateRecipeInput,
  DistillStudentPayload,
  ProposeStudentsInput,
  ProposeStudentsPayload,
  PruneHeadsPayload,
  RecipePayload,
  RejectRecipeInput,
  SetApprovalPolicyInput,
  SetApprovalPolicyPayload,
} from './recipe.inputs.js'
import {
  capabilityIdBySlug,
  exportsOfModel,
  modelHandle,
  modelsOfManifest,
  recipeById,
  recipeOfBuild,
  recipeOfStudent,
  recipesOfProposal,
  sizeOfModel,
  stagesOfBuild,
} from './recipe.loaders.js'
import { approveRecipe, createRecipe, listRecipes, recipesOfModel, rejectRecipe } from './recipe.service.js'
import { ApprovalPolicy, BuildStage, Recipe, RecipeConnection, RecipeDecision, RecipeStatus } from './recipe.type.js'
import { estimatedCosts, measuredCosts } from './recipe-cost.js'
import { Capability, capabilityReference, Job, jobReference, Model, modelReference } from './references.js'

/** The recipe as a mutation left it. */
const reload = async (context: RequestContext, rowId: string) =>
  (await recipeById(context).clear(rowId).load(rowId)) ?? null

@Resolver(() => Recipe)
export class RecipeResolver {
  @Query(() => Recipe, { nullable: true, description: 'One recipe; null where the id is unknown.' })
  async recipe(
    @Arg('id', () => ID, { description: 'Global id of the recipe.' }) id: string,
    @Ctx() context: RequestContext,
  ): Promise<Recipe | null> {
    const parsed = parseGlobalId(id)
    return parsed?.type === 'Recipe' ? reload(context, parsed.id) : null
  }

  @Query(() => RecipeConnection, { description: 'Recipes, newest first.' })
  recipes(
    @Arg('parentModelId', () => ID, { nullable: true, description: 'Only recipes for students of this model.' })
    parentModelId: string | null | undefined,
    @Arg('status', () => RecipeStatus, { nullable: true, description: 'Only recipes that stand here.' })
    status: RecipeStatus | null | undefined,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ) {
    const parent = parentModelId == null ? null : fromGlobalId('Model', parentModelId, ['parentModelId'])
    return listRecipes(context, { parentModelId: parent, status }, args)
  }

  @FieldResolver(() => Model, { description: 'The model whose layers are kept.' })
  parentModel(@Root() { row }: Recipe): Model {
    return modelReference(row.parentModelId)
  }

  @FieldResolver(() => Model, {
    nullable: true,
    description:
      'The model that a measured quality of 1 stands for: the teacher that the recipe names (null once that is deleted), else the parent.',
  })
  async measuredAgainst(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<Model | null> {
    const teacher = row.stages?.healing?.teacher
    if (teacher === undefined) return modelReference(row.parentModelId)
    const named = (await modelsOfManifest(context).load(teacher)) ?? []
    // Several models may have one manifest.
    const id = named.includes(row.parentModelId) ? row.parentModelId : named.at(-1)
    return id === undefined ? null : modelReference(id)
  }

  @FieldResolver(() => Capability, {
    nullable: true,
    description: 'The capability it is made for and measured on; null: all of them.',
  })
  async capability(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<Capability | null> {
    const id = row.capability === null ? undefined : await capabilityIdBySlug(context).load(row.capability)
    return id ? capabilityReference(id) : null
  }

  @FieldResolver(() => [RecipeDecision], {
    description: 'Every decision about it, oldest first: who or which policy, and why.',
  })
  async decisions(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<RecipeDecision[]> {
    const rows = (await decisionsOfRecipe(context).load(row.id)) ?? []
    return rows.map(({ checks, ...decision }) =>
      Object.assign(new RecipeDecision(), { ...decision, checks: checks ?? [] }),
    )
  }

  @FieldResolver(() => Model, { nullable: true, description: 'The student that was built; null until then.' })
  student(@Root() { row }: Recipe): Model | null {
    return row.studentModelId === null ? null : modelReference(row.studentModelId)
  }

  @FieldResolver(() => Job, { nullable: true, description: 'The last build job; null until one was queued.' })
  job(@Root() { row }: Recipe): Job | null {
    return row.jobId === null ? null : jobReference(row.jobId)
  }

  @FieldResolver(() => [Job], {
    description:
      'Jobs that write the student’s files, oldest first: those the recipe asks for, and others; empty before its build.',
  })
  async exportJobs(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<Job[]> {
    if (row.studentModelId === null) return []
    return ((await exportsOfModel(context).load(row.studentModelId)) ?? []).map(jobReference)
  }

  @FieldResolver(() => Float, {
    nullable: true,
    description:
      'What building and measuring it is expected to cost, in DCUs (docs/cost.md); null where the probe set has no sample to measure it on.',
  })
  async estimatedCost(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<number | null> {
    return (await estimatedCosts(context).load(row.id)) ?? null
  }

  @FieldResolver(() => Float, {
    nullable: true,
    description:
      'What building and measuring it has cost so far, in DCUs, failed attempts included; null before its build.',
  })
  async measuredCost(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<number | null> {
    return row.jobId === null ? null : ((await measuredCosts(context).load(row.id)) ?? null)
  }

  @FieldResolver(() => BigIntScalar, {
    nullable: true,
    description: 'Bytes of all tensors of the student that was built; null until then.',
  })
  async measuredSizeBytes(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<number | null> {
    return row.studentModelId === null ? null : ((await sizeOfModel(context).load(row.studentModelId)) ?? null)
  }

  @FieldResolver(() => Float, {
    nullable: true,
    description:
      'Tokens per second at which its build decoded the quantised student, one stream; null before its build, and where it does not quantise.',
  })
  async measuredTokensPerSecond(@Root() { row }: Recipe, @Ctx() context: RequestContext): Promise<number | null> {
    const stages = row.jobId === null ? [] : ((await stagesOfBuild(context).load(row.jobId)) ?? [])
    const found = stages.findLast(({ stage }) => stage === 'quantise')?.measurements?.tokensPerSecond
    return row.studentModelId !== null && typeof found === 'number' ? found : null
  }

  @FieldResolver(() => String, {
    description: 'The recipe as a mergekit configuration (passthrough); createRecipe reads it back.',
  })
  async yaml(@Root() recipe: Recipe, @Ctx() context: RequestContext): Promise<string> {
    const { name, objective, row } = recipe
    const model = (await modelHandle(context).load(row.parentModelId)) ?? modelReference(row.parentModelId).id
    const others = new Map<string, string>()
    for (const { modelId } of row.layers)
      if (modelId !== undefined && !others.has(modelId))
        others.set(modelId, (await modelHandle(context).load(modelId)) ?? modelReference(modelId).id)
    return printRecipeYaml({ model, name, objective, layers: row.layers, stages: row.stages, others })
  }

  @Mutation(() => ProposeStudentsPayload, {
    description:
      'Searches, from the newest analysis, which layers each capability can do without, and writes recipes with measured quality.',
  })
  proposeStudents(
    @Arg('input', () => ProposeStudentsInput, { description: 'Parent, capabilities and size.' })
    input: ProposeStudentsInput,
    @Ctx() context: RequestContext,
  ): Promise<ProposeStudentsPayload> {
    return withUserErrors<ProposeStudentsPayload>(async () => {
      const jobId = await proposeStudents(context, input)
      return { job: jobReference(jobId), recipes: (await recipesOfProposal(context).load(jobId)) ?? [] }
    }).then(payload => ({ ...payload, recipes: payload.recipes ?? [] }))
  }

  @Mutation(() => RecipePayload, {
    description: 'Writes a recipe by hand, from layer ranges or a mergekit configuration.',
  })
  createRecipe(
    @Arg('input', () => CreateRecipeInput, { description: 'The recipe.' }) input: CreateRecipeInput,
    @Ctx() context: RequestContext,
  ): Promise<RecipePayload> {
    return withUserErrors<RecipePayload>(async () => ({
      recipe: await reload(context, await createRecipe(context, input)),
    }))
  }

  @Mutation(() => RecipePayload, { description: 'Lets a recipe be built.' })
  approveRecipe(
    @Arg('input', () => ApproveRecipeInput, { description: 'Which one.' }) input: ApproveRecipeInput,
    @Ctx() context: RequestContext,
  ): Promise<RecipePayload> {
    return withUserErrors<RecipePayload>(async () => ({
      recipe: await reload(context, await approveRecipe(context, input)),
    }))
  }

  @Mutation(() => RecipePayload, { description: 'Turns a recipe down for good.' })
  rejectRecipe(
    @Arg('input', () => RejectRecipeInput, { description: 'Which one and why.' }) input: RejectRecipeInput,
    @Ctx() context: RequestContext,
  ): Promise<RecipePayload> {
    return withUserErrors<RecipePayload>(async () => ({
      recipe: await reload(context, await rejectRecipe(context, input)),
    }))
  }

  @Mutation(() => BuildStudentPayload, {
    description:
      'Builds the student of an approved recipe: a new manifest over its parent’s tensors. It is then measured beside its parent, or the teacher that its recipe names.',
  })
  buildStudent(
    @Arg('input', () => BuildStudentInput, { description: 'Which recipe.' }) input: BuildStudentInput,
    @Ctx() context: RequestContext,
  ): Promise<BuildStudentPayload> {
    return withUserErrors<BuildStudentPayload>(async () => {
      const { recipeId, jobId } = await buildStudent(context, input)
      return { recipe: await reload(context, recipeId), job: jobReference(jobId) }
    })
  }

  @Mutation(() => PruneHeadsPayload, {
    description:
      'Removes attention heads of a model: writes a recipe that keeps all its layers, approves and builds it. The pruned model is a student, measured against the one it comes from.',
  })
  pruneHeads(
    @Arg('input', () => PruneHeadsInput, { description: 'Which model and which heads.' }) input: PruneHeadsInput,
    @Ctx() context: RequestContext,
  ): Promise<PruneHeadsPayload> {
    return withUserErrors<PruneHeadsPayload>(async () => {
      const { recipeId, jobId } = await pruneHeads(context, input)
      return { recipe: await reload(context, recipeId), job: jobReference(jobId) }
    })
  }

  @Mutation(() => DistillStudentPayload, {
    description:
      'Trains a model after a teacher: writes a recipe that keeps all its layers, approves and builds it. The new model is a student of the one it comes from; where held-out loss does not fall, the job fails with NOT_IMPROVED and nothing is kept.',
  })
  distillStudent(
    @Arg('input', () => DistillStudentInput, { description: 'Which model, which teacher, how.' })
    input: DistillStudentInput,
    @Ctx() context: RequestContext,
  ): Promise<DistillStudentPayload> {
    return withUserErrors<DistillStudentPayload>(async () => {
      const { recipeId, jobId } = await distillStudent(context, input)
      return { recipe: await reload(context, recipeId), job: jobReference(jobId) }
    })
  }

  @Query(() => ApprovalPolicy, { description: 'What is approved without a person.' })
  approvalPolicy(@Ctx() context: RequestContext): Promise<ApprovalPolicy> {
    return currentPolicy(context)
  }

  @Mutation(() => SetApprovalPolicyPayload, {
    description: 'Sets what is approved without a person; proposals made from now on are decided by it.',
  })
  setApprovalPolicy(
    @Arg('input', () => SetApprovalPolicyInput, { description: 'The whole policy.' }) input: SetApprovalPolicyInput,
    @Ctx() context: RequestContext,
  ): Promise<SetApprovalPolicyPayload> {
    return withUserErrors<SetApprovalPolicyPayload>(async () => ({ policy: await setApprovalPolicy(context, input) }))
  }
}

@Resolver(() => Model)
export class ModelResolver {
  @FieldResolver(() => RecipeConnection, { description: 'Recipes for students of this model, newest first.' })
  recipes(
    @Root() model: Model,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ) {
    return recipesOfModel(context, fromGlobalId('Model', model.id), args)
  }

  @FieldResolver(() => Recipe, { nullable: true, description: 'The recipe it was built from; null on other models.' })
  async recipe(@Root() model: Model, @Ctx() context: RequestContext): Promise<Recipe | null> {
    return (await recipeOfStudent(context).load(fromGlobalId('Model', model.id))) ?? null
  }
}

@Resolver(() => Job)
export class JobResolver {
  @FieldResolver(() => [Recipe], {
    description: 'What a finished search proposed; empty on other jobs and before the end.',
  })
  async recipes(@Root() job: Job, @Ctx() context: RequestContext): Promise<Recipe[]> {
    return (await recipesOfProposal(context).load(fromGlobalId('Job', job.id))) ?? []
  }

  @FieldResolver(() => [BuildStage], {
    description: 'The steps of a finished build, in order; empty on other jobs and before the end.',
  })
  async stages(@Root() job: Job, @Ctx() context: RequestContext): Promise<BuildStage[]> {
    return (await stagesOfBuild(context).load(fromGlobalId('Job', job.id))) ?? []
  }

  @FieldResolver(() => Recipe, {
    nullable: true,
    description: 'The recipe that a build job builds; null on other jobs.',
  })
  async recipe(@Root() job: Job, @Ctx() context: RequestContext): Promise<Recipe | null> {
    return (await recipeOfBuild(context).load(fromGlobalId('Job', job.id))) ?? null
  }
}
