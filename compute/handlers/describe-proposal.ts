// A proposal in words and numbers: what a student of these layers and heads weighs, how fast it can be, and what it is worth on held-out samples.
import type { Manifest } from '../../lib/manifest.js'
import { decodeCeiling, type Roofline } from '../inference/roofline.js'
import type { JobInput, ProposalOutput } from '../pool/job-types.js'
import { weightedQualityInterval } from '../probing/bootstrap.js'
import { type CutTable, measuredRate } from '../probing/cut-table.js'
import { type Objective, objectiveLoss, sampleRungs } from '../probing/objective.js'
import { groupReason, rangeReason } from '../probing/propose.js'
import type { CutHints } from '../probing/search-cuts.js'
import { type GroupCut, partsOf } from '../probing/search-groups.js'
import { type Stack, stackWithout, type Variant } from '../probing/stacks.js'
import { toRanges } from '../surgery/extract-layers.js'
import { plannedStudent } from '../surgery/planned-student.js'
import type { FittedStudent } from './fit-proposals.js'

/** What a proposal is made from, besides the cut. */
export interface Judge {
  input: JobInput<'students.propose'>
  manifest: Manifest
  roofline: Roofline
  quantisedKernels: boolean
  /** The probe split, and the validation split. */
  table: CutTable
  held: CutTable
}

/** Of the parent, of a cut, or of a student as it was built: nats per completion token on these held-out samples. */
export function heldLoss(
  { held }: Pick<Judge, 'held'>,
  objective: Objective,
  samples: readonly number[],
  { fitted, variant }: { fitted?: FittedStudent | undefined; variant?: Variant },
): number {
  return objectiveLoss(objective, held.samples, i => fitted?.nll.get(i) ?? held.nll(variant!, i)!, samples)
}

export interface ChosenCut {
  kept: Stack
  /** Groups that go as well. */
  cut?: GroupCut | undefined
  text: string
  /** The student as it was built, its cuts fitted. */
  fitted?: FittedStudent | undefined
}

/** The proposal of a cut, measured on these validation samples. */
export function describe(
  { input, manifest, roofline, quantisedKernels, table, held }: Judge,
  objective: Objective,
  { kept, cut, text, fitted }: ChosenCut,
  { skipLosses, layerCount }: CutHints,
  samples: readonly number[],
): ProposalOutput {
  const whole = stackWithout(layerCount)
  const variant = cut?.variant ?? kept
  const groups = partsOf(variant).groups
  const student = fitted?.manifest ?? plannedStudent(manifest, input.manifest, kept, groups)
  const ofStudent = (i: number) => fitted?.nll.get(i) ?? held.nll(variant, i)!
  const ofParent = (i: number) => held.nll(whole, i)!
  const scored = (nll: (sample: number) => number, own: readonly number[]) =>
    own.map(i => ({ nll: nll(i), completionTokens: held.samples[i]!.completionTokens }))
  const measured = objective.weights.map(({ capability, weight }) => {
    const own = samples.filter(i => held.samples[i]!.capability === capability)
    return { weight, student: scored(ofStudent, own), parent: scored(ofParent, own) }
  })
  const loss = (of: Parameters<typeof heldLoss>[3]) => heldLoss({ held }, objective, samples, of)
  const [studentLoss, parentLoss] = [loss({ fitted, variant }), loss({ variant: whole })]
  const removals = jointRemovals(table, objective, kept)
  const validationTokens = held.samples
    .filter(s => objective.weights.some(w => w.capability === s.capability))
    .reduce((sum, s) => sum + s.ids.length, 0)
  const rate = measuredRate([table, held])
  return {
    capability: objective.weights.length === 1 ? objective.weights[0]!.capability : null,
    ...(objective.weights.length === 1
      ? {}
      : { mixture: { name: objective.name, weights: objective.weights.map(w => ({ ...w })) } }),
    name: `${input.modelName}-${objective.name.replaceAll(/[_\s]+/g, '-')}-${kept.length}of${layerCount}${cut ? `-without-${cut.removed.length}-groups` : ''}${fitted ? '-fitted' : ''}`,
    objective: fitted ? `${text}; its projections at and behind cuts fitted anew on the probe split` : text,
    layers: toRanges(kept).map(range => ({
      ...range,
      reason: rangeReason(range, skipLosses, objective.name, removals) + groupReason(range, cut?.removed ?? []),
    })),
    ...(cut ? { groups } : {}),
    ...(fitted ? { calibration: fitted.calibration } : {}),
    parameterCount: student.parameterCount,
    quality: Math.exp(parentLoss - studentLoss),
    qualityInterval: weightedQualityInterval(measured),
    studentLoss,
    parentLoss,
    validationSamples: samples.length,
    sizeBytes: student.tensors.reduce((sum, t) => sum + t.bytes, 0),
    tokensPerSecond: decodeCeiling(roofline, student, null, { quantisedKernels }),
    ...(rate
      ? { costSeconds: (validationTokens * (1 + kept.length / layerCount)) / rate + (fitted?.seconds ?? 0) }
      : {}),
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
