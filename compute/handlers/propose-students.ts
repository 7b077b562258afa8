// students.propose: per capability students of two sizes, searched on the probe split and measured on the validation split.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { JobInput, LayerAnalysisOutput, ProposalOutput } from '../pool/job-types.js'
import { capabilitiesOf, summarise } from '../probing/evaluate.js'
import { gatesWithout } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { proposalSizes, rangeReason, removeGreedily, searchPasses } from '../probing/propose.js'
import { type EncodedSample, encodeSamples, type Scorer } from '../probing/scoring.js'
import { parameterCountOf, toRanges } from '../surgery/extract-layers.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

/** Layers that a student lacks, as gates. */
const gatesFor = (layerCount: number, kept: readonly number[]) =>
  gatesWithout(
    layerCount,
    Array.from({ length: layerCount }, (_, i) => i).filter(layer => !kept.includes(layer)),
  )

/** Loss of one capability's samples for each set of kept layers, in one series of batches. */
async function lossesOf(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  keptSets: readonly (readonly number[])[],
  done: (tokens: number) => void,
): Promise<number[]> {
  const rows = keptSets.flatMap(kept => {
    const gates = gatesFor(layerCount, kept)
    return samples.map(sample => ({ ...sample, gates }))
  })
  const scores = await scorer.scoreRows(rows, { done })
  return keptSets.map((_, k) => {
    const own = scores.slice(k * samples.length, (k + 1) * samples.length)
    return summarise(samples, own, capabilitiesOf(samples))[0]!.loss
  })
}

/** @throws BAD_USER_INPUT where the analysis is of another model or lacks the capability */
function skipLossesOf(analysis: readonly LayerAnalysisOutput[], layerCount: number, capability: string): number[] {
  return Array.from({ length: layerCount }, (_, layer) => {
    const found = analysis.find(a => a.layerIndex === layer)?.capabilities.find(c => c.capability === capability)
    if (found) return found.lossIncrease
    throw new DomainError(
      'BAD_USER_INPUT',
      `The analysis says nothing about layer ${layer} and ${capability}; analyse the model first`,
      {
        field: ['input', 'modelId'],
      },
    )
  })
}

function describe(
  input: JobInput<'students.propose'>,
  manifest: Manifest,
  capability: string,
  kept: readonly number[],
  skipLosses: readonly number[],
  studentLoss: number,
  parentLoss: number,
): ProposalOutput {
  const { layerCount } = manifest.dimensions
  const task = capability.replaceAll(/[_-]/g, ' ')
  return {
    capability,
    name: `${input.modelName}-${capability.replaceAll('_', '-')}-${kept.length}of${layerCount}`,
    objective: `${task} with ${kept.length} of ${layerCount} layers`,
    layers: toRanges(kept).map(range => ({ ...range, reason: rangeReason(range, skipLosses, capability) })),
    parameterCount: parameterCountOf(manifest, kept),
    quality: Math.exp(parentLoss - studentLoss),
    studentLoss,
    parentLoss,
  }
}

export const proposeStudents: Handler<'students.propose'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ manifest, model, scorer }) => {
    const { layerCount } = manifest.dimensions
    const { samplesPerCapability, maxTokens } = input
    const set = await parseProbeSet(await context.payloads.get(input.probeSet))
    const first = Array.from({ length: layerCount }, (_, i) => i)
    const sizes = proposalSizes(
      layerCount,
      kept => parameterCountOf(manifest, first.slice(0, kept)),
      input.maximumParameters,
    )
    const wanted = [...new Set(input.capabilities ?? capabilitiesOf(set))]
    const encode = (split: 'probe' | 'validation', capability: string) =>
      encodeSamples(model, selectSamples(set, { split, capabilities: [capability], samplesPerCapability }), maxTokens)
    const plans = wanted.map(capability => ({
      capability,
      probe: encode('probe', capability),
      validation: encode('validation', capability),
      skipLosses: skipLossesOf(input.layers, layerCount, capability),
    }))

    const tokens = (samples: readonly EncodedSample[]) => samples.reduce((sum, s) => sum + s.ids.length, 0)
    const passes = searchPasses(layerCount, Math.min(...sizes))
    const total = plans.reduce(
      (sum, p) => sum + passes * tokens(p.probe) + (1 + sizes.length) * tokens(p.validation),
      0,
    )
    let completed = 0
    const proposals: ProposalOutput[] = []
    for (const { capability, skipLosses, probe, validation } of plans) {
      const done = (count: number) => {
        completed += count
        const metrics = { capability, tokensPerSecond: Math.round(scorer.tokensPerSecond), proposals: proposals.length }
        context.progress({ stage: 'search', completed, total, unit: 'tokens', metrics })
      }
      const steps = await removeGreedily(skipLosses, Math.min(...sizes), sets =>
        lossesOf(scorer, layerCount, probe, sets, done),
      )
      const keptSets = sizes.map(size => steps.find(step => step.kept.length === size)!.kept)
      const [parentLoss = 0, ...losses] = await lossesOf(scorer, layerCount, validation, [first, ...keptSets], done)
      keptSets.forEach((kept, i) => {
        proposals.push(describe(input, manifest, capability, kept, skipLosses, losses[i]!, parentLoss))
      })
    }
    return { proposals }
  })
