// Text from models: at once as a mutation, piece by piece as a subscription.
import { Arg, Args, ArgsType, Ctx, Field, Mutation, Resolver, Root, Subscription } from 'type-graphql'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { generate, generateStream } from './generate.service.js'
import { GenerateInput, GeneratePayload, GenerationEvent } from './generate.type.js'
import { type Job, jobStub } from './stubs.js'

@ArgsType()
class GenerateStreamArguments {
  @Field(() => GenerateInput, { description: 'Model, prompt and settings.' })
  input!: GenerateInput
}

@Resolver()
export class GenerateResolver {
  @Mutation(() => GeneratePayload, {
    description: 'Lets a model continue a text or answer a conversation, and waits for all of it.',
  })
  async generate(
    @Arg('input', () => GenerateInput, { description: 'Model, prompt and settings.' }) input: GenerateInput,
    @Ctx() context: RequestContext,
  ): Promise<GeneratePayload> {
    let job: Job | null = null
    const payload = await withUserErrors<GeneratePayload>(() =>
      generate(context, input, jobId => {
        job = jobStub(jobId)
      }),
    )
    return { ...payload, job }
  }

  @Subscription(() => GenerationEvent, {
    description:
      'The same piece by piece: every piece in order, then one event with `finishReason` and `usage`, then it completes. Who leaves cancels the job.',
    subscribe: ({ args, context }: { args: GenerateStreamArguments; context: RequestContext }) =>
      generateStream(context, args.input) as never,
  })
  generateStream(
    @Root() event: GenerationEvent,
    @Args(() => GenerateStreamArguments) _: GenerateStreamArguments,
  ): GenerationEvent {
    return event
  }
}
