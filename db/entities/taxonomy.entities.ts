// Capabilities, the probe sets that define them, and what an analysis measured per layer.
import { Entity, ForeignKey, Index } from 'typeorm'
import {
  HashColumn,
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

@Entity('StudentModelTaxonomy')
@Index('UX_StudentModelTaxonomy_Slug', ['tenantId', 'slug'], { unique: true })
export class StudentModelTaxonomy {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => StudentModelTaxonomy)
  @IdColumn({ nullable: true })
  parentTaxonomyId!: string | null
  @NameColumn({}, 100) capabilityName!: string
  /** `code_generation`, sub-capabilities `code_generation/sql`. */
  @NameColumn({}, 200) slug!: string
  /** 0 top level, 1 sub-capability, 2 specialisation. */
  @IntegerColumn() capabilityLevel!: number
  @TextColumn({ nullable: true }) description!: string | null
  /** ESTABLISHED, PROPOSED (found by an analysis, not judged yet), MERGED (into another), DISMISSED. */
  @NameColumn({ default: 'ESTABLISHED' }, 20) status!: string
  /** Where an analysis found it: what it was found by. */
  @JsonColumn({ nullable: true }) discovery!: CapabilityDiscovery | null
  /** Of the capability that it was merged into. */
  @IdColumn({ nullable: true }) mergedIntoId!: string | null
  @TimeColumn() createdAt!: Date
}

export interface CapabilityDiscovery {
  /** Words that set its samples apart. */
  words: string[]
  /** Prompts, shortened. */
  examples: string[]
  /** Keys of its samples (see DiscoveryOutput). */
  samples: string[]
  /** Of the clustering that showed it last. */
  silhouette: number
  /** The model that showed it last. */
  modelId: string
}

@Entity('ProbeDatasets')
@Index('UX_ProbeDatasets_Name', ['tenantId', 'name', 'version'], { unique: true })
export class ProbeDataset {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @NameColumn() name!: string
  @IntegerColumn() version!: number
  /** Payload: the JSONL as stored. */
  @HashColumn() probeSetHash!: string
  @IntegerColumn() sampleCount!: number
  @TimeColumn() createdAt!: Date
}

/** How many samples a probe set has for a capability (a leaf of the taxonomy). */
@Entity('ProbeSamples')
@Index('IX_ProbeSamples_Dataset', ['probeDatasetId', 'slug'], { unique: true })
export class ProbeSampleCount {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ProbeDataset)
  @IdColumn()
  probeDatasetId!: string
  /** Slug of the capability in the taxonomy. */
  @NameColumn({}, 200) slug!: string
  @IntegerColumn() probeCount!: number
  @IntegerColumn() validationCount!: number
}

/** One finished analysis of a model on a probe set. */
@Entity('CapabilityAnalyses')
@Index('IX_CapabilityAnalyses_Model', ['modelId', 'id'])
export class CapabilityAnalysis {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  @ForeignKey(() => ProbeDataset)
  @IdColumn()
  probeDatasetId!: string
  @IdColumn() jobId!: string
  @IntegerColumn({ nullable: true }) samplesPerCapability!: number | null
  /** Scores per capability on the probe split (CapabilityScoreOutput[]). */
  @JsonColumn() baseline!: unknown
  /** Per layer, over all samples; angular distances since they are measured. */
  @JsonColumn() layers!: {
    layerIndex: number
    blockInfluence: number
    activationNorm: number
    angularDistances?: number[]
    activation?: StoredActivation
  }[]
  /** LayerClusterOutput[], MaskedGroupOutput[] and the samples dropped by capability; null in analyses of earlier versions. */
  @JsonColumn({ nullable: true }) clusters!: object[] | null
  @JsonColumn({ nullable: true }) maskedGroups!: object[] | null
  @JsonColumn({ nullable: true }) droppedSamples!: { capability: string; count: number }[] | null
  /** Payload of the layers' mean outputs per capability, as SafeTensors. */
  @HashColumn({ nullable: true }) centroidsHash!: string | null
  @TimeColumn() createdAt!: Date
}

/** Statistics of a layer's output (ActivationOutput). */
export interface StoredActivation {
  mean: number
  standardDeviation: number
  rms: number
  maximum: number
  kurtosis: number
}

@Entity('ModelLayerCapabilities')
@Index('UX_ModelLayerCapabilities', ['analysisId', 'layerIndex', 'slug'], { unique: true })
export class ModelLayerCapability {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => CapabilityAnalysis)
  @IdColumn()
  analysisId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  @IntegerColumn() layerIndex!: number
  /** Capability slug. */
  @NameColumn({}, 200) slug!: string
  /** 0 to 1: lossIncrease over the greatest of the capability's layers. */
  @RealColumn() capabilityScore!: number
  /** Nats per completion token when the layer is skipped. */
  @RealColumn() lossIncrease!: number
  @RealColumn() blockInfluence!: number
  /** Over this capability's samples; null in analyses of earlier versions. */
  @JsonColumn({ nullable: true }) activation!: StoredActivation | null
}

/** What one analysis measured for the attention heads of one layer and one capability. */
@Entity('ModelHeadImportance')
@Index('UX_ModelHeadImportance', ['analysisId', 'layerIndex', 'slug'], { unique: true })
export class ModelHeadImportance {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => CapabilityAnalysis)
  @IdColumn()
  analysisId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  @IntegerColumn() layerIndex!: number
  /** Capability slug. */
  @NameColumn({}, 200) slug!: string
  @IntegerColumn() keyValueHeadCount!: number
  /** By query head: |d loss / d gate|, nats per completion token. */
  @JsonColumn() importance!: number[]
  /** By query head: entropy of what it attends to, nats; null in analyses of earlier versions. */
  @JsonColumn({ nullable: true }) entropy!: number[] | null
}
