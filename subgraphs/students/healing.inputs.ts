// How a student is trained after its teacher, as people ask for it and as a recipe shows it.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import {
  type Healing as HealingParameters,
  hiddenLossKinds,
  learningRateSchedules,
  loraDefaults,
  loraTargets,
  trainedParts,
} from '../../lib/healing.js'
import { registerValues } from '../build/common-types.js'

type Values<T extends readonly string[]> = Record<T[number], string>

export const TrainedPart = registerValues('TrainedPart', 'What of a model is trained.', {
  ALL: 'Every weight.',
  LAYERS: 'The weights of the layers in `layers`.',
  NORMS: 'The weights of the norms: few numbers, little memory.',
  LORA: 'Low-rank changes of linear layers (arXiv 2106.09685), added to the weights at the end.',
} satisfies Values<typeof trainedParts>)
export type TrainedPart = keyof typeof TrainedPart

export const LearningRateSchedule = registerValues(
  'LearningRateSchedule',
  'How the learning rate goes after its rise.',
  {
    COSINE: 'Half a cosine, down to 0 behind the last step.',
    LINEAR: 'A line down to 0 behind the last step.',
    CONSTANT: 'It stays.',
  } satisfies Values<typeof learningRateSchedules>,
)
export type LearningRateSchedule = keyof typeof LearningRateSchedule

export const HiddenLoss = registerValues('HiddenLoss', 'How far a hidden state is from the teacher’s.', {
  MSE: 'Squared distance over the squared length of the teacher’s.',
  COSINE: '1 - cosine.',
} satisfies Values<typeof hiddenLossKinds>)
export type HiddenLoss = keyof typeof HiddenLoss

export const LoraTarget = registerValues('LoraTarget', 'A linear layer that low-rank changes are made to.', {
  q: 'Queries.',
  k: 'Keys.',
  v: 'Values.',
  qkv: 'Queries, keys and values in one, where the model has them so.',
  o: 'Output of attention.',
  gate: 'Gate of the feed-forward block.',
  up: 'First matrix of the feed-forward block.',
  down: 'Last matrix of the feed-forward block.',
} satisfies Values<typeof loraTargets>)
export type LoraTarget = keyof typeof LoraTarget

@InputType({ description: 'Low-rank changes.' })
export class LoraInput {
  @Field(() => Int, { nullable: true, description: 'Rank, 1 to 1,024; default: 16.' })
  rank?: number | null
  @Field(() => Float, { nullable: true, description: 'The change is scaled by alpha / rank; default: 32.' })
  alpha?: number | null
  @Field(() => [LoraTarget], { nullable: true, description: 'Which linear layers; default: all but qkv.' })
  targets?: LoraTarget[] | null
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether the changes are kept beside the weights they are added to, so that exportModel can write them as a PEFT adapter; default: false.',
  })
  keepAdapter?: boolean | null
}

@InputType({ description: 'A layer of the student and the layer of the teacher it shall be like.' })
export class LayerPairInput {
  @Field(() => Int, { description: 'Layer of the student, from 0.' })
  student!: number
  @Field(() => Int, { description: 'Layer of the teacher, from 0.' })
  teacher!: number
}

@InputType({
  description:
    'Training of a student after its teacher: the teacher’s probabilities of the next token (forward divergence), mixed with the texts themselves where asked. Held-out samples decide whether the result is kept.',
})
export class HealingInput {
  @Field(() => ID, {
    nullable: true,
    description:
      'Texts: its probe split is trained on, its validation split is held out; no prompt is in both. Any JSONL becomes one by importProbeDataset. Default: the newest version of the built-in one.',
  })
  probeDatasetId?: string | null
  @Field(() => [String], {
    nullable: true,
    description: 'Slugs of the capabilities whose texts are used; default: the recipe’s capability, or all.',
  })
  capabilities?: string[] | null
  @Field(() => ID, { nullable: true, description: 'The teacher, with the same tokens; default: the parent.' })
  teacherId?: string | null
  @Field(() => Int, {
    nullable: true,
    description:
      'Tokens to train on, as whole rows, 64 to 100,000,000; texts are taken again where they are fewer. Default: 40,960.',
  })
  tokens?: number | null
  @Field(() => Int, { nullable: true, description: 'Tokens of a row, 8 to 8,192; longer texts are cut. Default: 256.' })
  sequence?: number | null
  @Field(() => Int, { nullable: true, description: 'Rows of one pass; default: 1.' })
  batchRows?: number | null
  @Field(() => Int, { nullable: true, description: 'Passes whose gradients make one step; default: 1.' })
  accumulation?: number | null
  @Field(() => Float, { nullable: true, description: 'The highest learning rate, above 0 to 1; default: 0.0002.' })
  learningRate?: number | null
  @Field(() => LearningRateSchedule, { nullable: true, description: 'How it falls; default: COSINE.' })
  schedule?: LearningRateSchedule | null
  @Field(() => Float, { nullable: true, description: 'Share of the steps in which it rises, 0 to 1; default: 0.1.' })
  warmup?: number | null
  @Field(() => Float, { nullable: true, description: 'Decoupled decay of matrices but the embedding; default: 0.' })
  weightDecay?: number | null
  @Field(() => Float, { nullable: true, description: 'Norm that gradients are scaled down to; default: 1.' })
  clip?: number | null
  @Field(() => TrainedPart, { nullable: true, description: 'What is trained; default: ALL.' })
  train?: TrainedPart | null
  @Field(() => [Int], { nullable: true, description: 'With LAYERS: layers of the student, from 0.' })
  layers?: number[] | null
  @Field(() => LoraInput, { nullable: true, description: 'With LORA: the changes.' })
  lora?: LoraInput | null
  @Field(() => Float, { nullable: true, description: 'Temperature of teacher and student, 0.1 to 10; default: 1.' })
  temperature?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'How many of the teacher’s likeliest tokens are named per position; all others are one. Default: 256.',
  })
  teacherTokens?: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Share of the texts’ own cross-entropy in the loss, 0 to 1; the rest is the divergence from the teacher. Of rows that the student writes itself it takes none. Default: 0.5.',
  })
  crossEntropy?: number | null
  @Field(() => Float, { nullable: true, description: 'Weight of the hidden-state loss, added; default: 0.' })
  hidden?: number | null
  @Field(() => HiddenLoss, { nullable: true, description: 'Its form; default: MSE.' })
  hiddenLoss?: HiddenLoss | null
  @Field(() => Float, { nullable: true, description: 'Weight of the attention loss, added; default: 0.' })
  attention?: number | null
  @Field(() => [LayerPairInput], {
    nullable: true,
    description:
      'Which layers these two compare; default: those before each cut with the last layer that was cut out behind them; where nothing was cut out each with its own.',
  })
  layerMapping?: LayerPairInput[] | null
  @Field(() => Float, {
    nullable: true,
    description: 'What a prompt’s token counts beside a completion’s, 0 to 1; default: 0.2.',
  })
  promptWeight?: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Share of the rows that the student writes itself, 0 to 1: answers to the data’s prompts, sampled from its weights anew every `checkpointSteps`, which the teacher judges token by token (generalised knowledge distillation). Needs the divergence: `crossEntropy` below 1. Default: 0.',
  })
  onPolicy?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description: 'Whether all capabilities get equally many completion tokens; default: true.',
  })
  balanced?: boolean | null
  @Field(() => Int, {
    nullable: true,
    description: 'Of the order of texts; the same seed gives the same student. Default: 1.',
  })
  seed?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Looks at held-out loss during training; the best one’s weights are kept. Default: 4.',
  })
  looks?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Looks without improvement that end training; default: it goes to the end.',
  })
  patience?: number | null
  @Field(() => Int, { nullable: true, description: 'Held-out samples per capability; default: 8.' })
  heldOutSamples?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether the backward pass computes each layer’s inside anew instead of keeping it: a third more work, a fraction of the memory. Default: where the free memory would not hold it.',
  })
  recompute?: boolean | null
  @Field(() => Int, { nullable: true, description: 'Steps between two checkpoints; default: 20.' })
  checkpointSteps?: number | null
}

@InputType({ description: 'A model to be trained after a teacher.' })
export class DistillStudentInput extends HealingInput {
  @Field(() => ID, { description: 'The model; it stays as it is, the trained one is its student.' })
  modelId!: string
  @Field(() => String, {
    nullable: true,
    description: 'Name of recipe and student, 1 to 200 characters; default: from the model’s.',
  })
  name?: string | null
  @Field(() => String, {
    nullable: true,
    description: 'Slug of the capability it is for and is measured on; default: all.',
  })
  capability?: string | null
  @Field(() => String, { nullable: true, description: 'Same key and input: same result. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'Low-rank changes, as a recipe makes them.' })
export class LowRankChanges {
  @Field(() => Int, { description: 'Rank.' })
  rank!: number
  @Field(() => Float, { description: 'The change is scaled by alpha / rank.' })
  alpha!: number
  @Field(() => [LoraTarget], { description: 'Which linear layers are changed.' })
  targets!: LoraTarget[]
  @Field(() => Boolean, {
    description: 'Whether they are kept beside the weights they are added to, for an export as a PEFT adapter.',
  })
  keepAdapter!: boolean
}

@ObjectType({ description: 'How a recipe trains its student.' })
export class Healing {
  @Field(() => Int, { description: 'Tokens trained on.' })
  tokens!: number
  @Field(() => Int, { description: 'Tokens of a row.' })
  sequence!: number
  @Field(() => Int, { description: 'Rows of one step.' })
  rowsPerStep!: number
  @Field(() => Float, { description: 'The highest learning rate.' })
  learningRate!: number
  @Field(() => LearningRateSchedule, { description: 'How it falls.' })
  schedule!: LearningRateSchedule
  @Field(() => TrainedPart, { description: 'What is trained.' })
  train!: TrainedPart
  @Field(() => LowRankChanges, {
    nullable: true,
    description: 'With LORA: the changes; null where other parts are trained.',
  })
  lora!: LowRankChanges | null
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether the backward pass computes each layer’s inside anew; null: where the free memory would not hold it.',
  })
  recompute!: boolean | null
  @Field(() => Float, { description: 'Share of cross-entropy in the loss.' })
  crossEntropy!: number
  @Field(() => Float, { description: 'Temperature of the divergence from the teacher.' })
  temperature!: number
  @Field(() => Float, { description: 'Weight of the hidden-state loss.' })
  hidden!: number
  @Field(() => Float, { description: 'Weight of the attention loss.' })
  attention!: number
  @Field(() => Int, { description: 'Of the order of texts.' })
  seed!: number
}

export const toHealing = ({ batchRows, accumulation, lora, recompute, ...row }: HealingParameters): Healing =>
  Object.assign(new Healing(), {
    ...row,
    rowsPerStep: batchRows * accumulation,
    lora: row.train === 'LORA' ? { ...loraDefaults, ...lora, keepAdapter: lora?.keepAdapter ?? false } : null,
    recompute: recompute ?? null,
  })
