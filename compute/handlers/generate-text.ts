// `model.generate`: text of a model, streamed piece by piece; models stay open between jobs of this process, whose generations run as one batch.
import { createHash } from 'node:crypto'
import { generate } from '../inference/generate.js'
import { createModelCache, type ModelCache } from '../inference/model-cache.js'
import { prefixStore } from '../inference/prefix-store.js'
import type { Handler } from './handler.js'

let cache: ModelCache | undefined

/** Another attempt at a job draws what the first one drew. */
const seedOf = (jobId: string) => createHash('sha256').update(jobId).digest().readUInt32LE()

/** Generates text. Throws what opening a model throws, NO_TOKENIZER, BAD_USER_INPUT, CONTEXT_LENGTH_EXCEEDED, NOT_A_NUMBER. */
export const generateText: Handler<'model.generate'> = ({ manifest, ...request }, context) => {
  cache ??= createModelCache(undefined, prefixStore(context.env.HARTONOMOUS_PREFIX_BYTES))
  return cache.use(manifest, context, ({ model, tokenizer }) =>
    generate(model, tokenizer, request, {
      signal: context.signal,
      onDelta: delta => context.delta(delta),
      defaultSeed: seedOf(context.jobId),
    }),
  )
}
