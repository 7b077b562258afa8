// After pruning: output projections fitted anew by least squares, so that what is left gives what the whole gave; each kept only where the
// loss on held-out samples falls.
import type { Manifest, ManifestTensor } from '../../../lib/manifest.js'
import { layerDimensions } from '../../architectures/architecture.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import {
  countedTokens,
  type Hidden,
  type LayerRunner,
  openLayers,
  openStatistics,
  toBatches,
} from '../../inference/layer-runner.js'
import { ridgeFrom } from '../../surgery/least-squares.js'
import type { StageContext } from '../build-stages.js'
import type { CalibrationSamples } from './calibration.js'
import { finishLoss } from './choose-by-loss.js'

/** Of the mean square of a projection's inputs: the less, the freer the fit. Chosen by hand, not by measurement; a fit that does not lower the held-out loss is not kept. */
const ridge = 0.1

/** The projection that is fitted, and what it takes and gives (observed-layer.ts). */
const parts = {
  o: { input: 'attended', output: 'attention' },
  down: { input: 'units', output: 'feed_forward' },
} as const
export type FittedRole = keyof typeof parts

export interface Fitted {
  manifest: Manifest
  /** Layers whose projection was replaced, with the held-out loss before and after. */
  kept: { layer: number; before: number; after: number }[]
  tried: number
  flops: number
}

/**
 * Goes through the whole and the pruned model side by side: in each layer W' minimises |W' x - y|^2 over the samples' tokens (the first of
 * each left out), x what the pruned model's heads or units give, y what the whole model's projection gave.
 * @param whole before pruning; `pruned`: of the same layers
 */
export async function fitProjections(
  stage: string,
  role: FittedRole,
  whole: Manifest,
  pruned: Manifest,
  { fit, heldOut }: CalibrationSamples,
  context: StageContext,
): Promise<Fitted> {
  const result: Fitted = { manifest: pruned, kept: [], tried: 0, flops: 0 }
  if (heldOut.length === 0 || fit.length === 0) return result
  const [fitBatches, heldBatches] = [toBatches(fit), toBatches(heldOut)]
  const [teacher, student] = [await openLayers(whole, context), await openLayers(pruned, context)]
  const statistics = openStatistics(context)
  const { layerCount, hiddenSize } = student.dimensions
  try {
    const start = async (batches: typeof fitBatches) => {
      const states: Hidden[] = []
      for (const batch of batches) states.push(await student.embed(batch))
      return states
    }
    const [taught, learnt, held] = [await start(fitBatches), await start(fitBatches), await start(heldBatches)]
    let before = Number.NaN
    for (let layer = 0; layer < layerCount; layer++) {
      context.progress({
        stage,
        completed: layer,
        total: layerCount,
        unit: 'layers',
        metrics: { kept: result.kept.length },
      })
      const { input, output } = parts[role]
      const pairs = []
      const targets = []
      for (const [b, batch] of fitBatches.entries()) {
        const own = await student.observe(layer, learnt[b]!, batch, { taps: [input] })
        const wanted = await teacher.observe(layer, taught[b]!, batch, { taps: [output] })
        const weights = countedTokens(batch)
        pairs.push({ a: own.taps[input]!, b: own.taps[input]!, weights })
        targets.push({ a: own.taps[input]!, b: wanted.taps[output]!, weights })
        taught[b] = wanted.hidden
      }
      const index = result.manifest.tensors.findIndex(t => t.role === `layers.${layer}.${role}`)
      const tensor = result.manifest.tensors[index]!
      const sizes = layerDimensions(student.dimensions, layer)
      const inputs = role === 'o' ? sizes.attentionHeadCount * sizes.headSize : sizes.intermediateSize
      const bias = result.manifest.tensors.find(t => t.role === `layers.${layer}.${role}_bias`)
      // Pruning left this layer whole, or it has a form that is not fitted.
      const fitted = tensor.slice !== undefined && !bias && tensor.shape[0] === hiddenSize
      let replaced: LayerRunner | undefined
      if (fitted) {
        result.tried++
        const prior = await readTensorFloat32(context.payloads, tensor)
        const gram = await statistics.productSums(pairs)
        const cross = await statistics.productSums(targets)
        const values = ridgeFrom(gram, cross, prior, { inputs, outputs: hiddenSize, ridge })
        const { hash, bytes } = await context.payloads.put([new Uint8Array(values.buffer)], context.signal)
        const next: ManifestTensor = {
          ...tensor,
          dtype: 'F32',
          bytes,
          payload: hash,
          slice: { ...tensor.slice!, changed: true },
        }
        const manifest = { ...result.manifest, tensors: result.manifest.tensors.with(index, next) }
        replaced = await openLayers(manifest, context)
        const run = async (model: LayerRunner, states: readonly Hidden[]) => {
          const after: Hidden[] = []
          for (const [b, batch] of heldBatches.entries()) after.push(await model.layer(layer, states[b]!, batch))
          return after
        }
        if (Number.isNaN(before)) before = await finishLoss(student, layer, held, heldBatches)
        const after = await finishLoss(student, layer + 1, await run(replaced, held), heldBatches)
        if (after < before) {
          result.manifest = manifest
          result.kept.push({ layer, before, after })
          before = after
        } else {
          await replaced.dispose()
          replaced = undefined
        }
      }
      const through = replaced ?? student
      for (const [b, batch] of fitBatches.entries()) learnt[b] = await through.layer(layer, learnt[b]!, batch)
      for (const [b, batch] of heldBatches.entries()) held[b] = await through.layer(layer, held[b]!, batch)
      result.flops += replaced?.flops ?? 0
      await replaced?.dispose()
    }
    result.flops += teacher.flops + student.flops
    return result
  } finally {
    await Promise.all([teacher.dispose(), student.dispose(), statistics.dispose()])
  }
}
