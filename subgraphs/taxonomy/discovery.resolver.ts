// What people make of capabilities that analyses found: names, merges, dismissals.
import { Arg, Ctx, Field, ID, InputType, Mutation, ObjectType, Resolver } from 'type-graphql'
import { UserError } from '../build/common-types.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { Capability } from './capability.type.js'
import { dismissCapability, mergeCapability, renameCapability } from './discovery.service.js'

@InputType({ description: 'Which capability that an analysis found gets which name.' })
export class RenameCapabilityInput {
  @Field(() => ID, { description: 'The capability; one that an analysis found.' })
  capabilityId!: string
  @Field(() => String, { description: 'Its name, 1 to 100 characters.' })
  name!: string
  @Field(() => String, { nullable: true, description: 'What it covers, up to 2,000 characters; default: as it was.' })
  description?: string | null
}

@InputType({ description: 'Which capability that an analysis found is really which other one.' })
export class MergeCapabilityInput {
  @Field(() => ID, { description: 'The capability; one that an analysis found.' })
  capabilityId!: string
  @Field(() => ID, { description: 'What it really is: any capability that was not set aside.' })
  intoCapabilityId!: string
}

@InputType({ description: 'Which capability that an analysis found is nothing.' })
export class DismissCapabilityInput {
  @Field(() => ID, { description: 'The capability; one that an analysis found.' })
  capabilityId!: string
}

@ObjectType({ description: 'What became of the capability.' })
export class CapabilityPayload {
  @Field(() => Capability, { nullable: true, description: 'The capability as it is now.' })
  capability?: Capability | null
  @Field(() => [UserError], { description: 'Why nothing was changed; empty otherwise.' })
  userErrors!: UserError[]
}

@Resolver()
export class DiscoveryResolver {
  @Mutation(() => CapabilityPayload, {
    description: 'Gives a capability that an analysis found its name; it is ESTABLISHED from then on.',
  })
  renameCapability(
    @Arg('input', () => RenameCapabilityInput, { description: 'Capability and name.' }) input: RenameCapabilityInput,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityPayload> {
    return withUserErrors<CapabilityPayload>(async () => ({ capability: await renameCapability(context, input) }))
  }

  @Mutation(() => CapabilityPayload, {
    description: 'Says that a capability that an analysis found is another one; it is not proposed again.',
  })
  mergeCapability(
    @Arg('input', () => MergeCapabilityInput, { description: 'What is merged into what.' }) input: MergeCapabilityInput,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityPayload> {
    return withUserErrors<CapabilityPayload>(async () => ({ capability: await mergeCapability(context, input) }))
  }

  @Mutation(() => CapabilityPayload, {
    description: 'Says that a capability that an analysis found is nothing; it is not proposed again.',
  })
  dismissCapability(
    @Arg('input', () => DismissCapabilityInput, { description: 'The capability.' }) input: DismissCapabilityInput,
    @Ctx() context: RequestContext,
  ): Promise<CapabilityPayload> {
    return withUserErrors<CapabilityPayload>(async () => ({ capability: await dismissCapability(context, input) }))
  }
}
