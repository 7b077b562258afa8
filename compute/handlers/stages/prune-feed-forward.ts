// The stage that makes feed-forward blocks narrower: keeps the hidden units that give most on samples (Minitron, arXiv 2407.14679).
import { type Calibration, countOf, type FeedForwardPruning } from '../../../lib/build-stages.js'
import { DomainError } from '../../../lib/errors.js'
import type { Manifest } from '../../../lib/manifest.js'
import { layerDimensions, type ResolvedDimensions } from '../../architectures/architecture.js'
import { checkBuildable } from '../../architectures/registry.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { openLayers, openStatistics, toBatches } from '../../inference/layer-runner.js'
import { seededRandom } from '../../inference/sampling.js'
import { leastOf } from '../../surgery/choose-heads.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { applyPruning } from './apply-pruning.js'
import { type CalibrationSamples, calibrationSamples } from './calibration.js'
import { fitProjections } from './fit-projections.js'

export interface PruneFeedForwardParameters extends FeedForwardPruning {
  /** Only where something is measured. */
  calibration: Calibration | undefined
}

const name = 'pruneFeedForward'

/** @throws INVALID_RECIPE naming the layer and the numbers */
function keptCounts(d: ResolvedDimensions, { keep }: FeedForwardPruning): number[] {
  if (typeof keep !== 'number' && keep.length !== d.layerCount)
    throw new DomainError(
      'INVALID_RECIPE',
      `feedForwardPruning names ${keep.length} layers, the student has ${d.layerCount}`,
    )
  return Array.from({ length: d.layerCount }, (_, layer) => {
    const count = countOf(keep, layer)
    const there = layerDimensions(d, layer).intermediateSize
    if (count < 1 || count > there)
      throw new DomainError(
        'INVALID_RECIPE',
        `layer ${layer}: ${count} hidden units of its feed-forward block are to stay, expected 1 to ${there}`,
      )
    return count
  })
}

export async function pruneFeedForwardStage(
  hash: string,
  parameters: PruneFeedForwardParameters,
  context: StageContext,
): Promise<StageOutcome> {
  const manifest = await readManifest(context.payloads, hash)
  const { dimensions: d } = checkBuildable(manifest)
  const counts = keptCounts(d, parameters)
  const { metric, seed, calibration, correct } = parameters
  let samples: CalibrationSamples | undefined
  const measured = async () => (samples ??= await calibrationSamples(calibration, manifest, context))
  let flops = 0
  const scores = async (): Promise<number[][]> => {
    if (metric === 'ACTIVATION') {
      const found = await unitSizes(manifest, (await measured()).all, context)
      flops += found.flops
      return found.sizes
    }
    if (metric === 'MAGNITUDE') return weightNorms(manifest, context)
    const random = seededRandom(seed)
    return counts.map((_, layer) => Array.from({ length: layerDimensions(d, layer).intermediateSize }, () => random()))
  }
  const kept = (await scores()).map((own, layer) => {
    const gone = new Set(leastOf(own, own.length - counts[layer]!))
    return { neurons: own.flatMap((_, unit) => (gone.has(unit) ? [] : [unit])) }
  })
  const pruned = await applyPruning(name, manifest, kept, context)
  let student = pruned.manifest
  let corrected: Record<string, unknown> | undefined
  if (correct) {
    const fitted = await fitProjections(name, 'down', manifest, student, await measured(), context)
    student = fitted.manifest
    flops += fitted.flops
    corrected = { tried: fitted.tried, kept: fitted.kept, ...(fitted.notes.length > 0 ? { notes: fitted.notes } : {}) }
  }
  const { hash: made } = await writeManifest(context.payloads, student, context.signal)
  return {
    manifest: made,
    ...(flops > 0 ? { flops } : {}),
    measurements: {
      metric,
      kept: counts,
      parameters: { before: manifest.parameterCount, after: student.parameterCount },
      slicedTensors: pruned.slicedTensors,
      ...(corrected ? { corrected } : {}),
      ...(pruned.notes.length > 0 ? { notes: pruned.notes } : {}),
    },
  }
}

/** [layer][unit]: Minitron's size of what the unit gives. One forward pass. */
async function unitSizes(manifest: Manifest, samples: CalibrationSamples['all'], context: StageContext) {
  const batches = toBatches(samples)
  const model = await openLayers(manifest, context)
  const statistics = openStatistics(context)
  const { layerCount } = model.dimensions
  try {
    const states = []
    for (const batch of batches) states.push(await model.embed(batch))
    const sizes: number[][] = []
    for (let layer = 0; layer < layerCount; layer++) {
      context.progress({ stage: name, completed: layer, total: layerCount, unit: 'layers' })
      const parts = []
      for (const [b, batch] of batches.entries()) {
        const { hidden, taps } = await model.observe(layer, states[b]!, batch, { taps: ['units'] })
        states[b] = hidden
        parts.push({ x: taps.units!, batch })
      }
      sizes.push(await statistics.unitSizes(parts))
      await model.release()
    }
    return { sizes, flops: model.flops }
  } finally {
    await Promise.all([model.dispose(), statistics.dispose()])
  }
}

/** [layer][unit]: Euclidean norm of the unit's row of up and column of down. */
async function weightNorms(manifest: Manifest, { payloads }: StageContext): Promise<number[][]> {
  const { dimensions: d, tensors, inputFirst } = checkBuildable(manifest)
  const norms: number[][] = []
  for (let layer = 0; layer < d.layerCount; layer++) {
    const squares = new Array<number>(layerDimensions(d, layer).intermediateSize).fill(0)
    for (const role of ['up', 'down'] as const) {
      const key = `layers.${layer}.${role}`
      const tensor = tensors.get(key)!
      const values = await readTensorFloat32(payloads, tensor)
      const columns = tensor.shape[1]!
      const alongColumns = (role === 'down') !== inputFirst.has(key)
      for (let i = 0; i < values.length; i++)
        squares[alongColumns ? i % columns : Math.floor(i / columns)]! += values[i]! ** 2
    }
    norms.push(squares.map(Math.sqrt))
  }
  return norms
}
