// After pruning: output projections fitted anew by least squares, so that what is left gives what the whole gave; each kept only where the
// loss on held-out samples falls.
import type { Manifest } from '../../../lib/manifest.js'
import { countedTokens, type LayerRunner, openLayers, openStatistics, toBatches } from '../../inference/layer-runner.js'
import type { StageContext } from '../build-stages.js'
import type { CalibrationSamples } from './calibration.js'
import { finishLoss } from './choose-by-loss.js'
import { bestTrial, type FitSums, fitSums, fittableTensor, fitWith, openTrial, withTrial } from './judged-fits.js'
import { embedded, through } from './layer-streams.js'

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
  /** Layers whose projection was replaced, with the loss before and after on the samples that chose it. */
  kept: { layer: number; before: number; after: number }[]
  tried: number
  /** Projections that are too large to be fitted. */
  notes: string[]
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
  const result: Fitted = { manifest: pruned, kept: [], tried: 0, notes: [], flops: 0 }
  if (heldOut.length === 0 || fit.length === 0) return result
  const [fitBatches, heldBatches] = [toBatches(fit), toBatches(heldOut)]
  const [teacher, student] = [await openLayers(whole, context), await openLayers(pruned, context)]
  const statistics = openStatistics(context)
  const { layerCount, hiddenSize } = student.dimensions
  const { input, output } = parts[role]
  try {
    const taught = await embedded(student, fitBatches)
    let [learnt, held] = [await embedded(student, fitBatches), await embedded(student, heldBatches)]
    let before = Number.NaN
    for (let layer = 0; layer < layerCount; layer++) {
      const report = (solved?: number) => {
        const metrics = { kept: result.kept.length, ...(solved === undefined ? {} : { solved }) }
        context.progress({ stage, completed: layer, total: layerCount, unit: 'layers', metrics })
      }
      report()
      const tokens = []
      for (const [b, batch] of fitBatches.entries()) {
        const own = await student.observe(layer, learnt[b]!, batch, { taps: [input] })
        const wanted = await teacher.observe(layer, taught[b]!, batch, { taps: [output] })
        tokens.push({ a: own.taps[input]!, b: wanted.taps[output]!, weights: countedTokens(batch) })
        taught[b] = wanted.hidden
      }
      const name = `layers.${layer}.${role}`
      const cut = result.manifest.tensors.find(t => t.role === name)?.slice !== undefined
      // Pruning left this layer whole, or it has a form that is not fitted.
      const tensor = cut ? fittableTensor(result.manifest, name, result.notes) : undefined
      const sums = tensor?.shape[0] === hiddenSize ? await fitSums(statistics, tensor, tokens, context) : undefined
      if (sums && Number.isNaN(before)) before = await finishLoss(student, layer, held, heldBatches)
      const judge = async (model: LayerRunner) =>
        finishLoss(student, layer + 1, await through(model, layer, held, heldBatches), heldBatches)
      const best = sums && (await bestTrial(trials(sums, name, report), before, judge))
      try {
        const model = best?.model ?? student
        learnt = await through(model, layer, learnt, fitBatches)
        held = await through(model, layer, held, heldBatches)
        if (!best) continue
        const slice: Parameters<typeof withTrial>[2] = own => ({ ...own.slice!, changed: true })
        result.manifest = await withTrial(result.manifest, best, slice, context)
        result.kept.push({ layer, before, after: best.after })
        before = best.after
        result.flops += best.model.flops
      } finally {
        await best?.dispose()
      }
    }
    result.flops += teacher.flops + student.flops
    return result
  } finally {
    await Promise.all([teacher.dispose(), student.dispose(), statistics.dispose()])
  }

  async function* trials(sums: FitSums, name: string, report: (solved: number) => void) {
    result.tried++
    const values = await fitWith(sums, ridge, context, solved => report(Math.round(solved * 100) / 100))
    yield await openTrial(result.manifest, new Map([[name, values]]), context)
  }
}
