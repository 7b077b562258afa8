// students.propose: per capability students of two or three sizes, searched on the probe split and measured on the validation split.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { JobInput, LayerAnalysisOutput, ProposalOutput } from '../pool/job-types.js'
import { qualityInterval } from '../probing/bootstrap.js'
import { capabilitiesOf, summarise } from '../probing/evaluate.js'
import { gatesWithout } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import {
  objectiveOf,
  type ProposedSet,
  proposalSizes,
  proposedSets,
  rangeReason,
  removeGreedily,
  searchPasses,
} from '../probing/propose.js'
import { type EncodedSample, encodeSamples, type Scorer } from '../probing/scoring.js'
import { parameterCountOf, toRanges } from '../surgery/extract-layers.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

interface CapabilityPlan {
  capability: string
  /** The search runs on these, the proposals' quality is measured on `validation`. */
  probe: EncodedSample[]
  validation: EncodedSample[]
  skipLosses: number[]
}

/** Layers that a student lacks, as gates. */
const gatesFor = (layerCount: number, kept: readonly number[]) =>
  gatesWithout(
    layerCount,
    Array.from({ length: layerCount }, (_, i) => i).filter(layer => !kept.includes(layer)),
  )

/** Summed losses of one capability's samples with only these layers kept. */
async function scoresOf(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  kept: readonly number[],
  done: (tokens: number) => void,
) {
  const gates = gatesFor(layerCount, kept)
  const scores = await scorer.scoreRows(
    samples.map(sample => ({ ...sample, gates })),
    { done },
  )
  return samples.map(({ completionTokens }, i) => ({ completionTokens, nll: scores[i]!.nll, exact: scores[i]!.exact }))
}
type SampleScores = Awaited<ReturnType<typeof scoresOf>>

/** @throws BAD_USER_INPUT where the analysis is of another model or lacks the capability */
function skipLossesOf(analysis: readonly LayerAnalysisOutput[], layerCount: number, capability: string): number[] {
  return Array.from({ length: layerCount }, (_, layer) => {
    const found = analysis.find(a => a.layerIndex === layer)?.capabilities.find(c => c.capability === capability)
    if (found) return found.lossIncrease
    throw new DomainError(
      'BAD_USER_INPUT',
      `The analysis says nothing about layer ${layer} and ${capability}; analyse the model first`,
      { field: ['input', 'modelId'] },
    )
  })
}

function describe(
  input: JobInput<'students.propose'>,
  manifest: Manifest,
  capability: string,
  set: ProposedSet,
  skipLosses: readonly number[],
  student: { loss: number; scores: SampleScores },
  parent: { loss: number; scores: SampleScores },
): ProposalOutput {
  const { layerCount } = manifest.dimensions
  const { kept } = set
  return {
    capability,
    name: `${input.modelName}-${capability.replaceAll('_', '-')}-${kept.length}of${layerCount}`,
    objective: objectiveOf(capability, set, layerCount),
    layers: toRanges(kept).map(range => ({ ...range, reason: rangeReason(range, skipLosses, capability) })),
    parameterCount: parameterCountOf(manifest, kept),
    quality: Math.exp(parent.loss - student.loss),
    qualityInterval: qualityInterval(student.scores, parent.scores),
    studentLoss: student.loss,
    parentLoss: parent.loss,
  }
}

export const proposeStudents: Handler<'students.propose'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ manifest, model, scorer }) => {
    const { layerCount } = manifest.dimensions
    const { samplesPerCapability, maxTokens } = input
    const probes = await parseProbeSet(await context.payloads.get(input.probeSet))
    const all = Array.from({ length: layerCount }, (_, i) => i)
    const { sizes, most } = proposalSizes(
      layerCount,
      kept => parameterCountOf(manifest, all.slice(0, kept)),
      input.maximumParameters,
    )
    const smallest = Math.min(...sizes)
    const wanted = [...new Set(input.capabilities ?? capabilitiesOf(probes))]
    const encode = (split: 'probe' | 'validation', capability: string) =>
      encodeSamples(
        model,
        selectSamples(probes, { split, capabilities: [capability], samplesPerCapability }),
        maxTokens,
        context.signal,
      )
    const plans: CapabilityPlan[] = []
    for (const capability of wanted) {
      plans.push({
        capability,
        probe: await encode('probe', capability),
        validation: await encode('validation', capability),
        skipLosses: skipLossesOf(input.layers, layerCount, capability),
      })
    }

    const tokens = (samples: readonly EncodedSample[]) => samples.reduce((sum, s) => sum + s.ids.length, 0)
    const planned = plans.map(
      ({ probe, validation }) =>
        searchPasses(layerCount, smallest) * tokens(probe) + (1 + sizes.length) * tokens(validation),
    )
    const total = planned.reduce((sum, n) => sum + n, 0)
    const proposals: ProposalOutput[] = []
    let before = 0
    for (const [i, { capability, skipLosses, probe, validation }] of plans.entries()) {
      let spent = 0
      const done = (count: number) => {
        // The plan is what the search may cost at most; usually it stops earlier.
        spent = Math.min(spent + count, planned[i]!)
        const metrics = { capability, tokensPerSecond: Math.round(scorer.tokensPerSecond), proposals: proposals.length }
        context.progress({ stage: 'search', completed: before + spent, total, unit: 'tokens', metrics })
      }
      const measure = async (samples: readonly EncodedSample[], kept: readonly number[]) => {
        const scores = await scoresOf(scorer, layerCount, samples, kept, done)
        return { scores, loss: summarise(samples, scores, [capability])[0]!.loss }
      }
      const search = await removeGreedily(skipLosses, smallest, async kept => (await measure(probe, kept)).loss)
      const parent = await measure(validation, all)
      for (const set of proposedSets(search, sizes, most)) {
        const student = await measure(validation, set.kept)
        proposals.push(describe(input, manifest, capability, set, skipLosses, student, parent))
      }
      before += planned[i]!
    }
    const metrics = { proposals: proposals.length, tokensPerSecond: Math.round(scorer.tokensPerSecond) }
    context.progress({ stage: 'search', completed: total, total, unit: 'tokens', metrics })
    return { proposals }
  })
