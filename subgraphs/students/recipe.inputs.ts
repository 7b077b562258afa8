// Inputs and payloads of the students subgraph's mutations.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { StudentExport as StudentExportName } from '../../lib/build-stages.js'
import { UserError } from '../build/common-types.js'
import { BigIntScalar } from '../build/scalars.js'
import { RecipeFusionInput } from './fusion.inputs.js'
import { HealingInput } from './healing.inputs.js'
import { FeedForwardPruningInput, HeadPruningInput, StudentExport } from './pruning.inputs.js'
import { RecipeQuantizationInput } from './quantization.inputs.js'
import { ApprovalPolicy, Recipe } from './recipe.type.js'
import { Job } from './references.js'

const keyDescription = 'Same key and input: same result. 1 to 200 characters.'
const errorsDescription = 'Why nothing was done; empty otherwise.'

@InputType({ description: 'A capability and how much it counts.' })
export class MixtureWeightInput {
  @Field(() => String, { description: 'Slug of a top-level capability.' })
  capability!: string
  @Field(() => Float, { description: 'Above 0; weights need not sum to 1.' })
  weight!: number
}

@InputType({ description: 'Several capabilities as one aim.' })
export class MixtureInput {
  @Field(() => String, { description: 'What it is called: 1 to 64 of a-z, 0-9, _ and -.' })
  name!: string
  @Field(() => [MixtureWeightInput], { description: 'Two capabilities or more, each once.' })
  weights!: MixtureWeightInput[]
}

@InputType({ description: 'What students to look for.' })
export class ProposeStudentsInput {
  @Field(() => ID, { description: 'The parent; it must have been analysed.' })
  modelId!: string
  @Field(() => [String], {
    nullable: true,
    description:
      'Slugs of top-level capabilities to propose for, each by itself; default: all that the analysis measured, or none where mixtures are named.',
  })
  capabilities?: string[] | null
  @Field(() => [MixtureInput], {
    nullable: true,
    description:
      'Mixtures to propose for, at most 20; default: none, and with a budget one called `general` of all capabilities in equal parts where no capabilities are named.',
  })
  mixtures?: MixtureInput[] | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description: 'Largest student wanted, in parameters; default: any size.',
  })
  maximumParameters?: number | bigint | null
  @Field(() => Int, {
    nullable: true,
    description:
      'At most this many samples per capability, 1 to 100,000; default: as many as the budget affords, without one as many as the analysis took.',
  })
  samplesPerCapability?: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Seconds of device time that the search may take, all capabilities and mixtures together, 1 to 86,400: cuts by block influence and angular distance, a beam search and exchanges of a dropped layer for a kept one, every set measured, on few samples first and the best on more; of all sizes the sets that no smaller one beats are proposed. A part of it silences key/value heads, the least important first: recipes that also take such heads out are proposed where no other beats them. The more time, the wider the search; it goes on from what earlier ones measured. The measurement that is running when time is up is finished. Default: a short greedy search that proposes two or three sizes.',
  })
  budgetSeconds?: number | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description:
      'The same in tokens run through the whole model, at least 1; what earlier searches measured is free. Of two budgets the one that ends first counts.',
  })
  budgetTokens?: number | bigint | null
  @Field(() => Boolean, {
    defaultValue: false,
    description:
      'Whether the projections at and behind the cuts of what is proposed are fitted anew before it is judged, to texts of what it is proposed for: the recipes say `correctCuts`, and their estimated quality is that of the fitted student, which their build takes over. What is worse for it on the held-out samples is proposed unfitted. A fit takes minutes; half of a budget is for that, the sizes in question and the smallest first, and proposals that it does not afford stay unfitted.',
  })
  correctCuts!: boolean
  @Field(() => ID, {
    nullable: true,
    description: 'Probe set whose newest analysis is used; default: the newest of all.',
  })
  probeDatasetId?: string | null
  @Field(() => String, { nullable: true, description: keyDescription })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What came of the wish for proposals.' })
export class ProposeStudentsPayload {
  @Field(() => [Recipe], {
    description: 'The proposals; empty until the job is done (then also at `job.recipes`).',
  })
  recipes!: Recipe[]
  @Field(() => Job, { nullable: true, description: 'The job that searches and measures.' })
  job?: Job | null
  @Field(() => [UserError], { description: errorsDescription })
  userErrors!: UserError[]
}

@InputType({ description: 'Layers to keep: from, from + 1 … to - 1.' })
export class LayerRangeInput {
  @Field(() => Int, { description: 'First layer kept, from 0.' })
  from!: number
  @Field(() => Int, { description: 'Layer after the last one kept, at most the parent’s layer count.' })
  to!: number
  @Field(() => String, { nullable: true, description: 'Why, for those who read the recipe; at most 500 characters.' })
  reason?: string | null
  @Field(() => ID, {
    nullable: true,
    description: 'The model whose layers they are, of the parent’s shape; default: the parent.',
  })
  modelId?: string | null
}

@InputType({ description: 'A recipe written by hand: either `parentModelId` and `layers`, or `yaml`.' })
export class CreateRecipeInput {
  @Field(() => ID, { nullable: true, description: 'The parent. With `yaml` it may be left out.' })
  parentModelId?: string | null
  @Field(() => String, {
    nullable: true,
    description: 'Name of recipe and student, 1 to 200 characters; default: from the parent and the number of layers.',
  })
  name?: string | null
  @Field(() => String, { nullable: true, description: 'What the student is for; at most 2,000 characters.' })
  objective?: string | null
  @Field(() => [LayerRangeInput], {
    nullable: true,
    description:
      'Layers to keep, in the student’s order; ranges may overlap and repeat, a layer used twice counts twice.',
  })
  layers?: LayerRangeInput[] | null
  @Field(() => String, { nullable: true, description: 'Slug of the top-level capability it is meant for.' })
  capability?: string | null
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether the layers that are left out are made up for without training: the output projections of the block before each cut and of the layers behind the first are fitted anew by least squares, so that the residual stream is where the parent’s is, each kept only where the loss on held-out samples falls. Such a block no longer shares its parent’s tensor. Default: false.',
  })
  correctCuts?: boolean | null
  @Field(() => HeadPruningInput, { nullable: true, description: 'Attention heads to remove; default: none.' })
  headPruning?: HeadPruningInput | null
  @Field(() => FeedForwardPruningInput, {
    nullable: true,
    description: 'Hidden units of feed-forward blocks to keep; default: all.',
  })
  feedForwardPruning?: FeedForwardPruningInput | null
  @Field(() => HealingInput, {
    nullable: true,
    description: 'Training of the student after its teacher, kept only where held-out loss falls; default: none.',
  })
  healing?: HealingInput | null
  @Field(() => RecipeQuantizationInput, {
    nullable: true,
    description:
      'Matrices as 4- or 8-bit codes, after everything else, from the full-precision source where the parent was quantised here; default: they stay as they are.',
  })
  quantization?: RecipeQuantizationInput | null
  @Field(() => RecipeFusionInput, {
    nullable: true,
    description:
      'What of the student’s graph is computed at once, where that is worth it on the device that builds: the last step; default: nothing beyond what the engine always does.',
  })
  fusion?: RecipeFusionInput | null
  @Field(() => [StudentExport], {
    nullable: true,
    description:
      'What the student is written as once it is built, each as a job of its own (`Recipe.exportJobs`); default: nothing.',
  })
  exports?: StudentExportName[] | null
  @Field(() => ID, {
    nullable: true,
    description:
      'Probe set that pruning measures on (its probe split) and that quantisation calibrates with (probe split) and is compared on (validation split), and that the built student is measured on (validation split); default: the newest version of the built-in one; the student is then measured on the set it was healed on, or that of the newest analysis of its parent.',
  })
  probeDatasetId?: string | null
  @Field(() => Int, {
    nullable: true,
    description: 'Samples per capability that pruning measures on, 1 to 100,000; default: 8.',
  })
  samplesPerCapability?: number | null
  @Field(() => String, {
    nullable: true,
    description:
      'A mergekit configuration instead of `layers`: merge_method passthrough, slices of one source each; `model` is the id or name of the parent, or of another model of its shape. The section `hartonomous`, which mergekit ignores, may hold parent (where the first slice is not of the parent), correctCuts, headPruning, feedForwardPruning, healing, quantization, fusion and exports.',
  })
  yaml?: string | null
  @Field(() => String, { nullable: true, description: keyDescription })
  idempotencyKey?: string | null
}

@InputType({ description: 'Which recipe to approve.' })
export class ApproveRecipeInput {
  @Field(() => ID, { description: 'The recipe: PROPOSED or FAILED.' })
  recipeId!: string
  @Field(() => String, { nullable: true, description: 'Why; at most 2,000 characters.' })
  reason?: string | null
  @Field(() => String, { nullable: true, description: 'Who decides, as it is to be recorded; at most 200 characters.' })
  decidedBy?: string | null
}

@InputType({ description: 'Which recipe to reject, and why.' })
export class RejectRecipeInput {
  @Field(() => ID, { description: 'The recipe: PROPOSED, APPROVED or FAILED.' })
  recipeId!: string
  @Field(() => String, { nullable: true, description: 'Why; at most 2,000 characters.' })
  reason?: string | null
  @Field(() => String, { nullable: true, description: 'Who decides, as it is to be recorded; at most 200 characters.' })
  decidedBy?: string | null
}

@ObjectType({ description: 'The recipe after the change.' })
export class RecipePayload {
  @Field(() => Recipe, { nullable: true, description: 'The recipe; null where nothing was done.' })
  recipe?: Recipe | null
  @Field(() => [UserError], { description: errorsDescription })
  userErrors!: UserError[]
}

@InputType({ description: 'Which student to build.' })
export class BuildStudentInput {
  @Field(() => ID, { description: 'The recipe: APPROVED.' })
  recipeId!: string
  @Field(() => String, { nullable: true, description: keyDescription })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What came of the wish to build.' })
export class BuildStudentPayload {
  @Field(() => Recipe, { nullable: true, description: 'The recipe; its `student` is there once the job is done.' })
  recipe?: Recipe | null
  @Field(() => Job, { nullable: true, description: 'The job that builds.' })
  job?: Job | null
  @Field(() => [UserError], { description: errorsDescription })
  userErrors!: UserError[]
}

@ObjectType({ description: 'What came of the wish to remove heads.' })
export class PruneHeadsPayload {
  @Field(() => Recipe, {
    nullable: true,
    description: 'The recipe that was written for it, approved; its `student` is there once the job is done.',
  })
  recipe?: Recipe | null
  @Field(() => Job, { nullable: true, description: 'The job that builds.' })
  job?: Job | null
  @Field(() => [UserError], { description: errorsDescription })
  userErrors!: UserError[]
}

@ObjectType({ description: 'What came of the wish to train.' })
export class DistillStudentPayload {
  @Field(() => Recipe, { nullable: true, description: 'The recipe; its `student` is there once the job is done.' })
  recipe?: Recipe | null
  @Field(() => Job, { nullable: true, description: 'The job that trains.' })
  job?: Job | null
  @Field(() => [UserError], { description: 'Why nothing was done; empty otherwise.' })
  userErrors!: UserError[]
}

@InputType({
  description:
    'What to approve without a person and what to start by itself, from now on; what is left out is switched off.',
})
export class SetApprovalPolicyInput {
  @Field(() => Boolean, { description: 'Whether new proposals are decided on at all.' })
  enabled!: boolean
  @Field(() => Float, {
    nullable: true,
    description: 'Lowest estimated quality to approve, above 0 (1 is the parent); null: any.',
  })
  minimumQuality?: number | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description: 'Most parameters to approve, at least 1; null: any number.',
  })
  maximumParameters?: number | bigint | null
  @Field(() => [String], {
    nullable: true,
    description: 'Slugs of the top-level capabilities whose recipes to approve; null: all.',
  })
  capabilities?: string[] | null
  @Field(() => Float, {
    nullable: true,
    description: 'Most device seconds that building and measuring may take, above 0; null: any.',
  })
  maximumCostSeconds?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description: 'Whether a finished ingest is analysed by itself; default: no.',
  })
  analyzeOnIngest?: boolean | null
  @Field(() => Int, {
    nullable: true,
    description: 'Samples per capability of those analyses, 1 to 100,000; null: all.',
  })
  samplesPerCapability?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description: 'Whether a finished analysis starts a search for students by itself; default: no.',
  })
  proposeOnAnalysis?: boolean | null
  @Field(() => Float, {
    nullable: true,
    description: 'Budget of those searches in seconds, 1 to 86,400; null: the short search.',
  })
  budgetSeconds?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description: 'Whether what the policy approves is built at once; default: no.',
  })
  buildOnApproval?: boolean | null
}

@ObjectType({ description: 'The policy as it is now.' })
export class SetApprovalPolicyPayload {
  @Field(() => ApprovalPolicy, { nullable: true, description: 'The policy; null where nothing was done.' })
  policy?: ApprovalPolicy | null
  @Field(() => [UserError], { description: errorsDescription })
  userErrors!: UserError[]
}
