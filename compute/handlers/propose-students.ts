// students.propose: for each capability and mixture, students of two or three sizes, or within a budget the Pareto set of size and quality;
// searched on the probe split and measured on the validation split.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { decodeCeiling, deviceRoofline, type Roofline } from '../inference/roofline.js'
import type { JobInput, LayerAnalysisOutput, ProposalOutput } from '../pool/job-types.js'
import { weightedQualityInterval } from '../probing/bootstrap.js'
import { type CutTable, openCutTable } from '../probing/cut-table.js'
import { capabilitiesOf } from '../probing/evaluate.js'
import { stackWithout } from '../probing/layer-influence.js'
import { mixture, type Objective, objectiveLoss, sampleRungs, single, weightedMean } from '../probing/objective.js'
import { type ProbeSample, parseProbeSet, type Split, selectSamples, turnsBySubtask } from '../probing/probe-set.js'
import {
  objectiveOf,
  type ProposedSet,
  proposalSizes,
  proposedSets,
  rangeReason,
  removeGreedily,
  searchPasses,
} from '../probing/propose.js'
import { encodeSamples } from '../probing/scoring.js'
import { type CutHints, paretoCuts } from '../probing/search-cuts.js'
import { searchObjective, tokensLeft } from '../probing/search-objective.js'
import type { Stack } from '../probing/stacks.js'
import { parameterCountOf, sizeBytesOf, toRanges } from '../surgery/extract-layers.js'
import { openCutRecords } from './cut-records.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

type Input = JobInput<'students.propose'>

/** Mixtures first: what they measure serves their capabilities too. */
function objectivesOf(input: Input, probes: readonly ProbeSample[]): Objective[] {
  const capabilities = [...new Set(input.capabilities ?? capabilitiesOf(probes))]
  return [...(input.mixtures ?? []).map(m => mixture(m.name, m.weights)), ...capabilities.map(single)]
}

/** A mixture's set costs as many times the samples, and its finds are where the others begin. */
const shareOf = ({ weights }: Objective) => (1 + weights.length) / 2

/** @throws BAD_USER_INPUT where the analysis is of another model or lacks the capability */
function hintsOf(analysis: readonly LayerAnalysisOutput[], layerCount: number, objective: Objective): CutHints {
  const layers = Array.from({ length: layerCount }, (_, layer) => {
    const found = analysis.find(a => a.layerIndex === layer)
    const of = (capability: string) => {
      const figures = found?.capabilities.find(c => c.capability === capability)
      if (figures) return figures
      throw new DomainError(
        'BAD_USER_INPUT',
        `The analysis says nothing about layer ${layer} and ${capability}; analyse the model first`,
        { field: ['input', 'modelId'] },
      )
    }
    return {
      skipLoss: weightedMean(objective, c => of(c).lossIncrease),
      blockInfluence: weightedMean(objective, c => of(c).blockInfluence),
      angles: found?.angularDistances ?? [],
    }
  })
  return {
    layerCount,
    skipLosses: layers.map(l => l.skipLoss),
    blockInfluence: layers.map(l => l.blockInfluence),
    angularDistances: layers.map(l => l.angles),
  }
}

/** What a proposal is made from, besides the cut. */
interface Judge {
  input: Input
  manifest: Manifest
  roofline: Roofline
  quantisedKernels: boolean
  /** The probe split, and the validation split. */
  table: CutTable
  held: CutTable
}

/** The proposal of a cut, measured on these validation samples. */
function describe(
  { input, manifest, roofline, quantisedKernels, table, held }: Judge,
  objective: Objective,
  { kept, text }: { kept: Stack; text: string },
  { skipLosses, layerCount }: CutHints,
  samples: readonly number[],
): ProposalOutput {
  const whole = stackWithout(layerCount)
  const loss = (cut: Stack) => objectiveLoss(objective, held.samples, i => held.nll(cut, i)!, samples)
  const scored = (cut: Stack, own: readonly number[]) =>
    own.map(i => ({ nll: held.nll(cut, i)!, completionTokens: held.samples[i]!.completionTokens }))
  const groups = objective.weights.map(({ capability, weight }) => {
    const own = samples.filter(i => held.samples[i]!.capability === capability)
    return { weight, student: scored(kept, own), parent: scored(whole, own) }
  })
  const [studentLoss, parentLoss] = [loss(kept), loss(whole)]
  const removals = jointRemovals(table, objective, kept)
  const validationTokens = held.samples
    .filter(s => objective.weights.some(w => w.capability === s.capability))
    .reduce((sum, s) => sum + s.ids.length, 0)
  const rate = (table.spentTokens + held.spentTokens) / Math.max(1e-3, table.spentSeconds + held.spentSeconds)
  return {
    capability: objective.weights.length === 1 ? objective.weights[0]!.capability : null,
    ...(objective.weights.length === 1
      ? {}
      : { mixture: { name: objective.name, weights: objective.weights.map(w => ({ ...w })) } }),
    name: `${input.modelName}-${objective.name.replaceAll(/[_\s]+/g, '-')}-${kept.length}of${layerCount}`,
    objective: text,
    layers: toRanges(kept).map(range => ({
      ...range,
      reason: rangeReason(range, skipLosses, objective.name, removals),
    })),
    parameterCount: parameterCountOf(manifest, kept),
    quality: Math.exp(parentLoss - studentLoss),
    qualityInterval: weightedQualityInterval(groups),
    studentLoss,
    parentLoss,
    validationSamples: samples.length,
    sizeBytes: sizeBytesOf(manifest, kept),
    tokensPerSecond: decodeCeiling(roofline, manifest, kept, { quantisedKernels }),
    ...(rate > 0 ? { costSeconds: (validationTokens * (1 + kept.length / layerCount)) / rate } : {}),
  }
}

/** What removing one more layer costs, as far as the search measured it, on the largest selection of samples that knows both. */
function jointRemovals(table: CutTable, objective: Objective, kept: Stack): Map<number, number> {
  const removals = new Map<number, number>()
  const rungs = sampleRungs(objective, table.samples).reverse()
  for (const layer of kept) {
    const without = kept.filter(l => l !== layer)
    const rung = rungs.find(samples => table.knows(kept, samples) && table.knows(without, samples))
    if (!rung) continue
    const loss = (cut: Stack) => objectiveLoss(objective, table.samples, i => table.nll(cut, i)!, rung)
    removals.set(layer, loss(without) - loss(kept))
  }
  return removals
}

/** Share of an objective's budget for the search; what it finds is measured in the rest. */
const searchShare = 0.75

/** The Pareto set of one objective within its share of the budget. */
async function proposeWithin(
  judge: Judge,
  objective: Objective,
  hints: CutHints,
  { smallest, most, sizes }: { smallest: number; most: number; sizes: readonly number[] },
  left: () => number,
): Promise<ProposalOutput[]> {
  const reserve = (1 - searchShare) * left()
  const found = await searchObjective(judge.table, objective, hints, { smallest, focus: sizes }, () => left() - reserve)
  const chosen = paretoCuts(found.cuts, most)
  const cuts = [stackWithout(hints.layerCount), ...chosen.map(cut => cut.kept)]
  const rungs = sampleRungs(objective, judge.held.samples)
  // As many held-out samples as what is left affords; of several selections of one cost the largest.
  const samples = rungs.findLast(rung => judge.held.cost(cuts, rung) <= left()) ?? rungs[0]!
  await judge.held.measure(cuts, samples)
  return chosen.map(({ kept, origin }) => {
    const text = `${objectiveOf(objective, { kept, smallestWhole: false }, hints.layerCount)}, the best found among ${found.tried} cuts measured (${origin}; ${found.samples} samples searched, ${samples.length} others judged)`
    return describe(judge, objective, { kept, text }, hints, samples)
  })
}

/** Two or three sizes by a short greedy search on all samples. */
async function proposeSizes(
  judge: Judge,
  objective: Objective,
  hints: CutHints,
  { smallest, most, sizes }: { smallest: number; most: number; sizes: readonly number[] },
): Promise<ProposalOutput[]> {
  const { table, held } = judge
  const among = sampleRungs(objective, table.samples).at(-1)!
  const search = await removeGreedily(hints.skipLosses, smallest, async kept => {
    await table.measure([kept], among)
    return objectiveLoss(objective, table.samples, i => table.nll(kept, i)!, among)
  })
  const sets: ProposedSet[] = proposedSets(search, sizes, most)
  const samples = sampleRungs(objective, held.samples).at(-1)!
  await held.measure([stackWithout(hints.layerCount), ...sets.map(set => set.kept)], samples)
  return sets.map(set =>
    describe(judge, objective, { kept: set.kept, text: objectiveOf(objective, set, hints.layerCount) }, hints, samples),
  )
}

export const proposeStudents: Handler<'students.propose'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ manifest, model, scorer }) => {
    const { layerCount } = manifest.dimensions
    const { samplesPerCapability, maxTokens, budgetSeconds, budgetTokens } = input
    const probes = await parseProbeSet(await context.payloads.get(input.probeSet))
    const all = stackWithout(layerCount)
    const limits = proposalSizes(
      layerCount,
      kept => parameterCountOf(manifest, all.slice(0, kept)),
      input.maximumParameters,
    )
    const smallest = Math.min(...limits.sizes)
    const wanted = { ...limits, smallest }
    const objectives = objectivesOf(input, probes)
    const capabilities = [...new Set(objectives.flatMap(o => o.weights.map(w => w.capability)))]
    const encode = (split: Split) =>
      encodeSamples(
        model,
        turnsBySubtask(selectSamples(probes, { split, capabilities, samplesPerCapability })),
        maxTokens,
        context.signal,
      )
    const [probe, validation] = [await encode('probe'), await encode('validation')]
    const hints = objectives.map(objective => hintsOf(input.layers, layerCount, objective))
    const records = await openCutRecords(context.dataFolder, input.manifest)
    let report = () => {}
    const done = () => report()
    const table = openCutTable(scorer, layerCount, probe, { records, done })
    const held = openCutTable(scorer, layerCount, validation, { records, done })
    const roofline = await deviceRoofline(context)
    const quantisedKernels = context.env.HARTONOMOUS_KERNELS === 'quantised'
    const judge: Judge = { input, manifest, roofline, quantisedKernels, table, held }
    const proposals: ProposalOutput[] = []
    const spent = () => table.spentTokens + held.spentTokens
    const progress = (objective: Objective | undefined, completed: number, total: number, unit: string) =>
      context.progress({
        stage: 'search',
        completed: Math.min(completed, total),
        total,
        unit,
        metrics: {
          ...(objective ? { capability: objective.name } : {}),
          tokensPerSecond: Math.round(scorer.tokensPerSecond),
          proposals: proposals.length,
        },
      })

    if (budgetSeconds === undefined && budgetTokens === undefined) {
      const tokens = (t: CutTable, { weights }: Objective) =>
        t.samples.reduce((sum, s) => sum + (weights.some(w => w.capability === s.capability) ? s.ids.length : 0), 0)
      // The plan is what the searches may cost at most; usually they stop earlier.
      const planned = objectives.map(
        o => searchPasses(layerCount, smallest) * tokens(table, o) + (1 + wanted.sizes.length) * tokens(held, o),
      )
      const total = planned.reduce((sum, n) => sum + n, 0)
      let before = 0
      for (const [i, objective] of objectives.entries()) {
        const start = spent()
        report = () => progress(objective, before + Math.min(planned[i]!, spent() - start), total, 'tokens')
        proposals.push(...(await proposeSizes(judge, objective, hints[i]!, wanted)))
        before += planned[i]!
      }
      progress(undefined, total, total, 'tokens')
      return { proposals }
    }

    const begin = performance.now()
    const elapsed = () => (performance.now() - begin) / 1000
    // Both tables count: the held-out samples are paid for too.
    const both = {
      get spentTokens() {
        return spent()
      },
      get spentSeconds() {
        return table.spentSeconds + held.spentSeconds
      },
    }
    const budgets = [
      ...(budgetSeconds === undefined ? [] : [tokensLeft(both, { seconds: budgetSeconds })]),
      ...(budgetTokens === undefined ? [] : [tokensLeft(both, { tokens: budgetTokens })]),
    ]
    const whole = () => Math.min(...budgets.map(left => left()))
    // The speed is known before the first search plans with it.
    await table.measure([all], sampleRungs(objectives[0]!, table.samples)[0]!)
    for (const [i, objective] of objectives.entries()) {
      report = () => {
        if (budgetTokens === undefined) progress(objective, elapsed(), budgetSeconds!, 'seconds')
        else progress(objective, spent(), budgetTokens, 'tokens')
      }
      report()
      // What one objective leaves over, the next ones have.
      const later = objectives.slice(i).reduce((sum, o) => sum + shareOf(o), 0)
      const left = partOf(whole, shareOf(objective) / later)
      proposals.push(...(await proposeWithin(judge, objective, hints[i]!, wanted, left)))
    }
    const total = budgetTokens ?? budgetSeconds!
    progress(undefined, total, total, budgetTokens === undefined ? 'seconds' : 'tokens')
    return { proposals }
  })

/** A part of what is left now, spent first. */
function partOf(whole: () => number, share: number): () => number {
  const rest = (1 - share) * whole()
  return () => whole() - rest
}
