// A manifest to one with quantised matrices: layer by layer, each calibrated on what the layers before it have become.
import { isDeepStrictEqual } from 'node:util'
import { DomainError, isDomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import {
  fittingScheme,
  mostAttempts,
  type Quantization,
  sensitivityTokens,
  wantedScheme,
} from '../../lib/quantization.js'
import type { PayloadBatch } from '../../payloads/payload-store.js'
import { type BuildableModel, checkBuildable, isInputFirst } from '../architectures/registry.js'
import { elementCount, readTensorFloat32 } from '../formats/float-weights.js'
import { type IntScheme, intDtype } from '../formats/int-blocks.js'
import { writeManifest } from '../formats/manifest.js'
import { loadTokenizer } from '../formats/tokenizer.js'
import { openCalibration } from '../inference/calibration.js'
import { type FeedbackFactor, openFactoring } from '../surgery/cholesky.js'
import { multiplyAddSession, quantiseMatrix } from '../surgery/quantise-matrix.js'
import { calibrationSequences } from './calibration-sequences.js'
import { placeOf } from './export-tensors.js'
import { fullPrecision, type NamedManifest } from './full-precision.js'
import type { HandlerContext, ProgressReport } from './handler.js'
import { type SearchedSchemes, searchSchemes } from './quantise-search.js'
import { converted, storedStream } from './tensor-streams.js'

export interface QuantisedManifest {
  manifest: string
  /** The manifest that was quantised: the one asked for, or the full-precision one it was made of. */
  source: string
  /** Types of tensors by their number: `{ Q4_0: 210, F32: 61, Q8_0: 1 }`. */
  types: Record<string, number>
  /** Matrices that stayed as they were because no block size divides their rows. */
  kept: string[]
  /** Where a budget was given: what was measured and chosen. */
  search?: SearchedSchemes['search'] & { measuredDivergence: number }
}

/** What each tensor becomes, by role; tensors without an entry stay. */
export function quantisationPlan(
  manifest: Manifest,
  model: BuildableModel,
  options: Quantization,
): { schemes: Map<string, IntScheme>; kept: string[] } {
  const tied = model.dimensions.tiedEmbeddings
  const schemes = new Map<string, IntScheme>()
  const kept: string[] = []
  for (const [role, tensor] of model.tensors) {
    const place = placeOf(model, tensor)
    if (tensor.shape.length !== 2 || !place || place.role === 'position_embed') continue
    if (isInputFirst(place, manifest.format))
      throw new DomainError(
        'UNSUPPORTED_FORMAT',
        `tensor ${tensor.name} is stored as [in, out], along which no kernel reads blocks: export the model as GGUF, ingest that and quantise it`,
      )
    const wanted = wantedScheme(role, tied, options)
    if (!wanted) continue
    const scheme = fittingScheme(tensor.shape[1]!, wanted)
    if (scheme) schemes.set(role, scheme)
    else kept.push(tensor.name)
  }
  const unknown = options.raised?.find(role => !schemes.has(role))
  if (unknown !== undefined)
    throw new DomainError('BAD_USER_INPUT', `raised: the model has no quantised matrix ${unknown}`, {
      field: ['input', 'raised'],
    })
  return { schemes, kept }
}

/**
 * @param probeSet payload of the texts to calibrate with, and to measure groups on where there is a budget
 * @throws CONFLICT, UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_FORMAT, INVALID_PROBE_DATASET, NOT_A_NUMBER naming the tensor
 */
export async function quantiseManifest(
  hash: string,
  options: Quantization,
  probeSet: string | undefined,
  context: HandlerContext,
): Promise<QuantisedManifest> {
  const { payloads, signal } = context
  const { minimumQuality, maximumBytes } = options
  const source = await fullPrecision(hash, options.requantize, payloads)
  const model = checkBuildable(source.manifest)
  const plan = quantisationPlan(source.manifest, model, options)
  const carryOut = async (schemes: ReadonlyMap<string, IntScheme>) => {
    const made = await withSchemes(source, model, schemes, options, probeSet, context)
    const types: Record<string, number> = {}
    for (const { dtype } of made.tensors) types[dtype] = (types[dtype] ?? 0) + 1
    return { made, result: { source: source.hash, types, kept: plan.kept } }
  }
  /** Only what is handed on gets a manifest: the payloads of attempts before are nobody's, and go with the next collection. */
  const written = async ({ made, result }: Awaited<ReturnType<typeof carryOut>>) => ({
    ...result,
    manifest: (await writeManifest(payloads, made, signal)).hash,
  })
  if (minimumQuality === undefined && maximumBytes === undefined) return written(await carryOut(plan.schemes))
  const sequences = await sequencesOf(source.manifest, probeSet, sensitivityTokens, context)
  const searching = await searchSchemes(source.manifest, plan.schemes, options, sequences, context)
  let choice = searching.choose(1)
  for (let scale = 1, attempt = 1; ; attempt++) {
    const attempted = await carryOut(choice.schemes)
    const measuredDivergence = await searching.measure(attempted.made)
    if (minimumQuality === undefined || Math.exp(-measuredDivergence) >= minimumQuality)
      return { ...(await written(attempted)), search: { ...choice.search, measuredDivergence } }
    const { predictedDivergence } = choice.search
    // Where the groups add nothing, or can add no less, another attempt comes to the same.
    const canImprove = attempt < mostAttempts && predictedDivergence > 0
    if (canImprove) scale *= (furtherThanMeasured * measuredDivergence) / predictedDivergence
    const next = canImprove ? searching.choose(scale) : choice
    if (isEqual(next.schemes, choice.schemes)) throw missed(minimumQuality, measuredDivergence, attempt, choice)
    choice = next
  }
}

const isEqual = (a: ReadonlyMap<string, IntScheme>, b: ReadonlyMap<string, IntScheme>) =>
  a.size === b.size && [...a].every(([role, scheme]) => isDeepStrictEqual(scheme, b.get(role)))

/** The least quality was not met; says so of embeddings and head where nothing else is left to change. */
function missed(
  minimumQuality: number,
  divergence: number,
  attempts: number,
  { schemes, search }: SearchedSchemes,
): DomainError {
  const tables = [...schemes].filter(([role]) => role === 'embed' || role === 'lm_head')
  const forms = tables.map(([role, scheme]) => `${role} as ${intDtype(scheme)}`).join(', ')
  const isTheirs = !(search.predictedDivergence > 0) && tables.length > 0
  const reason = isTheirs
    ? `: what is rounded in the layers no longer moves predictions, but embeddings and head do (${forms}), which are rounded as asked for: KEEP leaves them as they are`
    : ''
  const quality = Math.exp(-divergence).toFixed(6)
  return new DomainError(
    'BAD_USER_INPUT',
    `minimumQuality: ${minimumQuality}, but ${quality} is what ${attempts} attempt${attempts === 1 ? '' : 's'} came to${reason}`,
    { field: ['input', 'minimumQuality'] },
  )
}

/** Aimed at beyond what an attempt was short of. */
const furtherThanMeasured = 1.05

async function sequencesOf(
  manifest: Manifest,
  probeSet: string | undefined,
  tokens: number,
  { payloads }: HandlerContext,
): Promise<number[][]> {
  if (probeSet === undefined)
    throw new DomainError('BAD_USER_INPUT', 'Calibration needs a probe set', { field: ['input', 'probeDatasetId'] })
  const tokenizer = await loadTokenizer(manifest, payloads)
  const { contextLength } = checkBuildable(manifest).dimensions
  return calibrationSequences(await payloads.get(probeSet), tokenizer, contextLength, tokens)
}

/** The source with these matrices rounded. */
async function withSchemes(
  source: NamedManifest,
  model: BuildableModel,
  schemes: ReadonlyMap<string, IntScheme>,
  options: Quantization,
  probeSet: string | undefined,
  context: HandlerContext,
): Promise<Manifest> {
  const total = [...schemes.keys()].reduce((sum, role) => sum + elementCount(model.tensors.get(role)!.shape), 0)
  let completed = 0
  const changed = new Map<string, ManifestTensor>()
  const report = (metrics?: ProgressReport['metrics']) =>
    context.progress({ stage: 'quantise', completed, total, unit: 'weights', ...(metrics && { metrics }) })
  const done = (role: string, tensor: ManifestTensor) => {
    changed.set(role, tensor)
    completed += elementCount(tensor.shape)
    report()
  }
  report()
  if (options.method === 'ROUND_TO_NEAREST') await roundAll(model, schemes, done, context)
  else {
    const sequences = await sequencesOf(source.manifest, probeSet, options.calibrationTokens, context)
    await calibrateAll(model, schemes, sequences, { done, factored: share => report({ factored: share }) }, context)
  }
  const byName = new Map([...changed.values()].map(tensor => [tensor.name, tensor]))
  const { sourceFiles: _ofTheSource, fusedFrom: _unrounded, ...rest } = source.manifest
  const tensors = rest.tensors.map(tensor => byName.get(tensor.name) ?? tensor)
  return { ...rest, tensors, quantisedFrom: source.hash }
}

/** Payloads that appear together. */
async function inBatch(context: HandlerContext, put: (batch: PayloadBatch) => Promise<void>): Promise<void> {
  const batch = context.payloads.batch(context.signal)
  try {
    await put(batch)
    await batch.commit()
  } finally {
    await batch.rollback()
  }
}

type Done = (role: string, tensor: ManifestTensor) => void

const quantised = (
  tensor: ManifestTensor,
  scheme: IntScheme,
  stored: { hash: string; bytes: number },
): ManifestTensor => ({
  ...tensor,
  dtype: intDtype(scheme),
  bytes: stored.bytes,
  payload: stored.hash,
})

/** Streams: no tensor is held whole. */
const roundAll = (
  { tensors }: BuildableModel,
  schemes: ReadonlyMap<string, IntScheme>,
  done: Done,
  context: HandlerContext,
) =>
  inBatch(context, async batch => {
    const { payloads, signal } = context
    for (const [role, scheme] of schemes) {
      signal.throwIfAborted()
      const tensor = tensors.get(role)!
      const stream = converted(storedStream(tensor, tensor.name, payloads), intDtype(scheme))
      done(role, quantised(tensor, scheme, await batch.put(stream.chunks(signal))))
    }
  })

interface Reports {
  done: Done
  /** How much of the factor of a tensor's inputs is there, 0 to 1. */
  factored(share: number): void
}

async function calibrateAll(
  source: BuildableModel,
  schemes: ReadonlyMap<string, IntScheme>,
  sequences: readonly (readonly number[])[],
  { done, factored }: Reports,
  context: HandlerContext,
) {
  const { payloads, signal, dataFolder, env } = context
  const { layerCount } = source.dimensions
  const calibration = await openCalibration(source, sequences, context)
  const sessions = { weightsFolder: dataFolder, threads: env.HARTONOMOUS_THREADS }
  const product = await multiplyAddSession(sessions)
  const factoring = await openFactoring(sessions)
  const progress = (share: number) => factored(Math.round(share * 100) / 100)
  // The model as far as it is quantised.
  const tensors = new Map(source.tensors)
  const model: BuildableModel = { ...source, tensors }
  // A batch each: the next layer is calibrated on what this one gives, so that its bytes must be in the store to run.
  const replace = (grams: ReadonlyMap<string, Float32Array>) =>
    inBatch(context, async batch => {
      let known: { gram: Float32Array; factor: FeedbackFactor } | undefined
      for (const [role, gram] of grams) {
        const scheme = schemes.get(role)
        if (!scheme) continue
        signal.throwIfAborted()
        const tensor = source.tensors.get(role)!
        const [rows, columns] = tensor.shape as [number, number]
        // Roles of one input follow each other.
        if (known?.gram !== gram) {
          const factor = await ofTensor(tensor, factoring.factor(gram, columns, { signal, progress }))
          known = { gram, factor }
        }
        const values = await readTensorFloat32(payloads, tensor)
        const rounded = quantiseMatrix(values, rows, scheme, known.factor, product.multiplyAdd, signal)
        const bytes = await ofTensor(tensor, rounded)
        const stored = quantised(tensor, scheme, await batch.putBytes(bytes))
        tensors.set(role, stored)
        done(role, stored)
      }
    })
  try {
    let state = await calibration.embed(model)
    for (let layer = 0; layer < layerCount; layer++) {
      signal.throwIfAborted()
      await replace(await calibration.layerGrams(model, layer, state))
      state = await calibration.layer(model, layer, state)
    }
    await replace(await calibration.headGram(model, state))
    // Tables that no calibration reaches: embeddings apart from the head.
    const rest = [...schemes].filter(([role]) => tensors.get(role) === source.tensors.get(role))
    await roundAll(source, new Map(rest), done, context)
  } finally {
    await Promise.all([product.dispose(), factoring.dispose()])
  }
}

/** The work, whose failure for the numbers' sake names the tensor. */
const ofTensor = <T>({ name }: ManifestTensor, work: Promise<T>): Promise<T> =>
  work.catch(error => {
    if (!isDomainError(error) || error.code !== 'NOT_A_NUMBER') throw error
    throw new DomainError(error.code, `tensor ${name}: ${error.message}`, { cause: error })
  })
