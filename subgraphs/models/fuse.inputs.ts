// Inputs and payloads of fuseLayers and unfuseModel.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { Fusion } from '../../lib/fusion.js'
import { UserError } from '../build/common-types.js'
import { FusionEnum } from '../build/fusion-input.js'
import { JobReference, Model } from './model.type.js'

@InputType({ description: 'Which model to fuse, and from which speed-up on.' })
export class FuseLayersInput {
  @Field(() => ID, {
    description: 'The model. One that was fused here begins anew with what it was before, where that is kept.',
  })
  modelId!: string
  @Field(() => Float, {
    nullable: true,
    description:
      'Least speed-up for a fusion to be applied: time without it over time with it, median of the rounds, of decoding a token, or of reading a prompt where decoding does it already. 0 to 1,000; default: 1.2.',
  })
  threshold?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether the threshold is held against all that can be applied at once, instead of each fusion by itself; default: false.',
  })
  together?: boolean | null
  @Field(() => [FusionEnum], { nullable: true, description: 'What is tried; default: everything.' })
  only?: Fusion[] | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Largest difference of a logit that is allowed, as a share of the greatest one at its position, above 0 to 1; default: 0.0001 (sums in another order stay below 0.00001).',
  })
  tolerance?: number | null
  @Field(() => Int, { nullable: true, description: 'Rounds of timing in turns, 3 to 101; default: 9.' })
  rounds?: number | null
  @Field(() => ID, {
    nullable: true,
    description: 'Probe set on whose validation split outputs are compared; default: the built-in one.',
  })
  probeDatasetId?: string | null
  @Field(() => String, {
    nullable: true,
    description: 'Name of the new model, 1 to 200 characters; default: from the old one.',
  })
  name?: string | null
  @Field(() => String, { nullable: true, description: 'Same key and input: same result. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({
  description:
    'The job that times and fuses. Its output has `rows`: every fusion with its places, its measured speed-up in decoding and in prompts and whether it is applied; `check`: how far outputs moved. Its `model` is the fused one, or the one it was asked for where nothing reached the threshold.',
})
export class FuseLayersPayload {
  @Field(() => JobReference, { nullable: true, description: 'The job.' })
  job?: JobReference | null
  @Field(() => [UserError], { description: 'What was wrong with the input; empty where all went well.' })
  userErrors!: UserError[]
}

@InputType({ description: 'Which fused model to give back as it was.' })
export class UnfuseModelInput {
  @Field(() => ID, { description: 'The fused model; it stays.' })
  modelId!: string
  @Field(() => String, {
    nullable: true,
    description: 'Name where the model has to be registered anew, 1 to 200 characters; default: from the fused one.',
  })
  name?: string | null
}

@ObjectType({ description: 'The model as it was before fusing.' })
export class UnfuseModelPayload {
  @Field(() => Model, {
    nullable: true,
    description: 'The model with the very tensors from before: itself where it is still there, else registered anew.',
  })
  model?: Model | null
  @Field(() => [UserError], { description: 'Why nothing was done; empty otherwise.' })
  userErrors!: UserError[]
}
