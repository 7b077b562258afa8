// `model.generate`: text of a model, streamed piece by piece; models stay open between jobs of this process.
import { generate } from '../inference/generate.js'
import { createModelCache } from '../inference/model-cache.js'
import type { Handler } from './handler.js'

const cache = createModelCache()

/** Generates text. Throws what opening a model throws, NO_TOKENIZER, BAD_USER_INPUT, CONTEXT_LENGTH_EXCEEDED, NOT_A_NUMBER. */
export const generateText: Handler<'model.generate'> = ({ manifest, ...request }, context) =>
  cache.use(manifest, context, ({ model, tokenizer }) =>
    generate(model, tokenizer, request, { signal: context.signal, onDelta: delta => context.delta(delta) }),
  )
