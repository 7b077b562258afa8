// Analyses and scores: their fields, what models and jobs gain by them, and the mutation that starts one.
import {
  Arg,
  Ctx,
  Field,
  FieldResolver,
  Float,
  ID,
  InputType,
  Int,
  Mutation,
  ObjectType,
  Query,
  Resolver,
  Root,
} from 'type-graphql'
import { fromGlobalId } from '../../lib/ids.js'
import { UserError } from '../build/common-types.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { ProbeSplit } from '../build/probe-split.js'
import {
  analysisOfJob,
  analyzeModel,
  findAnalysis,
  headImportanceOf,
  layerCapabilitiesOf,
  meanOfHeads,
  measuredOn,
  newestAnalysis,
  newestScores,
} from './analysis.service.js'
import {
  CapabilityAnalysis,
  CapabilityScore,
  DroppedSamples,
  HeadImportance,
  LayerAnalysis,
  LayerCapability,
  LayerCluster,
  MaskedGroup,
} from './analysis.type.js'
import { Capability } from './capability.type.js'
import { probeDatasetById, probeDatasetIdOfJob } from './probe-dataset.service.js'
import { ProbeDataset } from './probe-dataset.type.js'
import { Job, jobReference, Model, modelReference } from './references.js'
import { qualitiesOf } from './students.service.js'
import { capabilityById, capabilityOfSlug } from './taxonomy.service.js'

@InputType({ description: 'Which model to analyse on what.' })
export class AnalyzeModelInput {
  @Field(() => ID, { description: 'The model.' })
  modelId!: string
  @Field(() => ID, { nullable: true, description: 'The probe set; default: the newest version of the product’s own.' })
  probeDatasetId?: string | null
  @Field(() => Int, {
    nullable: true,
    description:
      'At most this many samples per capability, taken evenly over its sub-capabilities: 1 to 100,000; default: all.',
  })
  samplesPerCapability?: number | null
  @Field(() => Int, {
    nullable: true,
    description:
      'How many key/value groups, those of the least importance, have their loss measured without them; 0 to 256, default 4. Each costs about half a pass over the samples.',
  })
  maskedGroups?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Seed of the clusterings; default 0. The same seed gives the same clusters.',
  })
  seed?: number | null
  @Field(() => String, { nullable: true, description: 'Same key and input: same job. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What came of the wish to analyse.' })
export class AnalyzeModelPayload {
  @Field(() => Job, { nullable: true, description: 'The job that measures; its result is at `job.analysis`.' })
  job?: Job | null
  @Field(() => [UserError], { description: 'Why nothing was queued; empty otherwise.' })
  userErrors!: UserError[]
}

@ObjectType({
  description: 'How close a student is to its parent on a capability, or to the teacher that its recipe names.',
})
export class CapabilityQuality {
  @Field(() => Capability, { description: 'The capability.' })
  capability!: Capability
  @Field(() => Float, {
    description:
      'exp(-(student loss - that of its parent or named teacher)) on the validation split: 1 is that model, lower is worse.',
  })
  quality!: number
}

@Resolver(() => CapabilityAnalysis)
export class AnalysisResolver {
  @Query(() => CapabilityAnalysis, { nullable: true, description: 'One analysis; null where the id is unknown.' })
  analysis(
    @Arg('id', () => ID, { description: 'Id of the analysis.' }) id: string,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityAnalysis | null> {
    return findAnalysis(context, id)
  }

  @Mutation(() => AnalyzeModelPayload, {
    description: 'Measures, for every layer and capability, what is lost when the layer is skipped.',
  })
  analyzeModel(
    @Arg('input', () => AnalyzeModelInput, { description: 'Model and probe set.' }) input: AnalyzeModelInput,
    @Ctx() context: RequestContext,
  ): Promise<AnalyzeModelPayload> {
    return withUserErrors<AnalyzeModelPayload>(async () => ({ job: jobReference(await analyzeModel(context, input)) }))
  }

  @FieldResolver(() => Model, { description: 'The model that was analysed.' })
  model(@Root() analysis: CapabilityAnalysis): Model {
    return modelReference(analysis.modelRowId)
  }

  @FieldResolver(() => String, {
    nullable: true,
    description:
      'Id of the device it was measured on, such as `cpu-0`; losses measured on WebGPU are known to deviate (docs/devices.md). Null where the job is no longer known.',
  })
  async device(@Root() analysis: CapabilityAnalysis, @Ctx() context: RequestContext): Promise<string | null> {
    return (await measuredOn(context).load(analysis.jobRowId)) ?? null
  }

  @FieldResolver(() => Job, { description: 'The job that measured it.' })
  job(@Root() analysis: CapabilityAnalysis): Job {
    return jobReference(analysis.jobRowId)
  }

  @FieldResolver(() => ProbeDataset, { description: 'The probe set it was measured on.' })
  probeDataset(@Root() analysis: CapabilityAnalysis, @Ctx() context: RequestContext) {
    return probeDatasetById(context).load(analysis.probeDatasetRowId)
  }

  @FieldResolver(() => [CapabilityScore], { description: 'How the whole model does, per capability.' })
  baseline(@Root() analysis: CapabilityAnalysis): CapabilityScore[] {
    return analysis.scores
  }

  @FieldResolver(() => [LayerCluster], {
    description:
      'The layers in clusters by what their outputs look like on each capability’s samples (k-means on the directions of their means, the number of clusters by silhouette); empty in analyses of earlier versions.',
  })
  clusters(
    @Root() analysis: CapabilityAnalysis,
    @Arg('capability', () => String, { nullable: true, description: 'Slug; default: of all capabilities, in order.' })
    capability: string | null | undefined,
  ): LayerCluster[] {
    return analysis.layerClusters.filter(own => !capability || own.slug === capability)
  }

  @FieldResolver(() => [MaskedGroup], {
    description: 'What is really lost without the key/value groups of the least importance, per group and capability.',
  })
  maskedGroups(
    @Root() analysis: CapabilityAnalysis,
    @Arg('capability', () => String, { nullable: true, description: 'Slug; default: of all capabilities.' })
    capability: string | null | undefined,
  ): MaskedGroup[] {
    return analysis.groups.filter(own => !capability || own.slug === capability)
  }

  @FieldResolver(() => [DroppedSamples], {
    description: 'Samples that count nowhere because nothing of their completion fits the limit of tokens.',
  })
  droppedSamples(@Root() analysis: CapabilityAnalysis): DroppedSamples[] {
    return analysis.dropped
  }
}

@Resolver(() => LayerAnalysis)
export class LayerAnalysisResolver {
  @FieldResolver(() => [LayerCapability], { description: 'What the layer has to do with each capability.' })
  async capabilities(@Root() layer: LayerAnalysis, @Ctx() context: RequestContext): Promise<LayerCapability[]> {
    const layers = await layerCapabilitiesOf(context).load(layer.analysisId)
    return layers?.get(layer.layerIndex) ?? []
  }

  @FieldResolver(() => [HeadImportance], {
    description: 'How much each query head matters, in order; empty where the analysis did not measure heads.',
  })
  async heads(
    @Root() layer: LayerAnalysis,
    @Arg('capability', () => String, {
      nullable: true,
      description: 'Slug of a capability of the analysis; default: the mean over all of them.',
    })
    capability: string | null | undefined,
    @Ctx() context: RequestContext,
  ): Promise<HeadImportance[]> {
    const layers = await headImportanceOf(context).load(layer.analysisId)
    return meanOfHeads((layers?.get(layer.layerIndex) ?? []).filter(c => !capability || c.slug === capability))
  }
}

@Resolver(() => LayerCapability)
export class LayerCapabilityResolver {
  @FieldResolver(() => Capability, { description: 'The capability.' })
  capability(@Root() cell: LayerCapability, @Ctx() context: RequestContext): Promise<Capability> {
    return capabilityOfSlug(context, cell.slug)
  }
}

@Resolver(() => CapabilityScore)
export class CapabilityScoreResolver {
  @FieldResolver(() => Capability, { description: 'The capability.' })
  capability(@Root() score: CapabilityScore, @Ctx() context: RequestContext): Promise<Capability> {
    return capabilityOfSlug(context, score.slug)
  }

  @FieldResolver(() => ProbeDataset, { description: 'The probe set it was measured on.' })
  probeDataset(@Root() score: CapabilityScore, @Ctx() context: RequestContext) {
    return probeDatasetById(context).load(score.probeDatasetRowId)
  }
}

@Resolver(() => Model)
export class ModelResolver {
  @FieldResolver(() => CapabilityAnalysis, {
    nullable: true,
    description: 'The newest finished analysis; null where there is none yet.',
  })
  async analysis(
    @Root() model: Model,
    @Arg('probeDatasetId', () => ID, { nullable: true, description: 'Only analyses on this probe set.' })
    probeDatasetId: string | null | undefined,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityAnalysis | null> {
    const modelId = fromGlobalId('Model', model.id)
    const key = probeDatasetId ? `${modelId}/${fromGlobalId('ProbeDataset', probeDatasetId)}` : modelId
    return (await newestAnalysis(context).load(key)) ?? null
  }

  @FieldResolver(() => [CapabilityScore], {
    description: 'The newest measurement per capability and split; empty where nothing was measured yet.',
  })
  async capabilityScores(
    @Root() model: Model,
    @Arg('split', () => ProbeSplit, { nullable: true, description: 'Only this half of the probe sets.' })
    split: ProbeSplit | null | undefined,
    @Arg('level', () => Int, {
      nullable: true,
      description: 'Depth of the capabilities in the tree: 0 (default) top level, 1 sub-capabilities, 2 parts of them.',
    })
    level: number | null | undefined,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityScore[]> {
    const scores = (await newestScores(context).load(fromGlobalId('Model', model.id))) ?? []
    const depth = (slug: string) => slug.split('/').length - 1
    return scores.filter(score => depth(score.slug) === (level ?? 0) && (!split || score.split === split))
  }

  @FieldResolver(() => [CapabilityQuality], {
    description: 'For students: how close they are to their parent, per capability that was measured.',
  })
  async capabilityQualities(@Root() model: Model, @Ctx() context: RequestContext): Promise<CapabilityQuality[]> {
    const qualities = (await qualitiesOf(context).load(fromGlobalId('Model', model.id))) ?? []
    const loaded = await Promise.all(
      qualities.map(async q => ({ quality: q.quality, capability: await capabilityById(context).load(q.taxonomyId) })),
    )
    return loaded.flatMap(({ quality, capability }) => (capability ? [{ quality, capability }] : []))
  }
}

@Resolver(() => Job)
export class JobResolver {
  @FieldResolver(() => CapabilityAnalysis, {
    nullable: true,
    description: 'What a finished analysis found; null on other jobs and before the end.',
  })
  async analysis(@Root() job: Job, @Ctx() context: RequestContext) {
    return (await analysisOfJob(context).load(fromGlobalId('Job', job.id))) ?? null
  }

  @FieldResolver(() => ProbeDataset, {
    nullable: true,
    description: 'What a finished import stored; null on other jobs and before the end.',
  })
  async probeDataset(@Root() job: Job, @Ctx() context: RequestContext) {
    const id = await probeDatasetIdOfJob(context).load(fromGlobalId('Job', job.id))
    return id ? await probeDatasetById(context).load(id) : null
  }
}
