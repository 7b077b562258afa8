// Evaluations: how a model does on a capability, measured at some time on some probe set.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { ModelEvaluation } from '../../db/entities/index.js'
import { UserError } from '../build/common-types.js'
import { connectionOf } from '../build/connection.js'
import { ProbeSplit } from '../build/probe-split.js'
import { Job } from './references.js'

export const splitNames = { PROBE: 'probe', VALIDATION: 'validation' } as const satisfies Record<ProbeSplit, string>

@ObjectType({
  description: 'One measurement of a model on a capability: mean negative log-likelihood over completion tokens.',
})
export class Evaluation {
  @Field(() => ID, { description: 'Id of the measurement.' })
  id!: string
  @Field(() => ProbeSplit, { description: 'The half of the probe set it was measured on.' })
  split!: ProbeSplit
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
  @Field(() => Date, { description: 'When it was finished.' })
  createdAt!: Date
  /** The row, for the resolvers. */
  row!: ModelEvaluation
}

export const EvaluationConnection = connectionOf('Evaluation', () => Evaluation)

export const toEvaluation = (row: ModelEvaluation): Evaluation =>
  Object.assign(new Evaluation(), {
    id: row.id,
    split: row.split === 'probe' ? 'PROBE' : 'VALIDATION',
    loss: row.loss,
    perplexity: row.perplexity,
    accuracy: row.accuracy,
    sampleCount: row.sampleCount,
    interval: row.lossInterval,
    createdAt: row.createdAt,
    row,
  })

@InputType({ description: 'Which model to measure on what.' })
export class EvaluateModelInput {
  @Field(() => ID, { description: 'The model.' })
  modelId!: string
  @Field(() => ID, { nullable: true, description: 'The probe set; default: the newest version of the product’s own.' })
  probeDatasetId?: string | null
  @Field(() => ProbeSplit, { defaultValue: 'VALIDATION', description: 'The half of it.' })
  split!: ProbeSplit
  @Field(() => [String], {
    nullable: true,
    description: 'Slugs of top-level capabilities; default: all of the probe set.',
  })
  capabilities?: string[] | null
  @Field(() => Int, {
    nullable: true,
    description:
      'At most this many samples per capability, taken evenly over its sub-capabilities: 1 to 100,000; default: all.',
  })
  samplesPerCapability?: number | null
  @Field(() => String, { nullable: true, description: 'Same key and input: same job. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What came of the wish to measure.' })
export class EvaluateModelPayload {
  @Field(() => Job, { nullable: true, description: 'The job that measures.' })
  job?: Job | null
  @Field(() => [UserError], { description: 'Why nothing was queued; empty otherwise.' })
  userErrors!: UserError[]
}
