// The stage that makes up for removed layers without training: at each cut the linear map of the feed-forward output before it that comes
// nearest to what the removed layers made, folded into that block's output projection (ReplaceMe, arXiv 2505.02819, eq. 5).
import type { Calibration } from '../../../lib/build-stages.js'
import type { Manifest, ManifestTensor } from '../../../lib/manifest.js'
import { checkBuildable } from '../../architectures/registry.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { recordSlice } from '../../formats/slice-tensor.js'
import {
  countedTokens,
  type Hidden,
  type LayerRunner,
  openLayers,
  openStatistics,
  type Statistics,
  toBatches,
} from '../../inference/layer-runner.js'
import { floats } from '../../runtime/session.js'
import { ridgeFrom } from '../../surgery/least-squares.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { parentTensors } from './apply-pruning.js'
import { calibrationSamples } from './calibration.js'
import { finishLoss } from './choose-by-loss.js'

const name = 'correctCuts'

/**
 * Pulls towards the identity, times the mean square of what the map takes: from nearly free to nearly none. The held-out loss chooses.
 */
const ridges = [0.03, 0.3, 3]

export interface Cut {
  /** The student's layer before the cut. */
  layer: number
  /** The parent's layer before which the residual stream is to be met; the parent's layer count: its end. */
  target: number
}

/** Where layers of the parent were left out between two that follow each other in it, and after the last. */
export function cutsOf(parent: NonNullable<Manifest['parent']>, layerCount: number): Cut[] {
  const { layers, sources, manifest } = parent
  const own = (index: number) => index >= layers.length || (sources?.[index] ?? manifest) === manifest
  return layers.flatMap((from, layer) => {
    const target = layer + 1 < layers.length ? layers[layer + 1]! : layerCount
    return own(layer) && own(layer + 1) && target > from + 1 ? [{ layer, target }] : []
  })
}

export async function correctCutsStage(
  hash: string,
  { calibration }: { calibration: Calibration | undefined },
  context: StageContext,
): Promise<StageOutcome> {
  const { payloads, signal, input } = context
  const manifest = await readManifest(payloads, hash)
  const whole = await readManifest(payloads, input.parent)
  const cuts = manifest.parent ? cutsOf(manifest.parent, whole.dimensions.layerCount) : []
  const { fit, heldOut } = await calibrationSamples(calibration, manifest, context)
  if (cuts.length === 0 || fit.length === 0 || heldOut.length === 0)
    return { manifest: hash, measurements: { cuts: cuts.length, corrected: [] } }
  const parents = await parentTensors(context)
  const [fitBatches, heldBatches] = [toBatches(fit), toBatches(heldOut)]
  const [teacher, student] = [await openLayers(whole, context), await openLayers(manifest, context)]
  const statistics = openStatistics(context)
  const { hiddenSize, layerCount } = student.dimensions
  const corrected: { layer: number; removed: number; ridge: number; before: number; after: number }[] = []
  let made = manifest
  let flops = 0
  try {
    /** By parent's layer and batch: the residual stream that the whole model has there. */
    const targets = new Map(cuts.map(({ target }) => [target, [] as Hidden[]]))
    const last = Math.max(...targets.keys())
    const steps = last + layerCount
    const report = (completed: number) =>
      context.progress({
        stage: name,
        completed,
        total: steps,
        unit: 'layers',
        metrics: { corrected: corrected.length },
      })
    for (const [b, batch] of fitBatches.entries()) {
      let hidden = await teacher.embed(batch)
      for (let layer = 0; layer < last; layer++) {
        hidden = await teacher.layer(layer, hidden, batch)
        targets.get(layer + 1)?.push(hidden)
        report(((b + (layer + 1) / last) / fitBatches.length) * last)
      }
    }
    const start = async (batches: typeof fitBatches) => {
      const states: Hidden[] = []
      for (const batch of batches) states.push(await student.embed(batch))
      return states
    }
    const [learnt, held] = [await start(fitBatches), await start(heldBatches)]
    const through = async (
      model: LayerRunner,
      layer: number,
      states: readonly Hidden[],
      batches: typeof fitBatches,
    ) => {
      const after: Hidden[] = []
      for (const [b, batch] of batches.entries()) after.push(await model.layer(layer, states[b]!, batch))
      return after
    }
    let before = await finishLoss(student, 0, held, heldBatches)
    for (let layer = 0; layer < layerCount; layer++) {
      report(last + layer)
      const cut = cuts.find(one => one.layer === layer)
      const index = made.tensors.findIndex(t => t.role === `layers.${layer}.down`)
      const tensor = made.tensors[index]
      const { inputFirst, tensors } = checkBuildable(made)
      const foldable = tensor && !inputFirst.has(tensor.role!) && !tensors.has(`layers.${layer}.down_bias`)
      let best: { model: LayerRunner; manifest: Manifest; after: number; ridge: number } | undefined
      if (cut && foldable) {
        const pairs = []
        const crosses = []
        for (const [b, batch] of fitBatches.entries()) {
          const { hidden, taps } = await student.observe(layer, learnt[b]!, batch, { taps: ['feed_forward'] })
          const given = taps.feed_forward!
          const target = targets.get(cut.target)![b]!
          const wanted = new Float32Array(target.length)
          const added = given.data as Float32Array
          // What the block would have to add, so that the stream is where the removed layers would have left it.
          for (let i = 0; i < wanted.length; i++) wanted[i] = target[i]! - (hidden[i]! - added[i]!)
          const weights = countedTokens(batch)
          pairs.push({ a: given, b: given, weights })
          crosses.push({ a: given, b: floats(wanted, given.shape), weights })
        }
        const gram = await statistics.productSums(pairs)
        const cross = await statistics.productSums(crosses)
        const weight = await readTensorFloat32(payloads, tensor)
        for (const ridge of ridges) {
          const map = ridgeFrom(gram, cross, identity(hiddenSize), { inputs: hiddenSize, outputs: hiddenSize, ridge })
          const values = await fold(statistics, map, weight, hiddenSize)
          const { hash: payload, bytes } = await payloads.put([new Uint8Array(values.buffer)], signal)
          const slice = recordSlice(tensor, [null, null], parents.get(tensor.payload), true)
          const next: ManifestTensor = { ...tensor, dtype: 'F32', bytes, payload, slice }
          const candidate = { ...made, tensors: made.tensors.with(index, next) }
          const model = await openLayers(candidate, context)
          const after = await finishLoss(
            student,
            layer + 1,
            await through(model, layer, held, heldBatches),
            heldBatches,
          )
          if (after < (best?.after ?? before)) {
            await best?.model.dispose()
            best = { model, manifest: candidate, after, ridge }
          } else await model.dispose()
        }
      }
      const model = best?.model ?? student
      learnt.splice(0, learnt.length, ...(await through(model, layer, learnt, fitBatches)))
      held.splice(0, held.length, ...(await through(model, layer, held, heldBatches)))
      if (best && cut) {
        const removed = cut.target - manifest.parent!.layers[layer]! - 1
        corrected.push({ layer, removed, ridge: best.ridge, before, after: best.after })
        before = best.after
        made = best.manifest
        flops += best.model.flops
        await best.model.dispose()
      }
    }
    flops += teacher.flops + student.flops
    const { hash: written } = await writeManifest(payloads, made, signal)
    return { manifest: written, flops, measurements: { cuts: cuts.length, corrected } }
  } finally {
    await Promise.all([teacher.dispose(), student.dispose(), statistics.dispose()])
  }
}

const identity = (size: number) => {
  const values = new Float32Array(size * size)
  for (let i = 0; i < size; i++) values[i * size + i] = 1
  return values
}

/** map [hidden, hidden] times weight [hidden, units]. */
async function fold(
  statistics: Statistics,
  map: Float32Array,
  weight: Float32Array,
  size: number,
): Promise<Float32Array> {
  const turned = new Float32Array(map.length)
  for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) turned[j * size + i] = map[i * size + j]!
  const sums = await statistics.productSums([
    {
      a: floats(turned, [size, size]),
      b: floats(weight, [size, weight.length / size]),
      weights: floats(new Float32Array(size).fill(1), [size, 1]),
    },
  ])
  return Float32Array.from(sums)
}
