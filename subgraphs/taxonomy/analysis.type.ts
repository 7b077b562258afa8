// What an analysis of a model found: how well it does per capability, and what each layer has to do with it.
import { Field, Float, ID, Int, ObjectType } from 'type-graphql'
import { registerValues } from '../build/common-types.js'
import { ProbeSplit } from '../build/probe-split.js'

export const LayerClusterRoleEnum = registerValues(
  'LayerClusterRole',
  'What a cluster of layers does for a capability.',
  {
    CARRIES:
      'Skipping its layers costs the capability at least 1.25 times as much as it costs the others, each by the mean of its own layers; or every capability most of all. Of a single capability: 1.25 times the mean of all layers.',
    SUPPORTS: 'In between.',
    IDLE: 'Its layers cost less than 0.35 times the mean of the capability’s layers (those that carry every capability left out), or nothing, when skipped.',
  },
)

@ObjectType({
  description:
    'How a model does on a capability: mean negative log-likelihood over the completion tokens of its samples, prompts given.',
})
export class CapabilityScore {
  @Field(() => Float, { description: 'Nats per completion token; lower is better.' })
  loss!: number
  @Field(() => Float, { description: 'exp(loss).' })
  perplexity!: number
  @Field(() => Float, {
    nullable: true,
    description:
      'Share of samples (0 to 1) whose every completion token is the most probable one, the tokens before it given.',
  })
  accuracy!: number | null
  @Field(() => Int, { description: 'Samples measured.' })
  sampleCount!: number
  @Field(() => [Float], {
    nullable: true,
    description:
      '95 % interval of the loss, [lower, upper] in nats per completion token, by bootstrap over the samples (seeded, 2,000 draws); null where fewer than two samples were measured, and for measurements of earlier versions.',
  })
  interval!: number[] | null
  @Field(() => ProbeSplit, { description: 'The half of the probe set it was measured on.' })
  split!: ProbeSplit
  @Field(() => Date, { description: 'When the measurement was finished.' })
  measuredAt!: Date
  slug!: string
  probeDatasetRowId!: string
}

@ObjectType({
  description:
    'How large a layer’s outputs are, over hidden units and all tokens but the first of each sample, which in most models carries a value far beyond all others.',
})
export class ActivationStatistics {
  @Field(() => Float, { description: 'Mean.' })
  mean!: number
  @Field(() => Float, { description: 'Standard deviation.' })
  standardDeviation!: number
  @Field(() => Float, { description: 'Root mean square.' })
  rms!: number
  @Field(() => Float, { description: 'Greatest absolute value.' })
  maximum!: number
  @Field(() => Float, {
    description:
      'How far few hidden units stand out: mean over tokens of mean(x⁴) / mean(x²)² over the units. 3 for a normal distribution, up to the hidden size where one unit holds everything (He et al., arXiv 2405.19279).',
  })
  kurtosis!: number
}

@ObjectType({ description: 'What a layer has to do with a capability, measured by skipping it.' })
export class LayerCapability {
  @Field(() => Float, {
    description:
      'lossIncrease over the greatest of this capability’s layers: 1 is the most important layer, 0 an idle one.',
  })
  score!: number
  @Field(() => Float, {
    description:
      'Nats per completion token added when the layer is skipped (its input goes on unchanged); negative where skipping helps.',
  })
  lossIncrease!: number
  @Field(() => Float, { description: 'Block influence over this capability’s samples only, 0 to 2.' })
  blockInfluence!: number
  @Field(() => ActivationStatistics, {
    nullable: true,
    description: 'The layer’s outputs on this capability’s samples; null in analyses of earlier versions.',
  })
  activation!: ActivationStatistics | null
  slug!: string
}

@ObjectType({
  description: 'How much an attention head matters, by the gradient of the loss for a gate on its output.',
})
export class HeadImportance {
  @Field(() => Int, { description: 'Index of the query head in its layer, from 0.' })
  headIndex!: number
  @Field(() => Int, { description: 'Index of the key/value head that it shares; heads of one index are cut together.' })
  keyValueHeadIndex!: number
  @Field(() => Float, {
    description:
      'Mean over samples of |d loss / d gate|, nats per completion token (Michel et al. 2019, arXiv 1905.10650); 0 is a head that changes nothing.',
  })
  importance!: number
  @Field(() => Float, {
    nullable: true,
    description:
      'Entropy of what the head attends to, nats, mean over samples and their positions but the first: 0 is a head that looks at one token only, ln(n) one that looks at n alike. Null in analyses of earlier versions.',
  })
  attentionEntropy!: number | null
}

@ObjectType({
  description:
    'Layers whose mean outputs on a capability’s samples differ from those on all capabilities in the same way, and what they do for it. One cluster of all layers where two halves of the samples do not agree on groups.',
})
export class LayerCluster {
  @Field(() => [Int], { description: 'Indices of its layers, ascending.' })
  layers!: number[]
  @Field(() => Float, {
    description:
      'How well its layers fit together and apart from others, -1 to 1 (mean silhouette); 0 for a single layer.',
  })
  silhouette!: number
  @Field(() => Float, {
    nullable: true,
    description:
      'How far the clusters of two halves of the capability’s samples agree: 1 fully, 0 as by chance (adjusted Rand index); null where there are too few samples, or an earlier version measured it.',
  })
  stability!: number | null
  @Field(() => Float, { description: 'Mean of its layers’ loss increase when skipped, nats per completion token.' })
  lossIncrease!: number
  @Field(() => LayerClusterRoleEnum, { description: 'What it does for the capability, by that figure.' })
  role!: keyof typeof LayerClusterRoleEnum
  @Field(() => String, { description: 'The same in words, with the numbers.' })
  label!: string
  slug!: string
}

@ObjectType({
  description:
    'A key/value head with its query heads whose importance is among the least: what is really lost where they give 0.',
})
export class MaskedGroup {
  @Field(() => Int, { description: 'Index of the layer, from 0.' })
  layerIndex!: number
  @Field(() => Int, { description: 'Index of the key/value head in its layer, from 0.' })
  keyValueHeadIndex!: number
  @Field(() => Float, {
    description:
      'Sum of the importance of its query heads, nats per completion token: what the gradient predicts at most.',
  })
  importance!: number
  @Field(() => Float, { description: 'Nats per completion token added without the group; negative where that helps.' })
  lossIncrease!: number
  @Field(() => [Float], {
    nullable: true,
    description:
      '95 % interval of lossIncrease, [lower, upper], by bootstrap over the samples; null for a single sample.',
  })
  interval!: number[] | null
  slug!: string
}

@ObjectType({ description: 'Samples of a capability that count nowhere.' })
export class DroppedSamples {
  @Field(() => Int, { description: 'Samples whose completion was cut away whole, because the prompt fills the limit.' })
  count!: number
  slug!: string
}

@ObjectType({ description: 'How a model does on a capability.' })
export class ModelCapabilityScore {
  @Field(() => CapabilityScore, { description: 'The measurement.' })
  score!: CapabilityScore
  modelRowId!: string
}

@ObjectType({ description: 'What an analysis measured for one layer.' })
export class LayerAnalysis {
  @Field(() => Int, { description: 'Index of the layer, from 0.' })
  layerIndex!: number
  @Field(() => Float, {
    description:
      '1 - mean over tokens of the cosine between the layer’s input and output (ShortGPT, arXiv 2403.03853): 0 is a layer that changes nothing.',
  })
  blockInfluence!: number
  @Field(() => Float, { description: 'Mean L2 norm of the layer’s output over tokens.' })
  activationNorm!: number
  @Field(() => [Float], {
    description:
      'Angular distance of the blocks of 1, 2 … 8 layers that begin with this one, as many as there are: arccos(cos(block input, block output)) / π at the last token, mean over samples, 0 to 1 (Gromov et al., arXiv 2403.17887). Empty in analyses of earlier versions.',
  })
  angularDistances!: number[]
  @Field(() => ActivationStatistics, {
    nullable: true,
    description: 'The layer’s outputs on all samples; null in analyses of earlier versions.',
  })
  activation!: ActivationStatistics | null
  analysisId!: string
}

@ObjectType({ description: 'One finished analysis of a model on the PROBE split of a probe set.' })
export class CapabilityAnalysis {
  @Field(() => ID, { description: 'Id for the query `analysis(id:)`.' })
  id!: string
  @Field(() => Int, {
    nullable: true,
    description: 'At most this many samples were taken per capability; null: all.',
  })
  samplesPerCapability!: number | null
  @Field(() => [LayerAnalysis], { description: 'Every layer of the model, in order.' })
  layers!: LayerAnalysis[]
  @Field(() => String, {
    nullable: true,
    description:
      'SHA-256 of a SafeTensors payload with a tensor per capability, [layers, hidden] in float32: the mean output of each layer over its samples. Null in analyses of earlier versions.',
  })
  centroidsHash!: string | null
  @Field(() => Date, { description: 'When it was finished.' })
  createdAt!: Date
  modelRowId!: string
  jobRowId!: string
  probeDatasetRowId!: string
  scores!: CapabilityScore[]
  layerClusters!: LayerCluster[]
  groups!: MaskedGroup[]
  dropped!: DroppedSamples[]
}
