// Floating-point operations of a build before it is made: an estimate by the formulas of docs/cost.md, from counts alone.
import { type BuildStages, type Counts, countOf, maximumFitInputs, measures } from './build-stages.js'
import { fusions } from './fusion.js'
import { asksTeacher } from './healing.js'
import { mostAttempts, sensitivityTokens } from './quantization.js'

export interface BuildSize {
  /** Of parent and student: what one token multiplies with, embeddings counted once as the head. */
  parentParameters: number
  studentParameters: number
  /** Of what the student learns from and is judged beside: the teacher that its healing names, else the parent. */
  teacherParameters: number
  /** Layers of the student before anything is pruned. */
  layers: number
  /** Places where layers were left out. */
  cuts: number
  hiddenSize: number
  /** Inputs of the output projections of attention and of the feed-forward block. */
  attentionWidth: number
  intermediateSize: number
  keyValueHeads: number
  queryHeads: number
  /** Samples that the student is judged on, and capabilities that stages measure on. */
  validationSamples: number
  capabilities: number
}

/** Tokens of a sample, prompt and completion: what the built-in probe set has on average. */
const tokensPerSample = 130

const sum = (counts: Counts, layers: number) =>
  Array.from({ length: layers }, (_, layer) => countOf(counts, layer)).reduce((a, b) => a + b, 0)

/** Whole passes through the model that a stage takes over its samples, at 2 operations per parameter and token; backward passes count twice. */
export function stagePasses(stages: BuildStages, { layers, keyValueHeads, queryHeads }: BuildSize): number {
  const { correctCuts, headPruning, feedForwardPruning } = stages
  const perGroup = queryHeads / keyValueHeads
  // Both models over the samples with their insides seen, and each layer's fit judged on few of them by the layers behind it.
  let passes = correctCuts ? 4 + layers / 8 : 0
  if (headPruning?.metric === 'GRADIENT') passes += 3
  if (headPruning?.metric === 'TASK_LOSS') {
    // Every candidate of every layer runs the layers behind it: on average half of the model.
    const units = headPruning.unit === 'KEY_VALUE_GROUP' ? 1 : keyValueHeads
    const candidates = headPruning.unit === 'KEY_VALUE_GROUP' ? keyValueHeads : perGroup
    passes += (sum(headPruning.remove ?? 0, layers) * units * candidates) / 2
  }
  if (feedForwardPruning?.metric === 'ACTIVATION') passes += 1
  // Fitting: whole and pruned model side by side on one half, each layer's fit judged on the other half by the layers behind it.
  for (const pruning of [headPruning, feedForwardPruning])
    if (pruning?.correct && measures(pruning)) passes += 1.5 + layers / 4
  return passes
}

/** How much slower than graphs least squares are solved, in JavaScript on one thread: 1.2e9 operations a second instead of 3e10. */
const solvingFactor = 25

/** Solving for the projections that are fitted anew, as many of a graph's operations: a triangle's n^3 / 3 and 2 n^2 for each output. */
export function solvingFlops(stages: BuildStages, size: BuildSize): number {
  const { layers, cuts, hiddenSize, attentionWidth, intermediateSize } = size
  const { correctCuts, headPruning, feedForwardPruning } = stages
  const solve = (inputs: number) =>
    inputs > maximumFitInputs ? 0 : solvingFactor * (inputs ** 3 / 3 + 2 * hiddenSize * inputs ** 2)
  const [attention, feedForward] = [solve(attentionWidth), solve(intermediateSize)]
  let flops = 0
  // Three pulls at a cut, and both blocks of each other layer behind the first: at most all.
  if (correctCuts && cuts > 0) flops += 3 * cuts * feedForward + (layers - cuts) * (attention + feedForward)
  if (headPruning?.correct) flops += layers * attention
  if (feedForwardPruning?.correct) flops += layers * feedForward
  return flops
}

/**
 * Calibrating runs each layer twice, for what goes into it and for what comes out; comparing runs the student before and after. A search runs
 * half of the model, on average, for each of four groups of a layer, the whole twice, and what each attempt made once.
 */
function quantisingFlops(stages: BuildStages | null, { studentParameters, capabilities, layers }: BuildSize): number {
  const { quantization } = stages ?? {}
  if (!quantization) return 0
  const { method, calibrationTokens, samplesPerCapability, minimumQuality, maximumBytes } = quantization
  // Of a quality as many as there may be: how often it is missed is not known before.
  const attempts = minimumQuality === undefined ? 1 : mostAttempts
  const isSearched = minimumQuality !== undefined || maximumBytes !== undefined
  const searched = isSearched ? (groupsPerLayer * layers * 0.5 + 2 + attempts) * sensitivityTokens : 0
  const calibrated = method === 'ROUND_TO_NEAREST' ? 0 : 2 * calibrationTokens * attempts
  const compared = 2 * samplesPerCapability * capabilities * tokensPerSample
  return (searched + calibrated + compared) * 2 * studentParameters
}
/** What a search decides on: q, k and v; o; gate and up; down. */
const groupsPerLayer = 4

/** Both forms of every fusion and of all at once, in turns, the first of them uncounted; then both on few samples. */
function fusingFlops(stages: BuildStages | null, { studentParameters, capabilities }: BuildSize): number {
  const { fusion } = stages ?? {}
  if (!fusion) return 0
  const tried = fusion.only?.length ?? fusions.length
  const forms = 2 * (tried > 1 ? tried + 1 : tried)
  const compared = 2 * comparedSamples * capabilities * tokensPerSample
  return (forms * (fusion.rounds + 1) * tokensPerRound + compared) * 2 * studentParameters
}
/** A prompt of 128 tokens and 16 one at a time (compute/handlers/time-fusions.ts). */
const tokensPerRound = 144
/** Per capability (compute/handlers/compare-outputs.ts). */
const comparedSamples = 2

/** Forward and backward of the student, one pass more for what it writes itself, and the teacher's word on each token where a loss needs it. */
function healingFlops(stages: BuildStages | null, { studentParameters, teacherParameters }: BuildSize): number {
  const { healing } = stages ?? {}
  if (!healing) return 0
  const { tokens, onPolicy = 0 } = healing
  return tokens * ((6 + 2 * onPolicy) * studentParameters + (asksTeacher(healing) ? 2 * teacherParameters : 0))
}

/** Operations of building, and of judging the student and what it is measured beside on the validation split. */
export function estimateFlops(stages: BuildStages | null, size: BuildSize): number {
  const judged =
    healingFlops(stages, size) +
    quantisingFlops(stages, size) +
    fusingFlops(stages, size) +
    size.validationSamples * tokensPerSample * 2 * (size.teacherParameters + size.studentParameters)
  if (!stages?.calibration) return judged
  const samples =
    (stages.calibration.capabilities?.length ?? size.capabilities) * stages.calibration.samplesPerCapability
  const solved = solvingFlops(stages, size)
  return judged + solved + stagePasses(stages, size) * samples * tokensPerSample * 2 * size.parentParameters
}
