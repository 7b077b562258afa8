// Text from models: at once as a mutation, piece by piece as a subscription.
import { Arg, Args, ArgsType, Ctx, Field, ID, Int, Mutation, Resolver, Root, Subscription } from 'type-graphql'
import { fromGlobalId } from '../../lib/ids.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { generate, generateStream, watchGeneration } from './generate.service.js'
import { GenerateInput, GeneratePayload, GenerationEvent } from './generate.type.js'
import { type Job, jobReference } from './references.js'

@ArgsType()
class GenerateStreamArguments {
  @Field(() => GenerateInput, { description: 'Model, prompt and settings.' })
  input!: GenerateInput
}

@ArgsType()
class WatchGenerationArguments {
  @Field(() => ID, { description: 'The generation’s job: `job` of its payload or of its events.' })
  jobId!: string
  @Field(() => Int, {
    nullable: true,
    description: 'Goes on after this token: `index` of the last event that was seen; default: from the first.',
  })
  afterIndex?: number | null
  @Field(() => Int, {
    defaultValue: 0,
    description:
      'Goes on after so many characters: `offset` of the last event that was seen, plus the length of its `textDelta`.',
  })
  afterOffset!: number
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
        job = jobReference(jobId)
      }),
    )
    return { ...payload, job }
  }

  @Subscription(() => GenerationEvent, {
    description:
      'The same piece by piece: every piece in order, then one event with `finishReason` and `usage`, then it completes. The job is cancelled when the last who waits for it or watches it has left.',
    subscribe: ({ args, context }: { args: GenerateStreamArguments; context: RequestContext }) =>
      generateStream(context, args.input) as never,
  })
  generateStream(
    @Root() event: GenerationEvent,
    @Args(() => GenerateStreamArguments) _: GenerateStreamArguments,
  ): GenerationEvent {
    return event
  }

  @Subscription(() => GenerationEvent, {
    description:
      'A generation that somebody else began, or that a lost connection left: from its beginning or from where one was, in the events of `generateStream`. Any number can watch; what a slow reader has missed comes joined.',
    subscribe: ({ args, context }: { args: WatchGenerationArguments; context: RequestContext }) =>
      watchGeneration(context, fromGlobalId('Job', args.jobId, ['jobId']), {
        tokens: (args.afterIndex ?? -1) + 1,
        characters: args.afterOffset,
      }) as never,
  })
  watchGeneration(
    @Root() event: GenerationEvent,
    @Args(() => WatchGenerationArguments) _: WatchGenerationArguments,
  ): GenerationEvent {
    return event
  }
}
