// Codes for each group of matrices that meet a budget of bytes or of quality: how much each group alone moves predictions is measured, then chosen.
import { createHash } from 'node:crypto'
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import { blockBytes, fittingScheme, type Quantization, type WeightScheme } from '../../lib/quantization.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { dequantize } from '../formats/dequantize.js'
import { elementCount, readTensorFloat32 } from '../formats/float-weights.js'
import { intDtype } from '../formats/int-blocks.js'
import { quantize } from '../formats/quantize.js'
import { openDivergence } from '../inference/head-divergence.js'
import { type LayerRunner, openLayers, type RunnerBatch, toBatches } from '../inference/layer-runner.js'
import { type ChosenSchemes, chooseSchemes, type SchemeChoice, type SchemeGroup } from '../surgery/choose-schemes.js'
import type { HandlerContext } from './handler.js'

/** Of a layer: what is multiplied at once must have one form, or it is multiplied one by one. */
const groupRoles = [['q', 'k', 'v'], ['o'], ['gate', 'up'], ['down']] as const

/** What a group can become, from the fewest bytes on; undefined: it stays. */
const candidates: Record<Quantization['type'], readonly (WeightScheme | undefined)[]> = {
  INT4: [
    { bits: 4, symmetric: true, blockSize: 128 },
    { bits: 4, symmetric: true, blockSize: 64 },
    { bits: 4, symmetric: true, blockSize: 32 },
    { bits: 4, symmetric: false, blockSize: 32 },
    { bits: 8, symmetric: true, blockSize: 32 },
    undefined,
  ],
  INT8: [{ bits: 8, symmetric: true, blockSize: 128 }, { bits: 8, symmetric: true, blockSize: 32 }, undefined],
}

/** What divergences are measured with: of the candidates the one whose errors stand out of rounding in float32. */
const measuredWith: WeightScheme = { bits: 4, symmetric: true, blockSize: 32 }

/** Error feedback leaves about so much of the divergence of rounding to nearest (bench quantise: 0.115 against 0.322 nats). */
const feedbackLeaves = 0.4

export interface SearchedSchemes {
  schemes: Map<string, WeightScheme>
  /** Figures for the report. */
  search: {
    groups: number
    tokens: number
    /** Sum over the groups, as measured or scaled from it. */
    predictedDivergence: number
    /** Of the layers' matrices. */
    bytes: number
    /** Groups by what they became. */
    choices: Record<string, number>
    /** The groups that move predictions most at 4 bits: nats. */
    mostSensitive: { group: string; divergence: number }[]
  }
}

export interface SchemeSearch {
  /**
   * @param scale how much further the whole moves than the sum of its groups
   * @throws BAD_USER_INPUT where the fewest bytes are too many, or the quality is not to be expected within the bytes
   */
  choose(scale: number): SearchedSchemes
  /** Mean KL divergence, nats, of what was made from the model before, on the texts that the groups were measured on. */
  measure(made: Manifest): Promise<number>
}

/**
 * Measures each group.
 * @param fixed what embeddings and head become: they are not chosen here
 */
export async function searchSchemes(
  manifest: Manifest,
  fixed: ReadonlyMap<string, WeightScheme>,
  options: Quantization,
  sequences: readonly (readonly number[])[],
  context: HandlerContext,
): Promise<SchemeSearch> {
  const model = checkBuildable(manifest)
  const batches = toBatches(sequences.map(ids => ({ capability: '', ids, completionStart: 1 })))
  const { groups, references } = await measuredGroups(manifest, model, options, batches, context)
  const inGroups = new Set(groups.flatMap(({ roles }) => roles))
  const rest = [...model.tensors].reduce((sum, [role, tensor]) => {
    if (inGroups.has(role)) return sum
    const scheme = fixed.get(role)
    return sum + (scheme ? bytesOf(tensor, scheme) : tensor.bytes)
  }, 0)
  const { maximumBytes, minimumQuality } = options
  const sensitivity = groups
    .map(({ roles, choices }) => ({
      group: roles.join('+'),
      divergence: Math.max(...choices.map(choice => choice.divergence)),
    }))
    .sort((a, b) => b.divergence - a.divergence)
  return {
    choose(scale) {
      const chosen = chooseSchemes(groups, {
        maximumBytes: maximumBytes === undefined ? undefined : maximumBytes - rest,
        divergence: minimumQuality === undefined ? undefined : -Math.log(minimumQuality) / scale,
      })
      checkMet(chosen, rest, options, scale)
      const schemes = new Map([...fixed].filter(([role]) => !inGroups.has(role)))
      const counts: Record<string, number> = {}
      groups.forEach(({ roles }, i) => {
        const { scheme } = chosen.choices[i]!
        const name = scheme ? intDtype(scheme) : 'kept'
        counts[name] = (counts[name] ?? 0) + 1
        if (scheme) for (const role of roles) schemes.set(role, scheme)
      })
      return {
        schemes,
        search: {
          groups: groups.length,
          tokens: sequences.reduce((sum, ids) => sum + ids.length, 0),
          predictedDivergence: chosen.divergence * scale,
          bytes: chosen.bytes + rest,
          choices: counts,
          mostSensitive: sensitivity.slice(0, 8),
        },
      }
    },
    async measure(made) {
      const runner = await openLayers(made, context)
      const head = await openDivergence(checkBuildable(made), context)
      try {
        const states: Float32Array[] = []
        for (const batch of batches) states.push(await runner.embed(batch))
        const ends = await runFrom(runner, 0, states, batches)
        return await meanDivergence(head, references, ends, batches)
      } finally {
        await Promise.all([runner.dispose(), head.dispose()])
      }
    },
  }
}

/** What the layers from one on make of residual streams. */
async function runFrom(
  runner: LayerRunner,
  from: number,
  states: readonly Float32Array[],
  batches: readonly RunnerBatch[],
): Promise<Float32Array[]> {
  const ends: Float32Array[] = []
  for (const [b, batch] of batches.entries()) {
    let state = states[b]!
    for (let layer = from; layer < runner.dimensions.layerCount; layer++)
      state = await runner.layer(layer, state, batch)
    ends.push(state)
  }
  return ends
}

async function meanDivergence(
  head: Awaited<ReturnType<typeof openDivergence>>,
  references: readonly Float32Array[],
  ends: readonly Float32Array[],
  batches: readonly RunnerBatch[],
): Promise<number> {
  const rows = batches.map(({ samples, seq }) => samples.length * seq)
  const all = rows.reduce((sum, n) => sum + n, 0)
  let mean = 0
  for (const [b, end] of ends.entries()) mean += ((await head.divergence(references[b]!, end)) * rows[b]!) / all
  return mean
}

function checkMet(
  chosen: ChosenSchemes,
  rest: number,
  { maximumBytes, minimumQuality, type }: Quantization,
  scale: number,
) {
  const bytes = chosen.bytes + rest
  if (maximumBytes !== undefined && bytes > maximumBytes)
    throw new DomainError(
      'BAD_USER_INPUT',
      `maximumBytes: ${maximumBytes}, but with all layers at the fewest bits that type ${type} allows it is ${bytes} bytes, ${rest} of them embeddings, head and norms`,
      { field: ['input', 'maximumBytes'] },
    )
  const quality = Math.exp(-chosen.divergence * scale)
  if (minimumQuality !== undefined && quality < minimumQuality)
    throw new DomainError(
      'BAD_USER_INPUT',
      `minimumQuality: ${minimumQuality}, but within ${maximumBytes ?? bytes} bytes ${quality.toFixed(4)} is what is to be expected`,
      { field: ['input', 'minimumQuality'] },
    )
}

const bytesOf = ({ shape }: ManifestTensor, scheme: WeightScheme) =>
  (elementCount(shape) / scheme.blockSize) * blockBytes(scheme)

/** The same scheme for all tensors of a group; undefined where rows are no whole blocks. */
const schemeOf = (tensors: readonly ManifestTensor[], wanted: WeightScheme) => {
  const fitting = tensors.map(({ shape }) => fittingScheme(shape[1]!, wanted))
  const smallest = fitting.reduce((a, b) => (a && b ? (a.blockSize <= b.blockSize ? a : b) : undefined))
  return smallest
}

async function measuredGroups(
  manifest: Manifest,
  model: BuildableModel,
  { type, method, raised }: Quantization,
  batches: readonly RunnerBatch[],
  context: HandlerContext,
): Promise<{ groups: SchemeGroup[]; references: Float32Array[] }> {
  const { layerCount } = model.dimensions
  const runner = await openLayers(manifest, context)
  const head = await openDivergence(model, context)
  const groups: SchemeGroup[] = []
  try {
    let states: Float32Array[] = []
    for (const batch of batches) states.push(await runner.embed(batch))
    const references: Float32Array[] = []
    for (const end of await runFrom(runner, 0, states, batches)) references.push(await head.logits(end))
    for (let layer = 0; layer < layerCount; layer++) {
      for (const within of groupRoles) {
        context.signal.throwIfAborted()
        context.progress({ stage: 'sensitivity', completed: groups.length, total: layerCount * 4, unit: 'groups' })
        const roles = within.map(role => `layers.${layer}.${role}`).filter(role => model.tensors.has(role))
        const tensors = roles.map(role => model.tensors.get(role)!)
        const scheme = tensors.length > 0 ? schemeOf(tensors, measuredWith) : undefined
        if (!scheme) continue
        const values = await Promise.all(tensors.map(tensor => readTensorFloat32(context.payloads, tensor)))
        const changed = withRounded(manifest, tensors, values, scheme, context.payloads)
        const rounded = await openLayers(changed.manifest, { ...context, payloads: changed.payloads })
        const after: Float32Array[] = []
        for (const [b, batch] of batches.entries()) after.push(await rounded.layer(layer, states[b]!, batch))
        await rounded.dispose()
        const ends = await runFrom(runner, layer + 1, after, batches)
        const divergence = await meanDivergence(head, references, ends, batches)
        const leaves = method === 'ROUND_TO_NEAREST' ? 1 : feedbackLeaves
        const choices = choicesOf(tensors, values, type, scheme, divergence * leaves)
        // What is multiplied at once has one form, so that one raised matrix raises those beside it.
        const isRaised = roles.some(role => raised?.includes(role))
        groups.push({ roles, choices: isRaised ? choices.filter(({ scheme }) => scheme?.bits !== 4) : choices })
      }
      const next: Float32Array[] = []
      for (const [b, batch] of batches.entries()) next.push(await runner.layer(layer, states[b]!, batch))
      states = next
    }
    return { groups, references }
  } finally {
    await Promise.all([runner.dispose(), head.dispose()])
  }
}

/** The manifest with these tensors rounded, and a store that has them in memory only: read once by one layer's session. */
function withRounded(
  manifest: Manifest,
  tensors: readonly ManifestTensor[],
  values: readonly Float32Array[],
  scheme: WeightScheme,
  payloads: PayloadStore,
): { manifest: Manifest; payloads: PayloadStore } {
  const dtype = intDtype(scheme)
  const trial = new Map<string, Uint8Array>()
  const changed = new Map<string, ManifestTensor>()
  for (const [i, tensor] of tensors.entries()) {
    const bytes = quantize(dtype, values[i]!)
    const payload = createHash('sha256').update(bytes).digest('hex')
    trial.set(payload, bytes)
    changed.set(tensor.name, { ...tensor, dtype, bytes: bytes.length, payload })
  }
  async function* open(hash: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const bytes = trial.get(hash)
    if (bytes) yield bytes.subarray(offset, length === undefined ? undefined : offset + length)
    else yield* payloads.open(hash, offset, length)
  }
  const size = async (hash: string) => trial.get(hash)?.length ?? payloads.size(hash)
  return {
    manifest: { ...manifest, tensors: manifest.tensors.map(tensor => changed.get(tensor.name) ?? tensor) },
    payloads: { ...payloads, open, size },
  }
}

/** Sum of squares that rounding changes the values by. */
function squaredError(values: Float32Array, scheme: WeightScheme): number {
  const bytes = quantize(intDtype(scheme), values)
  const rounded = new Float32Array(values.length)
  dequantize(intDtype(scheme), bytes, rounded)
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i]! - rounded[i]!) ** 2
  return sum
}

/** Divergences of the other codes follow from the measured one: to second order they go as the squared error of the weights. */
function choicesOf(
  tensors: readonly ManifestTensor[],
  values: readonly Float32Array[],
  type: Quantization['type'],
  measured: WeightScheme,
  divergence: number,
): SchemeChoice[] {
  const errorOf = (scheme: WeightScheme) => values.reduce((sum, own) => sum + squaredError(own, scheme), 0)
  const whole = errorOf(measured)
  const found = new Map<string, SchemeChoice>()
  for (const wanted of candidates[type]) {
    const scheme = wanted && schemeOf(tensors, wanted)
    if (wanted && !scheme) continue
    const choice: SchemeChoice = scheme
      ? {
          scheme,
          bytes: tensors.reduce((sum, tensor) => sum + bytesOf(tensor, scheme), 0),
          divergence: whole > 0 ? (divergence * errorOf(scheme)) / whole : 0,
        }
      : { scheme: undefined, bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0), divergence: 0 }
    found.set(scheme ? intDtype(scheme) : 'kept', choice)
  }
  return [...found.values()]
}
