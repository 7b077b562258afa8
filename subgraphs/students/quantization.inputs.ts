// How a student's matrices are rounded in the end, as people ask for it and as a recipe shows it.
import { Field, Float, InputType, Int, ObjectType } from 'type-graphql'
import type { EmbeddingQuantization, Quantization } from '../../lib/quantization.js'
import {
  QuantizationMethodEnum,
  TableQuantizationEnum,
  quantizationTexts as texts,
  WeightTypeEnum,
} from '../build/quantization-input.js'
import { BigIntScalar } from '../build/scalars.js'

const raisedDescription =
  'Roles of matrices, as layers.3.down in the student’s numbering, that get 8 bits although the type is INT4.'

@InputType({ description: 'How a student’s matrices are rounded to codes: the last step of its build.' })
export class RecipeQuantizationInput {
  @Field(() => WeightTypeEnum, { description: texts.type })
  type!: Quantization['type']
  @Field(() => Boolean, { nullable: true, description: `${texts.symmetric} Default: true.` })
  symmetric?: boolean | null
  @Field(() => Int, { nullable: true, description: `${texts.blockSize} Default: 32.` })
  blockSize?: number | null
  @Field(() => QuantizationMethodEnum, {
    nullable: true,
    description: `${texts.method}; default: CALIBRATED.`,
  })
  method?: Quantization['method'] | null
  @Field(() => TableQuantizationEnum, {
    nullable: true,
    description: `${texts.embeddings}; default: INT8.`,
  })
  embeddings?: EmbeddingQuantization | null
  @Field(() => TableQuantizationEnum, {
    nullable: true,
    description: `${texts.head}; default: INT8.`,
  })
  head?: EmbeddingQuantization | null
  @Field(() => [String], { nullable: true, description: `${raisedDescription} Default: none.` })
  raised?: string[] | null
  @Field(() => Int, { nullable: true, description: texts.calibrationTokens })
  calibrationTokens?: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Validation samples per capability that the student is compared on, before and after; default: 8.',
  })
  samplesPerCapability?: number | null
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
    nullable: true,
    description:
      'Takes the values of a parent that came quantised as if they were the full-precision ones; refused otherwise. Default: false.',
  })
  requantize?: boolean | null
}

@ObjectType({ description: 'How a recipe rounds its student’s matrices.' })
export class RecipeQuantization {
  @Field(() => WeightTypeEnum, { description: texts.type })
  type!: Quantization['type']
  @Field(() => Boolean, { description: texts.symmetric })
  symmetric!: boolean
  @Field(() => Int, { description: texts.blockSize })
  blockSize!: number
  @Field(() => QuantizationMethodEnum, { description: `${texts.method}.` })
  method!: Quantization['method']
  @Field(() => TableQuantizationEnum, { description: `${texts.embeddings}.` })
  embeddings!: EmbeddingQuantization
  @Field(() => TableQuantizationEnum, { description: `${texts.head}.` })
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
