// Input and payload of quantizeModel.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { EmbeddingQuantization, Quantization } from '../../lib/quantization.js'
import { UserError } from '../build/common-types.js'
import {
  maximumBytesDescription,
  minimumQualityDescription,
  QuantizationMethodEnum,
  TableQuantizationEnum,
  WeightTypeEnum,
} from '../build/quantization-input.js'
import { BigIntScalar } from '../build/scalars.js'
import { JobStub } from './model.type.js'

@InputType({ description: 'Which model to quantise, and how.' })
export class QuantizeModelInput {
  @Field(() => ID, {
    description:
      'The model. One that was quantised here is quantised anew from its full-precision source, where that is kept.',
  })
  modelId!: string
  @Field(() => WeightTypeEnum, { description: 'Codes of the layers’ matrices.' })
  type!: Quantization['type']
  @Field(() => Boolean, {
    defaultValue: true,
    description:
      'true: signed codes around zero; false: codes over a minimum of each block (half a bit per weight more in blocks of 32).',
  })
  symmetric!: boolean
  @Field(() => Int, {
    defaultValue: 32,
    description:
      'Weights that share a scale: 32, 64 or 128. Where rows are no whole blocks, the next smaller size is taken.',
  })
  blockSize!: number
  @Field(() => QuantizationMethodEnum, { defaultValue: 'CALIBRATED', description: 'How codes are found.' })
  method!: Quantization['method']
  @Field(() => TableQuantizationEnum, {
    defaultValue: 'INT8',
    description: 'The table of embeddings, where the head is a table of its own.',
  })
  embeddings!: EmbeddingQuantization
  @Field(() => TableQuantizationEnum, {
    defaultValue: 'INT8',
    description: 'The head, and the embeddings where both are one table.',
  })
  head!: EmbeddingQuantization
  @Field(() => [String], {
    nullable: true,
    description: 'Roles of matrices, as layers.3.down, that get 8 bits although the type is INT4.',
  })
  raised?: string[] | null
  @Field(() => BigIntScalar, {
    nullable: true,
    description: maximumBytesDescription,
  })
  maximumBytes?: number | bigint | null
  @Field(() => Float, {
    nullable: true,
    description: minimumQualityDescription,
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
  @Field(() => Int, { nullable: true, description: 'Tokens to calibrate with, 32 to 1,000,000; default: 8192.' })
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
  @Field(() => JobStub, { nullable: true, description: 'The job that quantises.' })
  job?: JobStub | null
  @Field(() => [UserError], { description: 'What was wrong with the input; empty where all went well.' })
  userErrors!: UserError[]
}
