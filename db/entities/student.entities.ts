// Recipes, what was built from them, and how well students do.
import { Entity, ForeignKey, Index } from 'typeorm'
import type { BuildStages } from '../../lib/build-stages.js'
import {
  BigIntegerColumn,
  FlagColumn,
  IdColumn,
  IdPrimaryColumn,
  IntegerColumn,
  JsonColumn,
  NameColumn,
  RealColumn,
  TextColumn,
  TimeColumn,
} from '../columns.js'
import { ModelAtom } from './model.entities.js'
import { ProbeDataset, StudentModelTaxonomy } from './taxonomy.entities.js'

/** Several capabilities as one aim. */
export interface MixtureValue {
  name: string
  weights: { capability: string; weight: number }[]
}

export const recipeStatuses = ['PROPOSED', 'APPROVED', 'REJECTED', 'BUILDING', 'BUILT', 'DEPLOYED', 'FAILED'] as const
export type RecipeStatus = (typeof recipeStatuses)[number]

@Entity('StudentModelRecipes')
@Index('IX_StudentModelRecipes_Parent', ['parentModelId', 'id'])
export class StudentModelRecipe {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @NameColumn() name!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  parentModelId!: string
  @TextColumn() objective!: string
  /** Slug of the capability the recipe is made for. */
  @NameColumn({ nullable: true }, 200) capability!: string | null
  /** Where it is made for several capabilities with weights, which sum to 1; null otherwise. */
  @JsonColumn({ nullable: true }) mixture!: MixtureValue | null
  /** [from, to) ranges with their reasons. */
  @JsonColumn() layers!: { from: number; to: number; reason?: string; modelId?: string }[]
  /** What is done beyond that, by stage; null: nothing. */
  @JsonColumn({ nullable: true }) stages!: BuildStages | null
  @BigIntegerColumn() estimatedParameterCount!: number
  /** exp(-(student loss - parent loss)) measured with layers gated off; null where not measured yet. */
  @RealColumn({ nullable: true }) estimatedQuality!: number | null
  /** [lower, upper] bound of it at 95 %; null where not measured, or on one sample only. */
  @JsonColumn({ nullable: true }) estimatedQualityInterval!: [number, number] | null
  /** Held-out samples that the estimate comes from; null where not measured. */
  @IntegerColumn({ nullable: true }) validationSamples!: number | null
  /** All its tensors, as the parent stores them; null on recipes that nothing was measured for. */
  @BigIntegerColumn({ nullable: true }) estimatedSizeBytes!: number | null
  /** Most tokens per second of one stream on the device that searched. */
  @RealColumn({ nullable: true }) estimatedTokensPerSecond!: number | null
  /** Device seconds that measuring the student beside its parent takes. */
  @RealColumn({ nullable: true }) estimatedCostSeconds!: number | null
  /** The same, measured on the built student. */
  @RealColumn({ nullable: true }) measuredQuality!: number | null
  @NameColumn({}, 20) status!: RecipeStatus
  /** Who or which policy approved or rejected, and why. */
  @TextColumn({ nullable: true }) decision!: string | null
  @ForeignKey(() => ModelAtom)
  @IdColumn({ nullable: true })
  studentModelId!: string | null
  /** The build job. */
  @IdColumn({ nullable: true }) jobId!: string | null
  /** The students.propose job that found it; null where a person wrote it. */
  @IdColumn({ nullable: true }) proposalJobId!: string | null
  /** The probe set its quality is measured on; null: the newest one of the product. */
  @ForeignKey(() => ProbeDataset)
  @IdColumn({ nullable: true })
  probeDatasetId!: string | null
  @TimeColumn() createdAt!: Date
  @TimeColumn({ nullable: true }) builtAt!: Date | null
}

/** One row per tenant: what is approved without a person, and what follows by itself from what. */
@Entity('ApprovalPolicies')
export class ApprovalPolicy {
  @IdPrimaryColumn() tenantId!: string
  /** Grows with every change; decisions name the version they were made by. */
  @IntegerColumn({ default: 1 }) version!: number
  @FlagColumn() enabled!: boolean
  @RealColumn({ nullable: true }) minimumQuality!: number | null
  @BigIntegerColumn({ nullable: true }) maximumParameters!: number | null
  /** Slugs of the capabilities whose recipes may be approved; null: all. */
  @JsonColumn({ nullable: true }) capabilities!: string[] | null
  /** Most device seconds that building and measuring may take; null: any. */
  @RealColumn({ nullable: true }) maximumCostSeconds!: number | null
  @FlagColumn({ default: 0 }) analyzeOnIngest!: boolean
  /** Of analyses that the policy starts; null: all there are. */
  @IntegerColumn({ nullable: true }) samplesPerCapability!: number | null
  @FlagColumn({ default: 0 }) proposeOnAnalysis!: boolean
  /** Of searches that the policy starts; null: the short search. */
  @RealColumn({ nullable: true }) budgetSeconds!: number | null
  @FlagColumn({ default: 0 }) buildOnApproval!: boolean
  @TimeColumn() updatedAt!: Date
}

export const decisionOutcomes = ['APPROVED', 'REJECTED', 'LEFT'] as const
export type DecisionOutcome = (typeof decisionOutcomes)[number]

/** One comparison that a policy made. */
export interface PolicyCheckValue {
  limit: 'QUALITY' | 'SIZE' | 'CAPABILITY' | 'COST'
  met: boolean
  text: string
}

/** Who or which policy decided about a recipe, and why; never changed. */
@Entity('RecipeDecisions')
@Index('IX_RecipeDecisions_Recipe', ['recipeId', 'id'])
export class RecipeDecision {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => StudentModelRecipe)
  @IdColumn()
  recipeId!: string
  @NameColumn({}, 20) outcome!: DecisionOutcome
  /** PERSON or POLICY. */
  @NameColumn({}, 20) decidedBy!: 'PERSON' | 'POLICY'
  /** What the person calls itself; null where it did not say, or where a policy decided. */
  @NameColumn({ nullable: true }, 200) person!: string | null
  @IntegerColumn({ nullable: true }) policyVersion!: number | null
  @TextColumn() reason!: string
  /** Of a policy: every comparison it made. */
  @JsonColumn({ nullable: true }) checks!: PolicyCheckValue[] | null
  @TimeColumn() createdAt!: Date
}

/** How a model does on a capability, measured on a split of a probe set. */
@Entity('ModelEvaluations')
@Index('IX_ModelEvaluations_Model', ['modelId', 'id'])
@Index('IX_ModelEvaluations_Slug', ['slug', 'id'])
export class ModelEvaluation {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  @ForeignKey(() => ProbeDataset)
  @IdColumn()
  probeDatasetId!: string
  @NameColumn({}, 200) slug!: string
  /** `probe` or `validation`. */
  @NameColumn({}, 20) split!: string
  @RealColumn() loss!: number
  @RealColumn() perplexity!: number
  @RealColumn({ nullable: true }) accuracy!: number | null
  @BigIntegerColumn() sampleCount!: number
  /** [lower, upper] bound of the loss at 95 %. */
  @JsonColumn({ nullable: true }) lossInterval!: [number, number] | null
  @IdColumn({ nullable: true }) jobId!: string | null
  @TimeColumn() createdAt!: Date
}

@Entity('StudentModelCapabilityMappings')
@Index('UX_StudentModelCapabilityMappings', ['studentModelId', 'taxonomyId'], { unique: true })
export class StudentModelCapabilityMapping {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  studentModelId!: string
  @ForeignKey(() => StudentModelTaxonomy)
  @IdColumn()
  taxonomyId!: string
  /** Quality: 1.0 is the parent. */
  @RealColumn() capabilityScore!: number
}
