// students.propose: per capability students of two or three sizes, or within a budget the Pareto set of size and quality; searched on the
// probe split and measured on the validation split.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { JobInput, LayerAnalysisOutput, ProposalOutput } from '../pool/job-types.js'
import { qualityInterval } from '../probing/bootstrap.js'
import { capabilitiesOf, summarise } from '../probing/evaluate.js'
import { gatesWithout, stackWithout } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import {
  objectiveOf,
  proposalSizes,
  proposedSets,
  rangeReason,
  removeGreedily,
  searchPasses,
} from '../probing/propose.js'
import { type EncodedSample, encodeSamples, type RowScore, type Scorer } from '../probing/scoring.js'
import { paretoCuts, searchCuts } from '../probing/search-cuts.js'
import type { Stack } from '../probing/stacks.js'
import { parameterCountOf, toRanges } from '../surgery/extract-layers.js'
import type { Handler } from './handler.js'
import { type MeasuringContext, withScoringModel } from './scoring-model.js'

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
  return withTokens(samples, scores)
}

const withTokens = (samples: readonly EncodedSample[], scores: readonly RowScore[]) =>
  samples.map(({ completionTokens }, i) => ({ completionTokens, nll: scores[i]!.nll, exact: scores[i]!.exact }))
type SampleScores = ReturnType<typeof withTokens>

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
  { kept, objective }: { kept: readonly number[]; objective: string },
  skipLosses: readonly number[],
  student: { loss: number; scores: SampleScores },
  parent: { loss: number; scores: SampleScores },
): ProposalOutput {
  const { layerCount } = manifest.dimensions
  return {
    capability,
    name: `${input.modelName}-${capability.replaceAll('_', '-')}-${kept.length}of${layerCount}`,
    objective,
    layers: toRanges(kept).map(range => ({ ...range, reason: rangeReason(range, skipLosses, capability) })),
    parameterCount: parameterCountOf(manifest, kept),
    quality: Math.exp(parent.loss - student.loss),
    qualityInterval: qualityInterval(student.scores, parent.scores),
    studentLoss: student.loss,
    parentLoss: parent.loss,
  }
}

/** Share of the budget for the search; what it finds is measured in the rest. */
const searchShare = 0.8

/** The Pareto set of one capability within its share of the budget. */
async function proposeWithin(
  seconds: number,
  input: JobInput<'students.propose'>,
  { manifest, scorer }: MeasuringContext,
  { capability, probe, validation, skipLosses }: CapabilityPlan,
  { smallest, most }: { smallest: number; most: number },
  done: () => void,
): Promise<ProposalOutput[]> {
  const { layerCount } = manifest.dimensions
  const begin = performance.now()
  const measure = async (samples: readonly EncodedSample[], sets: readonly Stack[]) => {
    const measured = await scorer.scoreStacks(samples, sets, { done })
    return measured.map(own => {
      const scores = withTokens(samples, own)
      return { scores, loss: summarise(samples, scores, [capability])[0]!.loss }
    })
  }
  const byLayer = [...input.layers].sort((a, b) => a.layerIndex - b.layerIndex)
  const { cuts } = await searchCuts(
    {
      layerCount,
      skipLosses,
      blockInfluence: byLayer.map(l => l.capabilities.find(c => c.capability === capability)!.blockInfluence),
      angularDistances: byLayer.map(l => l.angularDistances ?? []),
    },
    smallest,
    async sets => (await measure(probe, sets)).map(({ loss }) => loss),
    () => searchShare * seconds - (performance.now() - begin) / 1000,
  )
  const chosen = paretoCuts(cuts, most)
  const [parent, ...students] = await measure(validation, [stackWithout(layerCount), ...chosen.map(cut => cut.kept)])
  return chosen.map(({ kept, origin }, i) => {
    const objective = `${objectiveOf(capability, { kept: [...kept], smallestWhole: false }, layerCount)}, the best found among ${cuts.length} cuts measured (${origin})`
    return describe(input, manifest, capability, { kept, objective }, skipLosses, students[i]!, parent!)
  })
}

export const proposeStudents: Handler<'students.propose'> = (input, context) =>
  withScoringModel(input.manifest, context, async opened => {
    const { manifest, model, scorer } = opened
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

    if (input.budgetSeconds !== undefined) {
      const { budgetSeconds } = input
      const begin = performance.now()
      const elapsed = () => (performance.now() - begin) / 1000
      const found: ProposalOutput[] = []
      for (const [i, plan] of plans.entries()) {
        // What one capability leaves over, the next ones have.
        const seconds = (budgetSeconds - elapsed()) / (plans.length - i)
        const report = () => {
          const metrics = { capability: plan.capability, proposals: found.length }
          const completed = Math.min(budgetSeconds, elapsed())
          context.progress({ stage: 'search', completed, total: budgetSeconds, unit: 'seconds', metrics })
        }
        found.push(...(await proposeWithin(seconds, input, opened, plan, { smallest, most }, report)))
      }
      const metrics = { proposals: found.length, tokensPerSecond: Math.round(scorer.tokensPerSecond) }
      context.progress({ stage: 'search', completed: budgetSeconds, total: budgetSeconds, unit: 'seconds', metrics })
      return { proposals: found }
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
        proposals.push(
          describe(
            input,
            manifest,
            capability,
            { kept: set.kept, objective: objectiveOf(capability, set, layerCount) },
            skipLosses,
            student,
            parent,
          ),
        )
      }
      before += planned[i]!
    }
    const metrics = { proposals: proposals.length, tokensPerSecond: Math.round(scorer.tokensPerSecond) }
    context.progress({ stage: 'search', completed: total, total, unit: 'tokens', metrics })
    return { proposals }
  })
