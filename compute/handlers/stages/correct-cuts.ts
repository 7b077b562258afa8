// The stage that makes up for removed layers without training: at each cut the feed-forward block before it is fitted anew, so that the
// residual stream is where the removed layers left it (after ReplaceMe, arXiv 2505.02819, whose map is a special case of it), and the
// blocks behind cuts are fitted to the parent's stream, each kept only where the loss on held-out samples falls.
import type { Calibration } from '../../../lib/build-stages.js'
import type { Manifest } from '../../../lib/manifest.js'
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { recordSlice } from '../../formats/slice-tensor.js'
import {
  countedTokens,
  type Hidden,
  type LayerRunner,
  openLayers,
  openStatistics,
  type RunnerBatch,
  toBatches,
} from '../../inference/layer-runner.js'
import { floats, type RuntimeTensor } from '../../runtime/session.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { cutFrom } from '../full-precision.js'
import { parentTensors } from './apply-pruning.js'
import { calibrationSamples } from './calibration.js'
import { finishLoss } from './choose-by-loss.js'
import {
  bestTrial,
  type FitSums,
  fitSums,
  fittableTensor,
  fitWith,
  openTrial,
  type Trial,
  withTrial,
} from './judged-fits.js'
import { betweenBlocks, embedded, streamOf, through } from './layer-streams.js'

const name = 'correctCuts'

/** Pulls towards the weights that are there, times the mean square of what a projection takes. At a cut the held-out loss chooses. */
const ridgesAtCuts = [0.03, 0.3, 3]
/** Behind cuts little is to be made up for, and one pull is tried. */
const ridgesBehind = [0.1]

/** Held-out samples that fits are judged on, at least 4 of each capability; those beyond serve fitting. */
const judges = 28

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

export interface Fit extends Cut {
  /** Whether layers were removed behind it. */
  cut: boolean
}

/** What is fitted in turn: at cuts the feed-forward block before them; behind the first, where layers ascend in one parent, both blocks of each layer. */
export function fitsOf(parent: NonNullable<Manifest['parent']>, layerCount: number): Fit[] {
  const cuts = cutsOf(parent, layerCount)
  const { layers, sources, manifest } = parent
  const ascending = layers.every((from, i) => i === 0 || from > layers[i - 1]!)
  const one = sources?.every(source => source === manifest) ?? true
  return layers.flatMap((from, layer): Fit[] => {
    const cut = cuts.find(own => own.layer === layer)
    if (cut) return [{ ...cut, cut: true }]
    return ascending && one && cuts.some(own => own.layer < layer) ? [{ layer, target: from + 1, cut: false }] : []
  })
}

interface Corrected {
  layer: number
  /** Layers of the parent that were removed behind it; 0: fitted because something before it was. */
  removed: number
  ridge: number
  /** Losses on the samples that chose this fit, so the fall is somewhat flattered; what never was seen (the validation split) judges the recipe. */
  before: number
  after: number
}

export async function correctCutsStage(
  hash: string,
  { calibration }: { calibration: Calibration | undefined },
  context: StageContext,
): Promise<StageOutcome> {
  const { payloads, signal, input } = context
  let manifest = await readManifest(payloads, hash)
  const whole = await readManifest(payloads, await cutFrom(hash, input.parent, payloads))
  const fits = manifest.parent ? fitsOf(manifest.parent, whole.dimensions.layerCount) : []
  const cuts = fits.filter(({ cut }) => cut).length
  const { fit, heldOut } = divided(await calibrationSamples(calibration, manifest, context))
  if (cuts === 0 || fit.length === 0 || heldOut.length === 0)
    return { manifest: hash, measurements: { cuts, corrected: [] } }
  const parents = await parentTensors(context)
  const [fitBatches, heldBatches] = [toBatches(fit), toBatches(heldOut)]
  const [teacher, student] = [await openLayers(whole, context), await openLayers(manifest, context)]
  const statistics = openStatistics(context)
  const { layerCount } = student.dimensions
  const corrected: Corrected[] = []
  const notes: string[] = []
  let flops = 0
  try {
    const taught = streamOf(teacher, fitBatches)
    let [learnt, held] = [await embedded(student, fitBatches), await embedded(student, heldBatches)]
    let before = await finishLoss(student, 0, held, heldBatches)
    const from = (layer: number) => manifest.parent!.layers[layer]!
    const report = (layer: number, solved?: number) => {
      const metrics = { corrected: corrected.length, heldOutLoss: before, ...(solved === undefined ? {} : { solved }) }
      context.progress({ stage: name, completed: layer, total: layerCount, unit: 'layers', metrics })
    }

    for (let layer = 0; layer < layerCount; layer++) {
      report(layer)
      const own = fits.find(one => one.layer === layer)
      const judge = async (model: LayerRunner) =>
        finishLoss(student, layer + 1, await through(model, layer, held, heldBatches), heldBatches)
      const best = own && (await bestTrial(trialsOf(own), before, judge))
      try {
        const model = best?.model ?? student
        learnt = await through(model, layer, learnt, fitBatches)
        held = await through(model, layer, held, heldBatches)
        if (!own || !best) continue
        const removed = own.cut ? own.target - from(layer) - 1 : 0
        corrected.push({ layer, removed, ridge: best.ridge, before, after: best.after })
        before = best.after
        const slice: Parameters<typeof withTrial>[2] = tensor =>
          recordSlice(tensor, [null, null], parents.get(tensor.payload), true)
        manifest = await withTrial(manifest, best, slice, context)
        flops += model.flops
      } finally {
        await best?.dispose()
      }
    }

    /** A layer with its projections fitted: at cuts the feed-forward block's, with each pull; behind them attention's first. */
    async function* trialsOf({ layer, cut, target }: Fit): AsyncGenerator<Trial & { ridge: number }> {
      const solve = (sums: FitSums, ridge: number) =>
        fitWith(sums, ridge, context, solved => report(layer, Math.round(solved * 100) / 100))
      const values = new Map<string, Float32Array>()
      let changed: Trial | undefined
      try {
        const middle = cut
          ? undefined
          : await betweenBlocks(teacher, from(layer), await taught(from(layer)), fitBatches)
        const attention = middle && (await attentionSums(layer, middle))
        if (attention) {
          values.set(`layers.${layer}.o`, await solve(attention, ridgesBehind[0]!))
          changed = await openTrial(manifest, values, context)
        }
        const sums = await feedForwardSums(changed?.model ?? student, layer, await taught(target))
        await changed?.dispose()
        changed = undefined
        if (!sums && values.size === 0) return
        for (const ridge of cut ? ridgesAtCuts : ridgesBehind) {
          if (sums) values.set(`layers.${layer}.down`, await solve(sums, ridge))
          yield { ...(await openTrial(manifest, new Map(values), context)), ridge }
        }
      } finally {
        await changed?.dispose()
      }
    }

    /** So that the stream between the blocks is where the parent's is. */
    async function attentionSums(layer: number, middle: readonly Hidden[]): Promise<FitSums | undefined> {
      const tensor = fittableTensor(manifest, `layers.${layer}.o`, notes)
      if (!tensor) return undefined
      const tokens = []
      for (const [b, batch] of fitBatches.entries()) {
        const { taps } = await student.observe(layer, learnt[b]!, batch, { taps: ['attended'] })
        const wanted = middle[b]!.map((value, i) => value - learnt[b]![i]!)
        tokens.push(relative(batch, taps.attended!, wanted, middle[b]!, tensor.shape[0]!))
      }
      return fitSums(statistics, tensor, tokens, context)
    }

    /** So that the stream behind the layer is where the parent's is. */
    async function feedForwardSums(model: LayerRunner, layer: number, states: readonly Hidden[]) {
      const tensor = fittableTensor(manifest, `layers.${layer}.down`, notes)
      if (!tensor) return undefined
      const tokens = []
      for (const [b, batch] of fitBatches.entries()) {
        const { hidden, taps } = await model.observe(layer, learnt[b]!, batch, { taps: ['units', 'feed_forward'] })
        const added = taps.feed_forward!.data as Float32Array
        const wanted = states[b]!.map((value, i) => value - (hidden[i]! - added[i]!))
        tokens.push(relative(batch, taps.units!, wanted, states[b]!, tensor.shape[0]!))
      }
      return fitSums(statistics, tensor, tokens, context)
    }

    flops += teacher.flops + student.flops
    const { hash: written } = await writeManifest(payloads, manifest, signal)
    return {
      manifest: written,
      flops,
      measurements: {
        cuts,
        corrected,
        judgedBy: 'samples that chose the fits',
        ...(notes.length > 0 ? { notes } : {}),
      },
    }
  } finally {
    await Promise.all([teacher.dispose(), student.dispose(), statistics.dispose()])
  }
}

/** At most some of each capability judge; the rest of the held-out half fits too. */
function divided({ fit, heldOut }: Awaited<ReturnType<typeof calibrationSamples>>) {
  const most = Math.max(4, Math.ceil(judges / new Set(heldOut.map(s => s.capability)).size))
  const counts = new Map<string, number>()
  const judging = heldOut.filter(({ capability }) => {
    counts.set(capability, (counts.get(capability) ?? 0) + 1)
    return counts.get(capability)! <= most
  })
  const chosen = new Set(judging)
  return { fit: [...fit, ...heldOut.filter(sample => !chosen.has(sample))], heldOut: judging }
}

/** What a fit is made of, in squares of relative errors: each counted token by the inverse square of the length of the parent's state. */
function relative(batch: RunnerBatch, given: RuntimeTensor, wanted: Hidden, states: Hidden, width: number) {
  const weights = (countedTokens(batch).data as Float32Array).slice()
  for (const [token, counted] of weights.entries()) {
    if (counted === 0) continue
    let squares = 0
    for (let i = token * width; i < (token + 1) * width; i++) squares += states[i]! ** 2
    weights[token] = squares > 0 ? 1 / squares : 0
  }
  return { a: given, b: floats(wanted, [wanted.length / width, width]), weights: floats(weights, [weights.length, 1]) }
}
