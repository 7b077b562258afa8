// What an analysis of a model found: how well it does per capability, and what each layer has to do with it.
import { Field, Float, ID, Int, ObjectType } from 'type-graphql'
import { ProbeSplit } from '../build/probe-split.js'

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
  @Field(() => Date, { description: 'When it was finished.' })
  createdAt!: Date
  modelRowId!: string
  jobRowId!: string
  probeDatasetRowId!: string
  scores!: CapabilityScore[]
}
