// students.propose: for each capability and mixture, students of two or three sizes, or within a budget the Pareto set of size and quality;
// searched on the probe split and measured on the validation split.
import { DomainError } from '../../lib/errors.js'
import { deviceRoofline } from '../inference/roofline.js'
import type { JobInput, LayerAnalysisOutput, ProposalOutput } from '../pool/job-types.js'
import type { ProgressReport } from '../pool/progress.js'
import { type CutTable, openCutTable } from '../probing/cut-table.js'
import { capabilitiesOf } from '../probing/evaluate.js'
import { stackWithout } from '../probing/layer-influence.js'
import { mixture, type Objective, objectiveLoss, sampleRungs, single, weightedMean } from '../probing/objective.js'
import { paretoCuts } from '../probing/pareto-cuts.js'
import { type ProbeSample, parseProbeSet, type Split, selectSamples, turnsBySubtask } from '../probing/probe-set.js'
import {
  objectiveOf,
  type ProposedSet,
  proposalSizes,
  proposedSets,
  removeGreedily,
  searchPasses,
  withoutGroupsInWords,
} from '../probing/propose.js'
import { encodeSamples } from '../probing/scoring.js'
import type { CutHints } from '../probing/search-cuts.js'
import { type GroupCut, partsOf, searchGroups } from '../probing/search-groups.js'
import { objectiveMeasures, searchObjective, searchRate, tokensLeft } from '../probing/search-objective.js'
import type { Stack, Variant } from '../probing/stacks.js'
import { expandRanges, parameterCountOf } from '../surgery/extract-layers.js'
import { plannedStudent } from '../surgery/planned-student.js'
import { openCutRecords } from './cut-records.js'
import { type Judge as Describing, describe, heldLoss } from './describe-proposal.js'
import { type FitCosts, type FittedStudent, fitCalibration, fitStudent, fitWithin } from './fit-proposals.js'
import { groupCountsOf, groupImportance, groupStarts } from './group-hints.js'
import type { Handler, HandlerContext } from './handler.js'
import { withScoringModel } from './scoring-model.js'

type Input = JobInput<'students.propose'>

interface Judge extends Describing {
  fits: FitCosts
  /** Tokens a second. */
  rate(): number
  context: HandlerContext
}

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

/** Of an objective's budget for the search over layers, and for groups of heads; what they find is measured in the rest. */
const searchShare = 0.6
const groupShare = 0.15
/** Of an objective's budget where cuts are fitted too, for that. */
const fitShare = 0.5

interface WantedSizes {
  smallest: number
  most: number
  sizes: readonly number[]
}

/** A cut that may be proposed. */
interface Candidate {
  kept: Stack
  cut?: GroupCut
  loss: number
  origin: string
  parameters: number
  /** Whether heads go too. */
  heads: boolean
}

/** The Pareto set of one objective within its share of the budget. */
async function proposeWithin(
  judge: Judge,
  objective: Objective,
  hints: CutHints,
  { smallest, sizes }: WantedSizes,
  rivals: readonly Stack[],
  affordable: () => number,
): Promise<ProposalOutput[]> {
  const { input, manifest, held } = judge
  const forFits = input.correctCuts ? fitShare * affordable() : 0
  const left = () => affordable() - forFits
  const [whole, reserve] = [left(), (1 - searchShare - groupShare) * left()]
  const found = await searchObjective(
    judge.table,
    objective,
    hints,
    { smallest, focus: sizes, rivals },
    () => left() - (1 - searchShare) * whole,
  )
  const parametersOf = (variant: Variant) => {
    const { layers, groups } = partsOf(variant)
    return plannedStudent(manifest, input.manifest, layers, groups).parameterCount
  }
  const layerCuts = found.cuts.map((cut): Candidate => ({ ...cut, heads: false, parameters: parametersOf(cut.kept) }))
  const { cuts: groupCuts, tried: groupsTried } = await searchGroups(
    {
      starts: groupStarts(found.cuts, hints.layerCount, sizes),
      layerCount: hints.layerCount,
      groupCounts: groupCountsOf(manifest, input.manifest),
      importance: groupImportance(input.heads, manifest, objective),
      rung: found.rung,
      beaten: (variant, loss) => {
        const parameters = parametersOf(variant)
        return layerCuts.some(other => other.parameters <= parameters && other.loss <= loss)
      },
    },
    objectiveMeasures(judge.table, objective, () => left() - reserve),
  )
  const candidates = [
    ...layerCuts,
    ...groupCuts.map((cut): Candidate => {
      const parameters = parametersOf(cut.variant)
      return {
        kept: cut.kept,
        cut,
        loss: cut.loss,
        origin: 'key/value heads silenced together',
        parameters,
        heads: true,
      }
    }),
  ]
  const limit = input.maximumParameters ?? Number.POSITIVE_INFINITY
  const chosen = paretoCuts(candidates.filter(({ parameters }) => parameters <= limit))
  const variants = [stackWithout(hints.layerCount), ...chosen.map(({ kept, cut }) => cut?.variant ?? kept)]
  const rungs = sampleRungs(objective, held.samples)
  // As many held-out samples as what is left affords; of several selections of one cost the largest.
  const samples = rungs.findLast(rung => held.cost(variants, rung) <= left()) ?? rungs[0]!
  await held.measure(variants, samples)
  const fits = await fitChosen(judge, objective, chosen, sizes, samples, affordable)
  const tried = found.tried + groupsTried
  return withoutBeaten(judge, objective, chosen, fits, samples).map(candidate => {
    const { kept, cut, origin } = candidate
    const what = objectiveOf(objective, { kept, smallestWhole: false }, hints.layerCount)
    const less = cut ? ` ${withoutGroupsInWords(cut)}` : ''
    const text = `${what}${less}, the best found among ${tried} cuts measured (${origin}; ${found.samples} samples searched, ${samples.length} others judged)${fits.inWords(candidate)}`
    return describe(judge, objective, { kept, cut, text, fitted: fits.fitted.get(candidate) }, hints, samples)
  })
}

/** Two or three sizes by a short greedy search on all samples. */
async function proposeSizes(
  judge: Judge,
  objective: Objective,
  hints: CutHints,
  { smallest, most, sizes }: WantedSizes,
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
  const fits = await fitChosen(judge, objective, sets, sizes, samples, () => Number.POSITIVE_INFINITY)
  return sets.map(set => {
    const text = `${objectiveOf(objective, set, hints.layerCount)}${fits.inWords(set)}`
    return describe(judge, objective, { kept: set.kept, text, fitted: fits.fitted.get(set) }, hints, samples)
  })
}

interface Fits<T> {
  /** Those that fits made better on held-out samples. */
  fitted: ReadonlyMap<T, FittedStudent>
  /** Why another one's cuts are as they were; empty where nobody asked for fits, and where it has none. */
  inWords(one: T): string
}

/** Fits the cuts of what may be proposed: the sizes asked for before all others, the smallest first. */
async function fitChosen<T extends { kept: Stack; cut?: GroupCut }>(
  judge: Judge,
  objective: Objective,
  chosen: readonly T[],
  sizes: readonly number[],
  samples: readonly number[],
  left: () => number,
): Promise<Fits<T>> {
  const { input, manifest, held, fits, rate, context } = judge
  const fitted = new Map<T, FittedStudent>()
  if (!input.correctCuts) return { fitted, inWords: () => '' }
  const tried = new Set<T>()
  const order = chosen
    .filter(({ kept }) => kept.length < manifest.dimensions.layerCount)
    .sort(
      (a, b) =>
        Number(sizes.includes(b.kept.length)) - Number(sizes.includes(a.kept.length)) || a.kept.length - b.kept.length,
    )
  const calibration = fitCalibration(input.probeSet, input.maxTokens, objective)
  const fit = async (one: T, done: number) => {
    const progress = ({ completed, total, unit }: ProgressReport) =>
      context.progress({
        stage: 'fit',
        completed,
        ...(total === undefined ? {} : { total }),
        unit,
        metrics: { capability: objective.name, layers: one.kept.length, fits: done },
      })
    const groups = one.cut && partsOf(one.cut.variant).groups
    const wanted = { parent: input.manifest, kept: one.kept, groups, calibration }
    const { seconds, student } = await fitStudent(wanted, held.samples, samples, { ...context, progress })
    tried.add(one)
    const unfitted = heldLoss(judge, objective, samples, { variant: one.cut?.variant ?? one.kept })
    if (student && heldLoss(judge, objective, samples, { fitted: student }) < unfitted) fitted.set(one, student)
    return seconds * rate()
  }
  await fitWithin(order, fits, left, fit, context)
  const inWords = (one: T) => {
    if (fitted.has(one) || !order.includes(one)) return ''
    if (tried.has(one)) return '; fitting its cuts made it no better'
    return fits.failed ? '; its cuts could not be fitted' : '; the budget did not reach to fit its cuts'
  }
  return { fitted, inWords }
}

/** Without what another of no more parameters beats on held-out samples: what is proposed is a Pareto set by the figures it is shown with. */
function withoutBeaten<T extends { kept: Stack; cut?: GroupCut; parameters: number }>(
  judge: Judge,
  objective: Objective,
  chosen: readonly T[],
  { fitted }: Fits<T>,
  samples: readonly number[],
): T[] {
  const loss = (one: T) =>
    heldLoss(judge, objective, samples, { fitted: fitted.get(one), variant: one.cut?.variant ?? one.kept })
  return chosen.filter(one =>
    chosen.every(
      other =>
        other === one ||
        other.parameters > one.parameters ||
        loss(other) > loss(one) ||
        (loss(other) === loss(one) && other.parameters === one.parameters),
    ),
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
    const records = await openCutRecords(context.dataFolder, input.manifest, context.jobId)
    let report = () => {}
    const done = () => report()
    const table = openCutTable(scorer, layerCount, probe, { records, done })
    const held = openCutTable(scorer, layerCount, validation, { records, done })
    const roofline = await deviceRoofline(context)
    const quantisedKernels = context.env.HARTONOMOUS_KERNELS === 'quantised'
    // What an earlier search measured says nothing of the speed: one measurement for that alone.
    const speed = openCutTable(scorer, layerCount, probe)
    await speed.measure([all], sampleRungs(objectives[0]!, probe)[0]!)
    const tables = [table, held, speed]
    const fits: FitCosts = { spent: 0, longest: 0, failed: false }
    const judge = {
      input,
      manifest,
      roofline,
      quantisedKernels,
      table,
      held,
      fits,
      context,
      rate: () => searchRate(tables),
    }
    const proposals: ProposalOutput[] = []
    const spent = () => table.spentTokens + held.spentTokens + fits.spent
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
    // The held-out samples are paid for too.
    const tokens = budgetTokens === undefined ? undefined : tokensLeft(tables, { tokens: budgetTokens })
    const budgets = [
      ...(budgetSeconds === undefined ? [] : [tokensLeft(tables, { seconds: budgetSeconds })]),
      ...(tokens ? [() => tokens() - fits.spent] : []),
    ]
    const whole = () => Math.min(...budgets.map(left => left()))
    for (const [i, objective] of objectives.entries()) {
      report = () => {
        if (budgetTokens === undefined) progress(objective, elapsed(), budgetSeconds!, 'seconds')
        else progress(objective, spent(), budgetTokens, 'tokens')
      }
      report()
      // What one objective leaves over, the next ones have.
      const later = objectives.slice(i).reduce((sum, o) => sum + shareOf(o), 0)
      const left = partOf(whole, shareOf(objective) / later)
      const of = (c: string) => objective.weights.some(w => w.capability === c)
      // What was found for a mixture is in question for each of its capabilities.
      const rivals = proposals
        .filter(p => !p.groups && p.mixture?.weights.some(w => of(w.capability)))
        .map(p => expandRanges(p.layers, layerCount))
      proposals.push(...(await proposeWithin(judge, objective, hints[i]!, wanted, rivals, left)))
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
