// capability.analyze: the baseline of every capability, and what each layer and each attention head does for it.
import { capabilitiesOf } from '../probing/evaluate.js'
import { headImportance } from '../probing/head-importance.js'
import { layerInfluence } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { encodeSamples } from '../probing/scoring.js'
import { openAnalysisRecords, openHeadRecords } from './analysis-records.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

export const analyzeCapabilities: Handler<'capability.analyze'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ model, scorer, heads }) => {
    const set = await parseProbeSet(await context.payloads.get(input.probeSet))
    const samples = selectSamples(set, { split: 'probe', samplesPerCapability: input.samplesPerCapability })
    const encoded = await encodeSamples(model, samples, input.maxTokens, context.signal)
    const records = await openAnalysisRecords(context.dataFolder, input.manifest, model.layerCount)
    const capabilities = capabilitiesOf(samples)
    const influence = await layerInfluence(scorer, model.layerCount, encoded, capabilities, {
      records,
      progress: ({ completed, total, samplesDone, samplesReused }) => {
        const metrics = { tokensPerSecond: Math.round(scorer.tokensPerSecond), samplesDone, samplesReused }
        context.progress({ stage: 'layers', completed, total, unit: 'tokens', metrics })
      },
    })
    const importance = await headImportance(heads, encoded, capabilities, {
      signal: context.signal,
      records: await openHeadRecords(context.dataFolder, input.manifest, heads.layerCount * heads.headCount),
      progress: ({ measured, reused, total }) => {
        const metrics = { samplesDone: measured, samplesReused: reused }
        context.progress({ stage: 'heads', completed: measured + reused, total, unit: 'samples', metrics })
      },
    })
    return {
      ...influence,
      heads: importance.map(({ capability, layers }) => ({
        capability,
        keyValueHeadCount: heads.keyValueHeadCount,
        layers: layers.map(layer => layer.heads),
      })),
    }
  })
