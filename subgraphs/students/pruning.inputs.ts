// What is removed from the width of a student's layers, as people ask for it and as a recipe shows it.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import { headMetrics, headUnits, neuronMetrics, studentExports } from '../../lib/build-stages.js'
import { registerValues } from '../build/common-types.js'

type Values<T extends readonly string[]> = Record<T[number], string>

export const HeadUnit = registerValues('HeadUnit', 'What is removed of attention.', {
  KEY_VALUE_GROUP:
    'Whole key/value heads with the query heads that share them: also makes the cache of a generation smaller.',
  QUERY_HEAD: 'The same number of query heads from every key/value head.',
} satisfies Values<typeof headUnits>)
export type HeadUnit = keyof typeof HeadUnit

export const HeadMetric = registerValues('HeadMetric', 'How the heads that go are chosen.', {
  TASK_LOSS:
    'Measured: those without which the loss rises least, layer after layer given the ones already gone. Minutes on a device.',
  GRADIENT: 'Size of the loss’s derivative for a gate on the head’s output (Michel et al. 2019): one backward pass.',
  RANDOM: 'By chance, by `seed`: a control for the others.',
  MAGNITUDE: 'Norm of the head’s weights: refused, since it chooses worse than chance; benches compare with it.',
  GIVEN: 'Named one by one in `heads`.',
} satisfies Values<typeof headMetrics>)
export type HeadMetric = keyof typeof HeadMetric

export const NeuronMetric = registerValues('NeuronMetric', 'How the hidden units that stay are chosen.', {
  ACTIVATION: 'Size of what the unit gives on samples (Minitron, arXiv 2407.14679): one forward pass.',
  RANDOM: 'By chance, by `seed`: a control.',
  MAGNITUDE: 'Norm of the unit’s weights: refused; benches compare with it.',
} satisfies Values<typeof neuronMetrics>)
export type NeuronMetric = keyof typeof NeuronMetric

export const StudentExport = registerValues('StudentExport', 'What a student is written as when it is built.', {
  SAFETENSORS: 'A folder that transformers opens.',
  SAFETENSORS_BF16: 'The same, all weights in bfloat16.',
  SAFETENSORS_PARENT: 'The same, all weights in the float type that most of its oldest ancestor’s have.',
  GGUF: 'A GGUF file, tensors in the types they are stored in.',
  GGUF_BF16: 'A GGUF file, matrices in bfloat16.',
  GGUF_PARENT: 'A GGUF file, matrices in the float type that most of its oldest ancestor’s weights have.',
  GGUF_F16: 'A GGUF file, matrices in float16.',
  GGUF_Q8_0: 'A GGUF file, matrices in 8-bit codes.',
  GGUF_Q4_1: 'A GGUF file, matrices in 4-bit codes with a scale and a minimum per block.',
  GGUF_Q4_0: 'A GGUF file, matrices in 4-bit codes with a scale per block.',
  ONNX: 'An ONNX graph with its weights, for transformers.js and onnxruntime-genai.',
  ONNX_F16: 'The same with weights in float16.',
  ONNX_Q8_0: 'The same with matrices in 8-bit codes.',
  ONNX_Q4_0: 'The same with matrices in 4-bit codes.',
} satisfies Values<typeof studentExports>)

const seedDescription = 'Seed of RANDOM; default: 0.'
const correctDescription =
  'Whether the output projections are fitted anew by least squares on half of the samples, each kept only where the loss on the other half falls; default: false.'

@InputType({ description: 'Attention heads to remove.' })
export class HeadPruningInput {
  @Field(() => HeadUnit, { nullable: true, description: 'What is removed; default: KEY_VALUE_GROUP.' })
  unit?: HeadUnit | null
  @Field(() => HeadMetric, { description: 'How they are chosen.' })
  metric!: HeadMetric
  @Field(() => Int, {
    nullable: true,
    description: 'How many go from each layer: groups, or query heads of each group. At least one of each must stay.',
  })
  remove?: number | null
  @Field(() => [Int], { nullable: true, description: 'The same by layer of the student, instead of `remove`.' })
  removePerLayer?: number[] | null
  @Field(() => [[Int]], {
    nullable: true,
    description: 'With GIVEN: by layer of the student the key/value heads or query heads that go, from 0.',
  })
  heads?: number[][] | null
  @Field(() => Int, { nullable: true, description: seedDescription })
  seed?: number | null
  @Field(() => Boolean, { nullable: true, description: correctDescription })
  correct?: boolean | null
}

@InputType({ description: 'Hidden units of feed-forward blocks to keep.' })
export class FeedForwardPruningInput {
  @Field(() => NeuronMetric, { nullable: true, description: 'How they are chosen; default: ACTIVATION.' })
  metric?: NeuronMetric | null
  @Field(() => Int, { nullable: true, description: 'How many stay in each layer, at least 1.' })
  keep?: number | null
  @Field(() => [Int], { nullable: true, description: 'The same by layer of the student, instead of `keep`.' })
  keepPerLayer?: number[] | null
  @Field(() => Int, { nullable: true, description: seedDescription })
  seed?: number | null
  @Field(() => Boolean, { nullable: true, description: correctDescription })
  correct?: boolean | null
}

@InputType({ description: 'Heads to remove from a model, and what the choice is measured on.' })
export class PruneHeadsInput extends HeadPruningInput {
  @Field(() => ID, { description: 'The model; it stays as it is, the pruned one is its student.' })
  modelId!: string
  @Field(() => String, {
    nullable: true,
    description: 'Name of recipe and student, 1 to 200 characters; default: from the model’s.',
  })
  name?: string | null
  @Field(() => String, {
    nullable: true,
    description:
      'Slug of the top-level capability that is to be kept and is measured on; default: all of the probe set.',
  })
  capability?: string | null
  @Field(() => ID, { nullable: true, description: 'Probe set; default: the newest version of the built-in one.' })
  probeDatasetId?: string | null
  @Field(() => Int, { nullable: true, description: 'Samples per capability, 1 to 100,000; default: 8.' })
  samplesPerCapability?: number | null
  @Field(() => String, { nullable: true, description: 'Same key and input: same result. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'Attention heads that a recipe removes.' })
export class HeadPruning {
  @Field(() => HeadUnit, { description: 'What is removed.' })
  unit!: HeadUnit
  @Field(() => HeadMetric, { description: 'How they are chosen.' })
  metric!: HeadMetric
  @Field(() => [Int], { description: 'How many go, by layer of the student: groups, or query heads of each group.' })
  removePerLayer!: number[]
  @Field(() => [[Int]], { nullable: true, description: 'With GIVEN: the ones that go, by layer; null otherwise.' })
  heads!: number[][] | null
  @Field(() => Float, { description: 'Seed of RANDOM.' })
  seed!: number
  @Field(() => Boolean, { description: 'Whether output projections are fitted anew where that helps.' })
  correct!: boolean
}

@ObjectType({ description: 'Hidden units of feed-forward blocks that a recipe keeps.' })
export class FeedForwardPruning {
  @Field(() => NeuronMetric, { description: 'How they are chosen.' })
  metric!: NeuronMetric
  @Field(() => [Int], { description: 'How many stay, by layer of the student.' })
  keepPerLayer!: number[]
  @Field(() => Float, { description: 'Seed of RANDOM.' })
  seed!: number
  @Field(() => Boolean, { description: 'Whether output projections are fitted anew where that helps.' })
  correct!: boolean
}
