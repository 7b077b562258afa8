// Fusing as the last step of a build, as people ask for it and as a recipe shows it.
import { Field, Float, InputType, Int, ObjectType } from 'type-graphql'
import type { Fusion } from '../../lib/fusion.js'
import { FusionEnum } from '../build/fusion-input.js'

@InputType({ description: 'From which speed-up on what of a student’s graph is computed at once.' })
export class RecipeFusionInput {
  @Field(() => Float, { nullable: true, description: 'Least speed-up, 0 to 1,000; default: 1.2.' })
  threshold?: number | null
  @Field(() => Boolean, {
    nullable: true,
    description: 'Whether it is held against all fusions at once instead of each by itself; default: false.',
  })
  together?: boolean | null
  @Field(() => [FusionEnum], { nullable: true, description: 'What is tried; default: everything.' })
  only?: Fusion[] | null
  @Field(() => Float, {
    nullable: true,
    description: 'Largest difference of a logit as a share of the greatest one, above 0 to 1; default: 0.0001.',
  })
  tolerance?: number | null
  @Field(() => Int, { nullable: true, description: 'Rounds of timing in turns, 3 to 101; default: 9.' })
  rounds?: number | null
}

@ObjectType({ description: 'From which speed-up on a recipe computes what of its student’s graph at once.' })
export class RecipeFusion {
  @Field(() => Float, { description: 'Least speed-up.' })
  threshold!: number
  @Field(() => Boolean, { description: 'Whether it is held against all fusions at once.' })
  together!: boolean
  @Field(() => [FusionEnum], { nullable: true, description: 'What is tried; null: everything.' })
  only!: Fusion[] | null
  @Field(() => Float, { description: 'Largest difference of a logit as a share of the greatest one.' })
  tolerance!: number
  @Field(() => Int, { description: 'Rounds of timing in turns.' })
  rounds!: number
}
