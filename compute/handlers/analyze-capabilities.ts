// capability.analyze: the baseline of every capability, and what each layer does for it.
import { capabilitiesOf } from '../probing/evaluate.js'
import { layerInfluence } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { encodeSamples } from '../probing/scoring.js'
import { openAnalysisRecords } from './analysis-records.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

export const analyzeCapabilities: Handler<'capability.analyze'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ model, scorer }) => {
    const set = await parseProbeSet(await context.payloads.get(input.probeSet))
    const samples = selectSamples(set, { split: 'probe', samplesPerCapability: input.samplesPerCapability })
    const encoded = await encodeSamples(model, samples, input.maxTokens, context.signal)
    const records = await openAnalysisRecords(context.dataFolder, input.manifest, model.layerCount)
    return layerInfluence(scorer, model.layerCount, encoded, capabilitiesOf(samples), {
      records,
      progress: ({ completed, total, samplesDone, samplesReused }) => {
        const metrics = { tokensPerSecond: Math.round(scorer.tokensPerSecond), samplesDone, samplesReused }
        context.progress({ stage: 'layers', completed, total, unit: 'tokens', metrics })
      },
    })
  })
