// The mutations that fuse a model and give it back.
import { Arg, Ctx, Mutation, Resolver } from 'type-graphql'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { FuseLayersInput, FuseLayersPayload, UnfuseModelInput, UnfuseModelPayload } from './fuse.inputs.js'
import { fuseLayers, unfuseModel } from './fuse.service.js'
import { jobReference, toModel } from './model.type.js'

@Resolver()
export class FuseResolver {
  @Mutation(() => FuseLayersPayload, {
    description:
      'Finds what of a model’s graph can be computed at once, times each on this device in turns with the model as it is, and makes a model that does what reaches the threshold, where outputs stay equal. The model before stays, and unfuseModel gives it back.',
  })
  fuseLayers(
    @Arg('input', () => FuseLayersInput, { description: 'Which model, and from which speed-up on.' })
    input: FuseLayersInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<FuseLayersPayload>(async () => ({ job: jobReference(await fuseLayers(context, input)) }))
  }

  @Mutation(() => UnfuseModelPayload, { description: 'Gives a fused model back as it was before.' })
  unfuseModel(
    @Arg('input', () => UnfuseModelInput, { description: 'Which model.' }) input: UnfuseModelInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<UnfuseModelPayload>(async () => ({ model: toModel(await unfuseModel(context, input)) }))
  }
}
