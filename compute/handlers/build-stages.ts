// The stages of a build, in order: what each one asks of the recipe and does to the manifest. A stage that is not here does not exist.
import { measures } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import type { JobInput, StageResult } from '../pool/job-types.js'
import { cutFrom } from './full-precision.js'
import type { HandlerContext } from './handler.js'

export type BuildInput = JobInput<'student.build'>

export interface StageContext extends HandlerContext {
  /** The whole recipe. */
  input: BuildInput
  /**
   * A folder for what the stage has done so far, so that it can go on after a kill; not made yet. It is the stage's alone by content
   * (name, parameters and manifest), is kept while a build that needs it may go on, and removed when the stage has ended.
   */
  folder: string
}

/** What a stage made; `manifest` is the hash of a manifest in the store. */
export type StageOutcome = Pick<StageResult, 'manifest' | 'flops' | 'measurements'>

export interface BuildStage<P = unknown> {
  /** Also what the progress of the build calls it. */
  name: string
  /** To be raised when the same parameters would make something else: results of earlier versions are then made anew. */
  version: number
  /** What the recipe asks of it; undefined: nothing, the stage is left out. All that the result depends on besides the manifest. */
  parameters(input: BuildInput): P | undefined
  /**
   * Makes one manifest of another; must give the same one whenever it is run again, and stop where the signal fires. May report progress
   * under its own name.
   */
  run(manifest: string, parameters: P, context: StageContext): Promise<StageOutcome>
}

/** A stage as the list takes it: its parameters are its own affair. */
export const stage = <P>(one: BuildStage<P>): BuildStage => one as BuildStage

const extract = stage({
  name: 'extract',
  version: 1,
  parameters: ({ parent, layers, stages }) => ({
    parent,
    layers: layers.map(({ reason: _forPeople, ...range }) => range),
    // What is to be rounded begins with the values from before an earlier rounding.
    ...(stages?.quantization ? { fullPrecision: true } : {}),
  }),
  async run(_parent, { layers, fullPrecision }, context) {
    const { extractStage } = await import('./stages/extract.js')
    return extractStage(layers, fullPrecision === true, context)
  },
})

/** What it measures on belongs to the parameters only where it measures. */
const withCalibration = <P extends { metric: string; correct: boolean }>(
  pruning: P | undefined,
  { stages }: BuildInput,
) => pruning && { ...pruning, calibration: measures(pruning) ? stages?.calibration : undefined }

const correctCuts = stage({
  name: 'correctCuts',
  version: 4,
  // The parent, too, is what it depends on: the manifest names it.
  parameters: ({ stages }) => (stages?.correctCuts ? { calibration: stages.calibration } : undefined),
  async run(manifest, parameters, context) {
    const { correctCutsStage } = await import('./stages/correct-cuts.js')
    return correctCutsStage(manifest, parameters, context)
  },
})

const pruneHeads = stage({
  name: 'pruneHeads',
  version: 1,
  parameters: input => withCalibration(input.stages?.headPruning, input),
  async run(manifest, parameters, context) {
    const { pruneHeadsStage } = await import('./stages/prune-heads.js')
    return pruneHeadsStage(manifest, parameters, context)
  },
})

const pruneFeedForward = stage({
  name: 'pruneFeedForward',
  version: 1,
  parameters: input => withCalibration(input.stages?.feedForwardPruning, input),
  async run(manifest, parameters, context) {
    const { pruneFeedForwardStage } = await import('./stages/prune-feed-forward.js')
    return pruneFeedForwardStage(manifest, parameters, context)
  },
})

const heal = stage({
  name: 'heal',
  version: 4,
  parameters: ({ parent, stages }) => stages?.healing && { parent, ...stages.healing },
  async run(manifest, { parent, ...healing }, context) {
    const { heal: train } = await import('./stages/heal.js')
    return train(manifest, healing.teacher ?? (await cutFrom(manifest, parent, context.payloads)), healing, context)
  },
})

const quantise = stage({
  name: 'quantise',
  version: 1,
  parameters: ({ stages }) => stages?.quantization,
  async run(manifest, quantization, context) {
    const { quantiseStage } = await import('./stages/quantise.js')
    return quantiseStage(manifest, quantization, context)
  },
})

const fuse = stage({
  name: 'fuse',
  version: 1,
  parameters: ({ stages }) => stages?.fusion,
  async run(manifest, fusion, context) {
    const { fuseStage } = await import('./stages/fuse.js')
    return fuseStage(manifest, fusion, context)
  },
})

export const buildStages: readonly BuildStage[] = [
  extract,
  correctCuts,
  pruneHeads,
  pruneFeedForward,
  heal,
  quantise,
  fuse,
]

/** The stages that a recipe asks for. @throws INVALID_RECIPE where it asks for one that is not known */
export function stagesOf(input: BuildInput, stages: readonly BuildStage[] = buildStages) {
  const asked = stages.flatMap(one => {
    const parameters = one.parameters(input)
    return parameters === undefined ? [] : [{ stage: one, parameters }]
  })
  if (asked.length === 0) throw new DomainError('INVALID_RECIPE', 'The recipe asks for nothing')
  return asked
}
