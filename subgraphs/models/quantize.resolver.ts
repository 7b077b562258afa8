// The mutation that quantises.
import { Arg, Ctx, Mutation, Resolver } from 'type-graphql'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { jobReference } from './model.type.js'
import { QuantizeModelInput, QuantizeModelPayload } from './quantize.inputs.js'
import { quantizeModel } from './quantize.service.js'

@Resolver()
export class QuantizeResolver {
  @Mutation(() => QuantizeModelPayload, {
    description:
      'Makes a model whose matrices are 4- or 8-bit codes, and measures what that changes. It runs, is cut and exported like any other; as GGUF byte for byte.',
  })
  quantizeModel(
    @Arg('input', () => QuantizeModelInput, { description: 'Which model, and how.' }) input: QuantizeModelInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<QuantizeModelPayload>(async () => ({
      job: jobReference(await quantizeModel(context, input)),
    }))
  }
}
