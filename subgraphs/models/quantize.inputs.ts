// Input and payload of quantizeModel.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { EmbeddingQuantization, Quantization } from '../../lib/quantization.js'
import { UserError } from '../build/common-types.js'
import {
  QuantizationMethodEnum,
  TableQuantizationEnum,
  quantizationTexts as texts,
  WeightTypeEnum,
} from '../build/quantization-input.js'
import { BigIntScalar } from '../build/scalars.js'
import { JobReference } from './model.type.js'

@InputType({ description: 'Which model to quantise, and how.' })
export class QuantizeModelInput {
  @Field(() => ID, {
    description:
      'The model. One that was quantised here is quantised anew from its full-precision source, where that is kept.',
  })
  modelId!: string
  @Field(() => WeightTypeEnum, { description: texts.type })
  type!: Quantization['type']
  @Field(() => Boolean, {
    defaultValue: true,
    description: texts.symmetric,
  })
  symmetric!: boolean
  @Field(() => Int, {
    defaultValue: 32,
    description: texts.blockSize,
  })
  blockSize!: number
  @Field(() => QuantizationMethodEnum, { defaultValue: 'CALIBRATED', description: `${texts.method}.` })
  method!: Quantization['method']
  @Field(() => TableQuantizationEnum, {
    defaultValue: 'INT8',
    description: `${texts.embeddings}.`,
  })
  embeddings!: EmbeddingQuantization
  @Field(() => TableQuantizationEnum, {
    defaultValue: 'INT8',
    description: `${texts.head}.`,
  })
  head!: EmbeddingQuantization
  @Field(() => [String], {
    nullable: true,
    description: 'Roles of matrices, as layers.3.down, that get 8 bits although the type is INT4.',
  })
  raised?: string[] | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description: texts.maximumBytes,
  })
  maximumBytes?: number | bigint | null
  @Field(() => Float, {
    nullable: true,
    description: texts.minimumQuality,
  })
  minimumQuality?: number | null
  @Field(() => Boolean, {
    defaultValue: false,
    description:
      'Takes the values of a model that came quantised as if they were the full-precision ones; refused otherwise.',
  })
  requantize!: boolean
  @Field(() => ID, {
    nullable: true,
    description:
      'Probe set to calibrate with (probe split) and to compare on (validation split); default: the built-in one.',
  })
  probeDatasetId?: string | null
  @Field(() => Int, {
    nullable: true,
    description: 'Validation samples per capability that both models are compared on; default: 8.',
  })
  samplesPerCapability?: number | null
  @Field(() => Int, { nullable: true, description: texts.calibrationTokens })
  calibrationTokens?: number | null
  @Field(() => String, {
    nullable: true,
    description: 'Name of the new model, 1 to 200 characters; default: from the old one.',
  })
  name?: string | null
  @Field(() => String, {
    nullable: true,
    description:
      'Up to 200 characters of the caller’s choice: the same key and input give the same result instead of a second one.',
  })
  idempotencyKey?: string | null
}

@ObjectType({
  description:
    'The job that quantises; its `model` is the new one, its output has `comparison`: KL divergence, top-1 agreement, perplexity per capability, bytes and tokens per second against the model before.',
})
export class QuantizeModelPayload {
  @Field(() => JobReference, { nullable: true, description: 'The job that quantises.' })
  job?: JobReference | null
  @Field(() => [UserError], { description: 'What was wrong with the input; empty where all went well.' })
  userErrors!: UserError[]
}
