// model.evaluate: loss, perplexity and accuracy per capability on one split, beside a reference model where one is named.
import type { JobInput } from '../pool/job-types.js'
import { type CapabilityLoss, capabilitiesOf, evaluate } from '../probing/evaluate.js'
import { type ProbeSample, parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { encodeSamples } from '../probing/scoring.js'
import type { Handler, HandlerContext } from './handler.js'
import { withScoringModel } from './scoring-model.js'

const evaluateOne = (
  hash: string,
  stage: string,
  samples: readonly ProbeSample[],
  { maxTokens }: Pick<JobInput<'model.evaluate'>, 'maxTokens'>,
  context: HandlerContext,
): Promise<CapabilityLoss[]> =>
  withScoringModel(hash, context, async ({ model, scorer }) => {
    const encoded = await encodeSamples(model, samples, maxTokens, context.signal)
    const total = encoded.reduce((sum, s) => sum + s.ids.length, 0)
    let completed = 0
    return evaluate(scorer, encoded, capabilitiesOf(samples), tokens => {
      completed += tokens
      const metrics = { tokensPerSecond: Math.round(scorer.tokensPerSecond) }
      context.progress({ stage, completed, total, unit: 'tokens', metrics })
    })
  })

export const evaluateModel: Handler<'model.evaluate'> = async (input, context) => {
  const { split, capabilities, samplesPerCapability } = input
  const set = await parseProbeSet(await context.payloads.get(input.probeSet))
  const samples = selectSamples(set, { split, capabilities, samplesPerCapability })
  const scores = await evaluateOne(input.manifest, 'evaluate', samples, input, context)
  if (!input.reference) return { scores }
  return { scores, reference: await evaluateOne(input.reference, 'reference', samples, input, context) }
}
