// How a student's matrices are rounded in the end, as people ask for it and as a recipe shows it.
import { Field, Float, InputType, Int, ObjectType } from 'type-graphql'
import type { EmbeddingQuantization, Quantization } from '../../lib/quantization.js'
import {
  maximumBytesDescription,
  minimumQualityDescription,
  QuantizationMethodEnum,
  TableQuantizationEnum,
  WeightTypeEnum,
} from '../build/quantization-input.js'
import { BigIntScalar } from '../build/scalars.js'

const symmetricDescription =
  'true: signed codes around zero; false: codes over a minimum of each block (half a bit per weight more in blocks of 32).'
const blockSizeDescription =
  'Weights that share a scale: 32, 64 or 128. Where rows are no whole blocks, the next smaller size is taken.'
const raisedDescription =
  'Roles of matrices, as layers.3.down in the student’s numbering, that get 8 bits although the type is INT4.'

@InputType({ description: 'How a student’s matrices are rounded to codes: the last step of its build.' })
export class RecipeQuantizationInput {
  @Field(() => WeightTypeEnum, { description: 'Codes of the layers’ matrices.' })
  type!: Quantization['type']
  @Field(() => Boolean, { nullable: true, description: `${symmetricDescription} Default: true.` })
  symmetric?: boolean | null
  @Field(() => Int, { nullable: true, description: `${blockSizeDescription} Default: 32.` })
  blockSize?: number | null
  @Field(() => QuantizationMethodEnum, {
    nullable: true,
    description: 'How codes are found; default: CALIBRATED.',
  })
  method?: Quantization['method'] | null
  @Field(() => TableQuantizationEnum, {
    nullable: true,
    description: 'The table of embeddings, where the head is a table of its own; default: INT8.',
  })
  embeddings?: EmbeddingQuantization | null
  @Field(() => TableQuantizationEnum, {
    nullable: true,
    description: 'The head, and the embeddings where both are one table; default: INT8.',
  })
  head?: EmbeddingQuantization | null
  @Field(() => [String], { nullable: true, description: `${raisedDescription} Default: none.` })
  raised?: string[] | null
  @Field(() => Int, { nullable: true, description: 'Tokens to calibrate with, 32 to 1,000,000; default: 8192.' })
  calibrationTokens?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Validation samples per capability that the student is compared on, before and after; default: 8.',
  })
  samplesPerCapability?: number | null
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
    nullable: true,
    description:
      'Takes the values of a parent that came quantised as if they were the full-precision ones; refused otherwise. Default: false.',
  })
  requantize?: boolean | null
}

@ObjectType({ description: 'How a recipe rounds its student’s matrices.' })
export class RecipeQuantization {
  @Field(() => WeightTypeEnum, { description: 'Codes of the layers’ matrices.' })
  type!: Quantization['type']
  @Field(() => Boolean, { description: symmetricDescription })
  symmetric!: boolean
  @Field(() => Int, { description: blockSizeDescription })
  blockSize!: number
  @Field(() => QuantizationMethodEnum, { description: 'How codes are found.' })
  method!: Quantization['method']
  @Field(() => TableQuantizationEnum, { description: 'The table of embeddings, where the head is a table of its own.' })
  embeddings!: EmbeddingQuantization
  @Field(() => TableQuantizationEnum, { description: 'The head, and the embeddings where both are one table.' })
  head!: EmbeddingQuantization
  @Field(() => [String], { description: raisedDescription })
  raised!: string[]
  @Field(() => Int, { description: 'Tokens it is calibrated with.' })
  calibrationTokens!: number
  @Field(() => BigIntScalar, { nullable: true, description: 'Largest result in bytes; null: no limit.' })
  maximumBytes!: number | null
  @Field(() => Float, {
    nullable: true,
    description: 'Least exp(-KL divergence from the model before); null: none.',
  })
  minimumQuality!: number | null
  @Field(() => Boolean, { description: 'Whether rounded values are taken as if they were the full-precision ones.' })
  requantize!: boolean
}
