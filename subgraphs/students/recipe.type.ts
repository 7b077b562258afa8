// A recipe: which layers of a parent make a student, what it is for, and what became of it.
import { Directive, Field, Float, Int, ObjectType } from 'type-graphql'
import type { StageResult } from '../../compute/pool/job-types.js'
import type { StudentModelRecipe } from '../../db/entities/index.js'
import { countOf, type StudentExport as StudentExportName } from '../../lib/build-stages.js'
import { toGlobalId } from '../../lib/ids.js'
import { Node, registerValues } from '../build/common-types.js'
import { connectionOf } from '../build/connection.js'
import { BigIntScalar, JsonScalar } from '../build/scalars.js'
import { RecipeFusion } from './fusion.inputs.js'
import { Healing, toHealing } from './healing.inputs.js'
import { FeedForwardPruning, HeadPruning, StudentExport } from './pruning.inputs.js'
import { RecipeQuantization } from './quantization.inputs.js'
import { countLayers } from './recipe-layers.js'
import { Model, modelReference } from './references.js'

export const RecipeStatus = registerValues('RecipeStatus', 'Where a recipe stands.', {
  PROPOSED: 'Waits for a person or the approval policy.',
  APPROVED: 'May be built.',
  REJECTED: 'Will not be built; final.',
  BUILDING: 'Its build job is queued or running.',
  BUILT: 'Its student exists; when that is deleted, the recipe is APPROVED again.',
  FAILED: 'Its build failed; it can be approved again.',
})
export type RecipeStatus = keyof typeof RecipeStatus

@ObjectType({ description: 'Layers of the parent that are kept: from, from + 1 … to - 1.' })
export class LayerRange {
  @Field(() => Int, { description: 'First layer kept, from 0.' })
  from!: number
  @Field(() => Int, { description: 'Layer after the last one kept.' })
  to!: number
  @Field(() => String, { nullable: true, description: 'Why these layers are kept.' })
  reason?: string | null
  @Field(() => Model, { nullable: true, description: 'The model whose layers they are; null: the parent.' })
  model?: Model | null
}

@ObjectType({ description: 'A capability and how much it counts in a mixture.' })
export class MixtureWeight {
  @Field(() => String, { description: 'Slug of a top-level capability.' })
  capability!: string
  @Field(() => Float, { description: 'Its share; the shares of a mixture sum to 1.' })
  weight!: number
}

@ObjectType({ description: 'Several capabilities as one aim: losses are their weighted mean.' })
export class Mixture {
  @Field(() => String, { description: 'What it is called, as `general`.' })
  name!: string
  @Field(() => [MixtureWeight], { description: 'Its capabilities.' })
  weights!: MixtureWeight[]
}

export const DecisionOutcome = registerValues('DecisionOutcome', 'What was decided about a recipe.', {
  APPROVED: 'It may be built.',
  REJECTED: 'It will not be built.',
  LEFT: 'The policy left it to a person.',
})
export type DecisionOutcome = keyof typeof DecisionOutcome

export const Decider = registerValues('Decider', 'Who decides about recipes.', {
  PERSON: 'A person, by approveRecipe or rejectRecipe.',
  POLICY: 'The approval policy.',
})
export type Decider = keyof typeof Decider

export const PolicyLimit = registerValues('PolicyLimit', 'What a policy compares.', {
  QUALITY: 'The estimated quality.',
  SIZE: 'The number of parameters.',
  CAPABILITY: 'The capabilities that a recipe is made for.',
  COST: 'Device seconds that building and measuring take.',
})
export type PolicyLimit = keyof typeof PolicyLimit

@ObjectType({ description: 'One comparison that a policy made.' })
export class PolicyCheck {
  @Field(() => PolicyLimit, { description: 'Which of its limits.' })
  limit!: PolicyLimit
  @Field(() => Boolean, { description: 'Whether the recipe keeps it.' })
  met!: boolean
  @Field(() => String, { description: 'Both numbers, in words.' })
  text!: string
}

@ObjectType({ description: 'Who or which policy decided about a recipe, and why; kept for ever.' })
export class RecipeDecision {
  @Field(() => DecisionOutcome, { description: 'What was decided.' })
  outcome!: DecisionOutcome
  @Field(() => Decider, { description: 'Who decided.' })
  decidedBy!: Decider
  @Field(() => String, { nullable: true, description: 'What the person calls itself; null where it did not say.' })
  person!: string | null
  @Field(() => Int, { nullable: true, description: 'Version of the policy that decided; null where a person did.' })
  policyVersion!: number | null
  @Field(() => String, { description: 'Why, with the numbers.' })
  reason!: string
  @Field(() => [PolicyCheck], { description: 'Every comparison that the policy made; empty where a person decided.' })
  checks!: PolicyCheck[]
  @Field(() => Date, { description: 'When.' })
  createdAt!: Date
}

@Directive('@key(fields: "id")')
@ObjectType({
  implements: Node,
  description: 'A student to be: layers of a parent, put together anew. Proposed from measurements or written by hand.',
})
export class Recipe extends Node {
  @Field(() => String, { description: 'Name of the recipe and of the student built from it.' })
  name!: string
  @Field(() => String, { description: 'What the student is for.' })
  objective!: string
  @Field(() => RecipeStatus, { description: 'Where it stands.' })
  status!: RecipeStatus
  @Field(() => [LayerRange], { description: 'The parent’s layers that are kept, in the student’s order.' })
  layers!: LayerRange[]
  @Field(() => Int, { description: 'Layers the student has.' })
  layerCount!: number
  @Field(() => Boolean, { description: 'Whether projections fitted anew make up for the layers that are left out.' })
  correctCuts!: boolean
  @Field(() => [StudentExport], { description: 'What the student is written as once it is built.' })
  exports!: StudentExportName[]
  @Field(() => HeadPruning, { nullable: true, description: 'Attention heads that are removed; null: none.' })
  headPruning!: HeadPruning | null
  @Field(() => FeedForwardPruning, {
    nullable: true,
    description: 'How narrow feed-forward blocks are made; null: they stay.',
  })
  feedForwardPruning!: FeedForwardPruning | null
  @Field(() => Healing, { nullable: true, description: 'How the student is trained after its teacher; null: not.' })
  healing!: Healing | null
  @Field(() => RecipeQuantization, {
    nullable: true,
    description: 'How matrices are rounded to codes; null: they stay as they are.',
  })
  quantization!: RecipeQuantization | null
  @Field(() => RecipeFusion, {
    nullable: true,
    description: 'From which speed-up on what of the graph is computed at once; null: it is not tried.',
  })
  fusion!: RecipeFusion | null
  @Field(() => BigIntScalar, { description: 'Parameters the student has: an exact count, not an estimate of it.' })
  estimatedParameterCount!: number
  @Field(() => Float, {
    nullable: true,
    description:
      'exp(-(student loss - parent loss)) on the capability’s validation split, measured with the other layers gated off: 1 is the parent. Null on recipes written by hand, which nothing was measured for.',
  })
  estimatedQuality!: number | null
  @Field(() => [Float], {
    nullable: true,
    description:
      '95 % interval of the estimated quality, [lower, upper], by bootstrap over the validation samples, parent and student on the same draws (seeded, 2,000 draws); null where nothing was measured or on fewer than two samples.',
  })
  estimatedQualityInterval!: number[] | null
  @Field(() => Int, { nullable: true, description: 'Held-out samples that the estimate comes from; null: none.' })
  validationSamples!: number | null
  @Field(() => Mixture, {
    nullable: true,
    description:
      'The capabilities it is made for together, and measured on; null where it is made for one, or for all.',
  })
  mixture!: Mixture | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description:
      'Bytes of all its tensors, shared ones included: as the parent stores them, or as the recipe quantises and heals them. Recipes written by hand before this was counted have null.',
  })
  estimatedSizeBytes!: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Most tokens per second that one stream can be decoded at on the device that searched: every weight read once per token at the rate measured there (a roofline, so an upper bound). On recipes written by hand that quantise: the bytes per second at which the last model quantised here decoded, over the estimated size; null where nothing was measured.',
  })
  estimatedTokensPerSecond!: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Device seconds that building it and measuring it beside another model takes, at the speed the search saw; null on recipes written by hand.',
  })
  estimatedCostSeconds!: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'exp(-(its loss - that of `measuredAgainst`)) on the validation split, measured on the student that was built: 1 is that model. Null until that is done.',
  })
  measuredQuality!: number | null
  @Field(() => String, {
    nullable: true,
    description: 'Who or what decided about it and why; null while nobody has.',
  })
  decision!: string | null
  @Field(() => Date, { description: 'When it was proposed or written.' })
  createdAt!: Date
  @Field(() => Date, { nullable: true, description: 'When its student was built.' })
  builtAt!: Date | null
  /** The row, for the resolvers. */
  row!: StudentModelRecipe
}

@ObjectType({ description: 'One step of a build as it ended.' })
export class BuildStage {
  @Field(() => String, { description: 'What was done: extract, …; also what the progress of the build calls it.' })
  stage!: string
  @Field(() => String, { description: 'SHA-256 of the manifest it made.' })
  manifestHash!: string
  @Field(() => Float, { description: 'Seconds it took when it was made.' })
  seconds!: number
  @Field(() => Boolean, {
    description: 'Whether its result was there already, from an earlier attempt or another build that began alike.',
  })
  reused!: boolean
  @Field(() => Float, {
    nullable: true,
    description: 'Floating-point operations of its matrix products, by the formula of docs/cost.md; null: none.',
  })
  flops!: number | null
  @Field(() => JsonScalar, { nullable: true, description: 'What it measured and chose, by name; null: nothing.' })
  measurements!: Record<string, unknown> | null
}

export const toBuildStage = ({ stage, manifest, seconds, reused, flops, measurements }: StageResult): BuildStage =>
  Object.assign(new BuildStage(), {
    stage,
    manifestHash: manifest,
    seconds,
    reused,
    flops: flops ?? null,
    measurements: measurements ?? null,
  })

export const RecipeConnection = connectionOf('Recipe', () => Recipe)

function toPruning({ stages, layers }: StudentModelRecipe): Pick<Recipe, 'headPruning' | 'feedForwardPruning'> {
  const { headPruning: heads, feedForwardPruning: units } = stages ?? {}
  const each = <T>(value: (layer: number) => T) => Array.from({ length: countLayers(layers) }, (_, i) => value(i))
  return {
    headPruning: heads
      ? Object.assign(new HeadPruning(), {
          ...heads,
          heads: heads.heads ?? null,
          removePerLayer: each(i => heads.heads?.[i]?.length ?? countOf(heads.remove ?? 0, i)),
        })
      : null,
    feedForwardPruning: units
      ? Object.assign(new FeedForwardPruning(), { ...units, keepPerLayer: each(i => countOf(units.keep, i)) })
      : null,
  }
}

export const toRecipe = (row: StudentModelRecipe): Recipe =>
  Object.assign(new Recipe(), {
    id: toGlobalId('Recipe', row.id),
    name: row.name,
    objective: row.objective,
    status: row.status,
    layers: row.layers.map(({ modelId, ...range }) => ({ ...range, model: modelId ? modelReference(modelId) : null })),
    layerCount: countLayers(row.layers),
    correctCuts: row.stages?.correctCuts ?? false,
    exports: row.stages?.exports ?? [],
    ...toPruning(row),
    healing: row.stages?.healing ? toHealing(row.stages.healing) : null,
    quantization: row.stages?.quantization
      ? Object.assign(new RecipeQuantization(), {
          raised: [],
          maximumBytes: null,
          minimumQuality: null,
          ...row.stages.quantization,
        })
      : null,
    fusion: row.stages?.fusion ? Object.assign(new RecipeFusion(), { only: null, ...row.stages.fusion }) : null,
    estimatedParameterCount: row.estimatedParameterCount,
    estimatedQuality: row.estimatedQuality,
    estimatedQualityInterval: row.estimatedQualityInterval,
    validationSamples: row.validationSamples,
    mixture: row.mixture,
    estimatedSizeBytes: row.estimatedSizeBytes,
    estimatedTokensPerSecond: row.estimatedTokensPerSecond,
    estimatedCostSeconds: row.estimatedCostSeconds,
    measuredQuality: row.measuredQuality,
    decision: row.decision,
    createdAt: row.createdAt,
    builtAt: row.builtAt,
    row,
  })

@ObjectType({ description: 'What is approved without a person, and what follows by itself from what.' })
export class ApprovalPolicy {
  @Field(() => Int, { description: 'Grows with every change; decisions name it. 0: it was never set.' })
  version!: number
  @Field(() => Boolean, {
    description: 'Whether proposals are decided on at all; otherwise every one waits for a person.',
  })
  enabled!: boolean
  @Field(() => Float, { nullable: true, description: 'Lowest estimated quality that is approved; null: any.' })
  minimumQuality!: number | null
  @Field(() => BigIntScalar, { nullable: true, description: 'Most parameters that are approved; null: any number.' })
  maximumParameters!: number | null
  @Field(() => [String], {
    nullable: true,
    description:
      'Slugs of the capabilities whose recipes are approved; mixtures need all of theirs among them; null: all.',
  })
  capabilities!: string[] | null
  @Field(() => Float, {
    nullable: true,
    description: 'Most device seconds that building and measuring may take; null: any.',
  })
  maximumCostSeconds!: number | null
  @Field(() => Boolean, { description: 'Whether a finished ingest is analysed by itself.' })
  analyzeOnIngest!: boolean
  @Field(() => Int, {
    nullable: true,
    description: 'Samples per capability of the analyses that the policy starts; null: all.',
  })
  samplesPerCapability!: number | null
  @Field(() => Boolean, { description: 'Whether a finished analysis starts a search for students by itself.' })
  proposeOnAnalysis!: boolean
  @Field(() => Float, {
    nullable: true,
    description: 'Budget of the searches that the policy starts, in seconds; null: the short search.',
  })
  budgetSeconds!: number | null
  @Field(() => Boolean, { description: 'Whether what the policy approves is built at once.' })
  buildOnApproval!: boolean
  @Field(() => Date, { nullable: true, description: 'When it was last set; null where it never was.' })
  updatedAt!: Date | null
}
