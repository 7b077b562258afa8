// The stage that makes up for removed layers without training: at each cut the feed-forward block before it is fitted anew, so that the
// residual stream is where the removed layers left it (after ReplaceMe, arXiv 2505.02819, whose map is a special case of it), and the
// blocks behind cuts are fitted to the parent's stream, each kept only where the loss on held-out samples falls.
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
  type RunnerBatch,
  type Statistics,
  toBatches,
} from '../../inference/layer-runner.js'
import { floats, type RuntimeTensor } from '../../runtime/session.js'
import { ridgeFrom } from '../../surgery/least-squares.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { parentTensors } from './apply-pruning.js'
import { calibrationSamples } from './calibration.js'
import { finishLoss } from './choose-by-loss.js'

const name = 'correctCuts'

/** Pulls towards the weights that are there, times the mean square of what a projection takes. At a cut the held-out loss chooses. */
const ridgesAtCuts = [0.03, 0.3, 3]
/** Behind cuts little is to be made up for, and one pull is tried. */
const ridgesBehind = [0.1]

/** Held-out samples per capability that fits are judged on; those beyond serve fitting. */
const judges = 4

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
  before: number
  after: number
}

export async function correctCutsStage(
  hash: string,
  { calibration }: { calibration: Calibration | undefined },
  context: StageContext,
): Promise<StageOutcome> {
  const { payloads, signal, input } = context
  const manifest = await readManifest(payloads, hash)
  const whole = await readManifest(payloads, input.parent)
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
  const made: Made = { manifest, model: student }
  let flops = 0
  try {
    const taught = parentStream(teacher, fitBatches)
    let [learnt, held] = [await embedded(student, fitBatches), await embedded(student, heldBatches)]
    let before = await finishLoss(student, 0, held, heldBatches)
    const from = (layer: number) => manifest.parent!.layers[layer]!

    for (let layer = 0; layer < layerCount; layer++) {
      const metrics = { corrected: corrected.length, heldOutLoss: before }
      context.progress({ stage: name, completed: layer, total: layerCount, unit: 'layers', metrics })
      const own = fits.find(one => one.layer === layer)
      let best: (Made & { after: number; ridge: number }) | undefined
      if (own) {
        const attention = own.cut
          ? undefined
          : await attentionOf(teacher, from(layer), await taught(from(layer)), fitBatches)
        for (const ridge of own.cut ? ridgesAtCuts : ridgesBehind) {
          const tried = await refitted(
            { manifest: made.manifest, model: student },
            layer,
            attention,
            await taught(own.target),
            ridge,
          )
          if (!tried) break
          const after = await finishLoss(
            student,
            layer + 1,
            await through(tried.model, layer, held, heldBatches),
            heldBatches,
          )
          if (after < (best?.after ?? before)) {
            await best?.model.dispose()
            best = { ...tried, after, ridge }
          } else await tried.model.dispose()
        }
      }
      const model = best?.model ?? student
      learnt = await through(model, layer, learnt, fitBatches)
      held = await through(model, layer, held, heldBatches)
      if (best && own) {
        const removed = own.cut ? own.target - from(layer) - 1 : 0
        corrected.push({ layer, removed, ridge: best.ridge, before, after: best.after })
        before = best.after
        made.manifest = best.manifest
        flops += best.model.flops
        await best.model.dispose()
      }
    }

    /** The layer with its projections fitted: first attention's, where the parent's is given, then the feed-forward block's. Undefined where neither can be. */
    async function refitted(
      of: Made,
      layer: number,
      attention: Attended | undefined,
      wanted: readonly Hidden[],
      ridge: number,
    ) {
      let now: Made | undefined
      if (attention) {
        const given: RuntimeTensor[] = []
        for (const [b, batch] of fitBatches.entries())
          given.push((await of.model.observe(layer, learnt[b]!, batch, { taps: ['attended'] })).taps.attended!)
        const targets = attention.middle.map((middle, b) => difference(middle, learnt[b]!))
        now = await fitted(of, `layers.${layer}.o`, given, targets, attention.middle, ridge)
      }
      const given: RuntimeTensor[] = []
      const targets: Hidden[] = []
      for (const [b, batch] of fitBatches.entries()) {
        const { hidden, taps } = await (now ?? of).model.observe(layer, learnt[b]!, batch, {
          taps: ['units', 'feed_forward'],
        })
        given.push(taps.units!)
        const added = taps.feed_forward!.data as Float32Array
        // What the block has to add, so that the stream is where the parent's is.
        targets.push(wanted[b]!.map((value, i) => value - (hidden[i]! - added[i]!)))
      }
      const after = await fitted(now ?? of, `layers.${layer}.down`, given, targets, wanted, ridge)
      if (after && now) await now.model.dispose()
      return after ?? now
    }

    /** One projection by least squares of relative errors: each token counts the inverse square of the length of the parent's state. */
    async function fitted(
      { manifest: of }: Made,
      role: string,
      given: readonly RuntimeTensor[],
      targets: readonly Hidden[],
      states: readonly Hidden[],
      ridge: number,
    ): Promise<Made | undefined> {
      const index = of.tensors.findIndex(t => t.role === role)
      const tensor = of.tensors[index]
      const { inputFirst, tensors } = checkBuildable(of)
      // A bias or a matrix stored the other way round is not fitted.
      if (!tensor || inputFirst.has(role) || tensors.has(`${role}_bias`)) return undefined
      const [outputs, inputs] = tensor.shape as [number, number]
      const pairs = given.map((a, b) => ({ a, b: a, weights: relativeWeights(fitBatches[b]!, states[b]!, outputs) }))
      const crosses = pairs.map((pair, b) => ({
        ...pair,
        b: floats(targets[b]!, [targets[b]!.length / outputs, outputs]),
      }))
      const values = await solve(statistics, pairs, crosses, await readTensorFloat32(payloads, tensor), {
        inputs,
        outputs,
        ridge,
      })
      const { hash: payload, bytes } = await payloads.put([new Uint8Array(values.buffer)], signal)
      const slice = recordSlice(tensor, [null, null], parents.get(tensor.payload), true)
      const next: ManifestTensor = { ...tensor, dtype: 'F32', bytes, payload, slice }
      const changed = { ...of, tensors: of.tensors.with(index, next) }
      return { manifest: changed, model: await openLayers(changed, context) }
    }

    flops += teacher.flops + student.flops
    const { hash: written } = await writeManifest(payloads, made.manifest, signal)
    return { manifest: written, flops, measurements: { cuts, corrected } }
  } finally {
    await Promise.all([teacher.dispose(), student.dispose(), statistics.dispose()])
  }
}

interface Made {
  manifest: Manifest
  model: LayerRunner
}
interface Attended {
  /** The parent's stream between the two blocks of a layer. */
  middle: Hidden[]
}

/** At most some of each capability judge; the rest of the held-out half fits too. */
function divided({ fit, heldOut }: Awaited<ReturnType<typeof calibrationSamples>>) {
  const counts = new Map<string, number>()
  const judging = heldOut.filter(({ capability }) => {
    counts.set(capability, (counts.get(capability) ?? 0) + 1)
    return counts.get(capability)! <= judges
  })
  const chosen = new Set(judging)
  return { fit: [...fit, ...heldOut.filter(sample => !chosen.has(sample))], heldOut: judging }
}

const embedded = async (model: LayerRunner, batches: readonly RunnerBatch[]): Promise<Hidden[]> => {
  const states: Hidden[] = []
  for (const batch of batches) states.push(await model.embed(batch))
  return states
}

async function through(model: LayerRunner, layer: number, states: readonly Hidden[], batches: readonly RunnerBatch[]) {
  const after: Hidden[] = []
  for (const [b, batch] of batches.entries()) after.push(await model.layer(layer, states[b]!, batch))
  return after
}

/** The residual stream before any layer, run on as far as it is asked for; asked for an earlier one, it begins again. */
function parentStream(model: LayerRunner, batches: readonly RunnerBatch[]): (layer: number) => Promise<Hidden[]> {
  let [at, states] = [0, undefined as Hidden[] | undefined]
  return async layer => {
    if (!states || layer < at) [at, states] = [0, await embedded(model, batches)]
    for (; at < layer; at++) states = await through(model, at, states, batches)
    return states
  }
}

async function attentionOf(
  model: LayerRunner,
  layer: number,
  states: readonly Hidden[],
  batches: readonly RunnerBatch[],
): Promise<Attended> {
  const middle: Hidden[] = []
  for (const [b, batch] of batches.entries()) {
    const added = (await model.observe(layer, states[b]!, batch, { taps: ['attention'] })).taps.attention!
      .data as Float32Array
    middle.push(states[b]!.map((value, i) => value + added[i]!))
  }
  return { middle }
}

const difference = (a: Hidden, b: Hidden): Hidden => a.map((value, i) => value - b[i]!)

/** Counted tokens, each by the inverse square of its state's length. */
function relativeWeights(batch: RunnerBatch, states: Hidden, width: number): RuntimeTensor {
  const weights = (countedTokens(batch).data as Float32Array).slice()
  for (const [token, counted] of weights.entries()) {
    if (counted === 0) continue
    let squares = 0
    for (let i = token * width; i < (token + 1) * width; i++) squares += states[i]! ** 2
    weights[token] = squares > 0 ? 1 / squares : 0
  }
  return floats(weights, [weights.length, 1])
}

type Products = Parameters<Statistics['productSums']>[0]

const solve = async (
  statistics: Statistics,
  pairs: Products,
  crosses: Products,
  prior: Float32Array,
  options: { inputs: number; outputs: number; ridge: number },
) => ridgeFrom(await statistics.productSums(pairs), await statistics.productSums(crosses), prior, options)
