// A model being trained: its trained weights in memory with their gradients and moments, frozen ones mapped, and a session that takes steps.
import { relative } from 'node:path'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { causalMask } from '../autodiff/differentiable.js'
import {
  checkDerivedFits,
  ensureFloat32,
  keepFiles,
  readTensorFloat32,
  releaseFiles,
} from '../formats/float-weights.js'
import type { ExternalData } from '../graph/ir.js'
import { positionInputs } from '../inference/graph-inputs.js'
import { ropeTables } from '../inference/rope.js'
import { seededRandom } from '../inference/sampling.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import { createSession, floats, int64s, type RuntimeTensor, type Session } from '../runtime/session.js'
import { createAccumulator } from './accumulator.js'
import { type AdamWOptions, createAdamW, type TrainedTensor, trainedTensor } from './adamw.js'
import { batchFeeds, type TrainingBatch } from './batch-feeds.js'
import { createMuon, type MuonOptions } from './muon.js'
import {
  gradientOf,
  loraB,
  type TrainingGraphOptions,
  trainedNames,
  trainedShape,
  trainingGraph,
} from './training-graph.js'

export interface TrainingContext {
  payloads: PayloadStore
  dataFolder: string
  env: Pick<Env, 'HARTONOMOUS_THREADS' | 'HARTONOMOUS_DERIVED_BYTES'>
  signal?: AbortSignal
  /** Where the times of the training graph's nodes are written (see `SessionOptions.profile`). */
  profile?: string
}

export interface Losses {
  /** Weighted sums over the batch's rows, in nats; 0 where the loss is not asked for. */
  crossEntropy: number
  divergence: number
  hidden: number
  attention: number
}

export interface StepResult extends Losses {
  /** L2 norm of all gradients together, before clipping. */
  gradientNorm: number
}

export interface TrainingModel {
  readonly model: BuildableModel
  readonly tensors: readonly TrainedTensor[]
  /**
   * One update from one or more batches, whose row weights say what each token counts.
   * @param step counted from 1, named in errors
   * @throws NOT_A_NUMBER with the step and the tensor
   */
  step(batches: readonly TrainingBatch[], learningRate: number, step: number): Promise<StepResult>
  /** Losses without a step; the weights are the current ones. */
  losses(batch: TrainingBatch): Promise<Losses>
  /** Weighted cross-entropy alone, whatever is trained on. */
  crossEntropy(batch: TrainingBatch): Promise<number>
  dispose(): Promise<void>
}

export interface TrainingModelOptions extends Omit<TrainingGraphOptions, 'headChunks'> {
  optimiser: AdamWOptions
  /** Trains the matrices that `of` names (by role), at `rateFactor` times the learning rate; the others stay with AdamW. Absent: none. */
  muon?: (MuonOptions & { of(role: string): boolean; rateFactor: number }) | undefined
  /** Whether a tensor (by role) is decayed. */
  decayed(role: string): boolean
  /** Gradients are scaled down to this norm together; absent: not. */
  clip?: number | undefined
  /** Most rows of the output layer in one batch, and most logits computed at once. */
  maximumRows: number
  /** The same of what `crossEntropy` is asked for; absent: alike. */
  maximumJudgedRows?: number | undefined
  /** Of the low-rank factors' first values. */
  seed: number
}

/**
 * Most logits of one chunk of rows: 48 M are 192 MB. A product with few rows reads the head's weight and its gradient for little work: the head's
 * three are a tenth faster in one chunk of 1,020 rows of 49,152 than in three of 340.
 */
const chunkLogits = 48 * 1024 * 1024

/** @throws what opening a model throws */
export async function openTrainingModel(
  manifest: Manifest,
  context: TrainingContext,
  options: TrainingModelOptions,
): Promise<TrainingModel> {
  const model = checkBuildable(manifest)
  const { dimensions: d, tensors } = model
  checkDerivedFits(tensors.values(), context.env, manifest.sourceName ?? `A ${manifest.architecture} model`)
  const kept = keepFiles()
  const files = new Map<string, ExternalData>()
  const names = trainedNames(options)
  const trained: TrainedTensor[] = []
  const random = seededRandom(options.seed)
  for (const [role, tensor] of tensors) {
    throwIfCancelled(context.signal)
    if (options.trained.includes(role)) continue
    const path = await ensureFloat32({ ...context, kept }, tensor)
    files.set(role, {
      location: relative(context.dataFolder, path),
      offset: 0,
      length: tensor.shape.reduce((product, size) => product * size, 4),
    })
  }
  for (const name of names) {
    throwIfCancelled(context.signal)
    const shape = trainedShape(model, name, options.lora)
    const whole = tensors.get(name)
    const weight = whole
      ? await readTensorFloat32(context.payloads, whole)
      : name.startsWith(loraB(''))
        ? new Float32Array(shape[0]! * shape[1]!)
        : firstFactor(shape, random)
    trained.push(trainedTensor(name, shape, weight, options.decayed(name)))
  }
  const chunksOf = (rows: number) => Math.max(1, Math.ceil((rows * d.vocabularySize) / chunkLogits))
  const factors = tensors.get('rope_factors')
  const ropeFactors = factors && (await readTensorFloat32(context.payloads, factors))
  const threads = context.env.HARTONOMOUS_THREADS
  const sessionOptions = { weightsFolder: context.dataFolder, threads, spin: true }
  const locate = (role: string) => files.get(role) ?? { location: '', offset: 0, length: 0 }
  const graphOptions = { ...options, headChunks: chunksOf(options.maximumRows) }
  const { profile } = context
  const session = await createSession(trainingGraph(model, locate, graphOptions), { ...sessionOptions, profile })
  let measuring: Promise<Session> | undefined
  let judging: Promise<Session> | undefined
  const byMuon = (name: string) => options.muon?.of(name) ?? false
  const optimiser = await createAdamW(
    trained.filter(({ name }) => !byMuon(name)),
    options.optimiser,
    sessionOptions,
  )
  const muon =
    options.muon &&
    (await createMuon(
      trained.filter(({ name }) => byMuon(name)),
      options.muon,
      sessionOptions,
    ))
  const accumulator = await createAccumulator(sessionOptions)

  const weights = Object.fromEntries(trained.map(({ name, shape, weight }) => [name, floats(weight, shape)]))
  const gradients = (of: readonly { name: string; shape: readonly number[]; gradient: Float32Array }[]) =>
    Object.fromEntries(of.map(({ name, shape, gradient }) => [gradientOf(name), floats(gradient, shape)]))
  const own = gradients(trained)
  let further: Record<string, RuntimeTensor> | undefined

  const asked = positionInputs(model)
  const constantFeeds = new Map<string, Record<string, RuntimeTensor>>()
  /** Tables, positions and the mask of a batch of this shape. */
  const makeShapeFeeds = (batch: number, seq: number): Record<string, RuntimeTensor> => {
    const rope = asked.tables ? ropeTables(d, seq, ropeFactors) : undefined
    const shape = [seq, d.headSize / 2]
    const positions = Array.from({ length: batch * seq }, (_, i) => i % seq)
    return {
      ...(rope ? { rope_cos: floats(rope.cos, shape), rope_sin: floats(rope.sin, shape) } : undefined),
      ...(asked.ids ? { position_ids: int64s(positions, [batch, seq]) } : undefined),
      causal_mask: floats(causalMask(seq, d.slidingWindow), [seq, seq]),
    }
  }
  /** Steps are of few shapes. */
  const shapeFeeds = (batch: number, seq: number) => {
    const key = `${batch} ${seq}`
    const feeds = constantFeeds.get(key) ?? makeShapeFeeds(batch, seq)
    constantFeeds.set(key, feeds)
    return feeds
  }
  const feedsOf = (batch: TrainingBatch) => ({
    ...weights,
    ...shapeFeeds(batch.rows.length, batch.seq),
    ...batchFeeds(batch, d, graphOptions),
  })
  const lossNames = [
    ...(options.crossEntropy ? ['cross_entropy'] : []),
    ...(options.divergence ? ['divergence'] : []),
    ...(options.hidden?.length ? ['hidden_loss'] : []),
    ...(options.attention?.length ? ['attention_loss'] : []),
  ]
  const number = (results: Record<string, RuntimeTensor>, name: string) =>
    Number((results[name]?.data as Float32Array | undefined)?.[0] ?? 0)
  const lossesOf = (results: Record<string, RuntimeTensor>): Losses => ({
    crossEntropy: number(results, 'cross_entropy'),
    divergence: number(results, 'divergence'),
    hidden: number(results, 'hidden_loss'),
    attention: number(results, 'attention_loss'),
  })

  return {
    model,
    tensors: trained,

    async step(batches, learningRate, step) {
      const total: Losses = { crossEntropy: 0, divergence: 0, hidden: 0, attention: 0 }
      let squares = 0
      for (const [i, batch] of batches.entries()) {
        throwIfCancelled(context.signal)
        further ??=
          i > 0 ? gradients(trained.map(t => ({ ...t, gradient: new Float32Array(t.weight.length) }))) : undefined
        const into = i === 0 ? own : further!
        const fetches = [...lossNames, ...(batches.length === 1 ? ['squared_gradient_norm'] : []), ...Object.keys(own)]
        const results = await session.run(feedsOf(batch), fetches, { into, signal: context.signal })
        const losses = lossesOf(results)
        for (const key of Object.keys(total) as (keyof Losses)[]) {
          total[key] += losses[key]
          if (!Number.isFinite(losses[key]))
            throw new DomainError(
              'NOT_A_NUMBER',
              `Step ${step}: the ${lossWords[key]} is ${losses[key]}${brokenWeight()}`,
            )
        }
        if (batches.length === 1) squares = number(results, 'squared_gradient_norm')
        if (i > 0) squares = await accumulator.add(own, further!)
      }
      const gradientNorm = Math.sqrt(squares)
      if (!Number.isFinite(gradientNorm)) throw notANumber(step)
      const { clip } = options
      const scale = clip === undefined ? 1 : Math.min(1, clip / (gradientNorm + 1e-6))
      await optimiser.update(learningRate, step, scale)
      // Orthogonal updates are the same whatever the gradient's length.
      await muon?.update(learningRate * options.muon!.rateFactor, 1)
      return { ...total, gradientNorm }
    },

    async losses(batch) {
      measuring ??= createSession(trainingGraph(model, locate, { ...graphOptions, gradients: false }), sessionOptions)
      return lossesOf(await (await measuring).run(feedsOf(batch), lossNames, { signal: context.signal }))
    },

    async crossEntropy(batch) {
      const only = {
        ...graphOptions,
        headChunks: chunksOf(options.maximumJudgedRows ?? options.maximumRows),
        crossEntropy: true,
        divergence: undefined,
        hidden: [],
        attention: [],
        gradients: false,
      }
      judging ??= createSession(trainingGraph(model, locate, only), sessionOptions)
      // Held-out texts have any length, and a mask is as large as its square: none is kept.
      const feeds = { ...weights, ...makeShapeFeeds(batch.rows.length, batch.seq), ...batchFeeds(batch, d, only) }
      return number(await (await judging).run(feeds, ['cross_entropy'], { signal: context.signal }), 'cross_entropy')
    },

    async dispose() {
      const further_ = await Promise.all([measuring, judging])
      for (const own of [session, optimiser, muon, accumulator, ...further_]) await own?.dispose()
      releaseFiles(kept)
    },
  }

  function sourceName(name: string) {
    return tensors.get(name)?.name ?? name
  }
  function brokenWeight(): string {
    const broken = trained.find(({ weight }) => !weight.every(Number.isFinite))
    return broken ? `; tensor ${sourceName(broken.name)} holds NaN or infinity` : ''
  }
  function notANumber(step: number): DomainError {
    const broken = trained.find(({ gradient }) => !gradient.every(Number.isFinite))
    const where = broken ? `the gradient of tensor ${sourceName(broken.name)}` : 'the norm of the gradients'
    return new DomainError('NOT_A_NUMBER', `Step ${step}: ${where} is NaN or infinite; a lower learning rate may help`)
  }
}

const lossWords: Record<keyof Losses, string> = {
  crossEntropy: 'cross-entropy',
  divergence: 'divergence from the teacher',
  hidden: 'hidden-state loss',
  attention: 'attention loss',
}

/** Uniform in +-1 / sqrt(inputs), as LoRA's authors begin; the second factor begins at 0, so that the model begins unchanged. */
function firstFactor(shape: readonly number[], random: () => number): Float32Array {
  const bound = 1 / Math.sqrt(shape[1]!)
  return Float32Array.from({ length: shape[0]! * shape[1]! }, () => (2 * random() - 1) * bound)
}
