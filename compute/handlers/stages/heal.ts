// Healing: a student's weights are trained after its teacher, kept only where held-out loss falls; goes on from its last checkpoint after a kill.
import { createHash } from 'node:crypto'
import { DomainError, isDomainError } from '../../../lib/errors.js'
import { asksTeacher, contradictionOf, type Healing, loraDefaults } from '../../../lib/healing.js'
import type { Manifest } from '../../../lib/manifest.js'
import { layerDimensions, type ResolvedDimensions } from '../../architectures/architecture.js'
import { type BuildableModel, checkBuildable, parseRole } from '../../architectures/registry.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import { readManifest } from '../../formats/manifest.js'
import { loadTokenizer } from '../../formats/tokenizer.js'
import { type ProbeSample, parseProbeSet } from '../../probing/probe-set.js'
import { adamWDefaults } from '../../training/adamw.js'
import { readCheckpoint, readCheckpointState, writeCheckpoint } from '../../training/checkpoint.js'
import { heldOutBatches } from '../../training/held-out.js'
import { keptAdapter } from '../../training/kept-adapter.js'
import { mergeLora } from '../../training/merge-lora.js'
import { writeOwnRows } from '../../training/on-policy.js'
import { packRows, type TrainingText } from '../../training/pack-rows.js'
import { needsRecompute } from '../../training/recompute.js'
import { checkSameTokens } from '../../training/same-tokens.js'
import { openTeacher, type Teacher } from '../../training/teacher.js'
import { teacherCache } from '../../training/teacher-cache.js'
import { type StepLosses, stepsOf, type TrainingPlan, type TrainingState, train } from '../../training/train.js'
import type { LoraSpec } from '../../training/training-graph.js'
import { openTrainingModel, type TrainingModel } from '../../training/training-model.js'
import { writeTrained } from '../../training/write-trained.js'
import type { StageContext } from '../build-stages.js'

export type HealContext = Pick<
  StageContext,
  'payloads' | 'dataFolder' | 'env' | 'signal' | 'progress' | 'log' | 'folder'
>

/** Of squared gradients: steps of one short row say little, so that a hundred of them are averaged and not twenty. */
const longMemory = 0.99

export interface HealOutcome {
  /** The student's own where it did not become better. */
  manifest: string
  measurements: {
    improved: boolean
    /** Mean over capabilities of the loss of held-out completions, nats per token. */
    heldOutBefore: number
    heldOutAfter: number
    /** Step of the weights that were kept, of so many done. */
    keptStep: number
    steps: number
    tokens: number
    /** Training texts left out because a held-out one has the same prompt, and those that were cut to a row. */
    leaks: number
    cutTexts: number
    trainedParameters: number
    /** Of the first and the last tenth of the steps. */
    firstLoss: number
    lastLoss: number
  }
}

/**
 * Trains the model of `manifestHash` after `teacherHash`.
 * @throws VOCABULARY_MISMATCH, INVALID_RECIPE, BAD_USER_INPUT (data), NOT_A_NUMBER with step and tensor, DISK_FULL, CANCELLED
 */
export async function heal(
  manifestHash: string,
  teacherHash: string,
  healing: Healing,
  context: HealContext,
): Promise<HealOutcome> {
  const { payloads, dataFolder, signal, progress, log, folder } = context
  if (!(await payloads.has(teacherHash)))
    throw new DomainError('NOT_FOUND', 'The teacher was deleted, and the garbage collection took what was left of it')
  const [student, teacher] = [await readManifest(payloads, manifestHash), await readManifest(payloads, teacherHash)]
  const [model, teacherModel] = [checkBuildable(student), checkBuildable(teacher)]
  const contradiction = contradictionOf(healing)
  if (contradiction) refuse(contradiction)
  checkSizes(healing, model.dimensions, teacherModel.dimensions)
  await checkSameTokens(teacher, student, payloads)
  const texts = await readTexts(student, healing, context)
  const { sequence, batchRows, accumulation } = healing
  const rows = packRows(texts.training, {
    sequence,
    tokens: healing.tokens,
    seed: healing.seed,
    promptWeight: healing.promptWeight,
    balanced: healing.balanced,
    separator: texts.separator,
    repeat: true,
  })
  const batches = heldOutBatches(texts.heldOut, sequence)
  const mapping = mappingOf(healing, await keptLayers(student, teacherHash, payloads), model, teacherModel)
  const steps = stepsOf(rows.length, healing)
  const useTeacher = asksTeacher(healing)
  // Tables may be padded differently behind the same tokens.
  const vocabulary = Math.min(model.dimensions.vocabularySize, teacherModel.dimensions.vocabularySize)
  const named = Math.min(healing.teacherTokens, vocabulary)
  const form = {
    tokens: named,
    vocabulary: vocabulary < teacherModel.dimensions.vocabularySize ? vocabulary : undefined,
    temperature: healing.temperature,
    hidden: healing.hidden > 0 ? mapping.map(pair => pair.teacher + 1) : [],
    attention: healing.attention > 0 ? mapping.map(pair => pair.teacher) : [],
  }
  const lora: LoraSpec | undefined = healing.train === 'LORA' ? loraOf(healing, model) : undefined
  // Another teacher's words, other tokens or another student make another run.
  const key = createHash('sha256')
    .update(JSON.stringify([manifestHash, teacherHash, healing]))
    .digest('hex')
  const trained = lora ? [] : trainedRoles(healing, model)
  // A run that goes on computes as it began, whatever is free now: the other graph sums in another order.
  const recompute =
    healing.recompute ??
    (await readCheckpointState<TrainingState>(folder, 'checkpoint', key))?.recompute ??
    needsRecompute(model, { ...healing, trained, lora, teacher: useTeacher ? teacherModel : undefined })
  const training = await openTrainingModel(student, context, {
    trained,
    lora,
    crossEntropy: healing.crossEntropy > 0,
    divergence: healing.crossEntropy < 1 ? { tokens: named, temperature: healing.temperature } : undefined,
    hidden: form.hidden.map((_, i) => ({
      layer: mapping[i]!.student + 1,
      kind: healing.hiddenLoss === 'MSE' ? ('mse' as const) : ('cosine' as const),
    })),
    attention: form.attention.map((_, i) => mapping[i]!.student),
    optimiser: { ...adamWDefaults, beta2: longMemory, weightDecay: healing.weightDecay },
    decayed: role => role !== 'embed' && (model.tensors.get(role)?.shape.length ?? 2) === 2,
    clip: healing.clip,
    maximumRows: batchRows * sequence,
    maximumJudgedRows: Math.max(...batches.map(batch => batch.rows.length * batch.seq)),
    recompute,
    seed: healing.seed,
  })
  let open: Teacher | undefined
  try {
    const say = async (ids: readonly number[]) => {
      open ??= await openTeacher(teacher, context, form)
      return open.say(ids)
    }
    const cache = teacherCache(
      dataFolder,
      teacherHash,
      form,
      teacherModel.dimensions.hiddenSize,
      say,
      context.env.HARTONOMOUS_DERIVED_BYTES,
    )
    const plan: TrainingPlan = {
      rows,
      batchRows,
      accumulation,
      schedule: {
        kind: healing.schedule,
        peak: healing.learningRate,
        steps,
        warmup: Math.max(1, Math.floor(steps * healing.warmup)),
      },
      crossEntropyShare: healing.crossEntropy,
      divergenceShare: 1 - healing.crossEntropy,
      hiddenShare: healing.hidden,
      attentionShare: healing.attention,
      evaluateEvery: Math.max(1, Math.ceil(steps / healing.looks)),
      patience: healing.patience,
      checkpointEvery: healing.checkpointSteps,
      // A run that goes on does so from a checkpoint: the student writes the same again.
      onPolicy: healing.onPolicy ? { share: healing.onPolicy, every: healing.checkpointSteps } : undefined,
    }
    const known = await readCheckpoint<TrainingState>(folder, 'checkpoint', key, training.tensors)
    let begin = performance.now()
    const doneBefore = known?.step ?? 0
    let trouble: string | undefined
    /** Writes what training itself needs no room for; whether it could. */
    const keptFile = async (write: () => Promise<void>) => {
      try {
        await write()
        trouble = undefined
        return true
      } catch (error) {
        if (!isDomainError(error) || error.code !== 'DISK_FULL') throw error
        // The one before is still there.
        trouble = error.message
        log.warn({ err: error }, 'checkpoint skipped')
        return false
      }
    }
    const state = await train(
      training,
      plan,
      {
        signal,
        teacher: useTeacher ? row => (row.own ? say(row.ids) : cache.row(row.ids)) : undefined,
        ownRows: async (step, count) => {
          const before = performance.now()
          const written = await writeOwnRows(
            {
              student,
              prompts: texts.prompts,
              sequence,
              promptWeight: healing.promptWeight,
              separator: texts.separator,
              seed: healing.seed,
              folder,
            },
            await finalWeights(training, lora, context),
            { step, rows: count },
            context,
          ).catch(error => {
            if (!isDomainError(error) || error.code !== 'DISK_FULL') throw error
            // Texts serve as well.
            trouble = error.message
            log.warn({ err: error }, 'the student wrote nothing itself')
            return []
          })
          begin += performance.now() - before
          return written
        },
        heldOut: async () => {
          const before = performance.now()
          let loss = 0
          for (const batch of batches) loss += await training.crossEntropy(batch)
          begin += performance.now() - before
          return loss
        },
        keepBest: () => keptFile(() => writeCheckpoint(folder, 'best', key, {}, training.tensors, ['weight'])),
        checkpoint: async state_ => {
          await keptFile(() => writeCheckpoint(folder, 'checkpoint', key, state_, training.tensors))
        },
        stepDone: (state_, latest) => {
          const seconds = (performance.now() - begin) / 1000
          progress({
            stage: 'heal',
            completed: state_.step,
            total: steps,
            unit: 'steps',
            metrics: {
              loss: totalLoss(latest),
              // Of its own rows none counts here, so that their share of a step would be taken for a lower loss.
              ...(healing.crossEntropy > 0 && !healing.onPolicy
                ? { crossEntropy: latest.crossEntropy / healing.crossEntropy }
                : {}),
              ...(healing.hidden > 0 ? { hiddenLoss: latest.hidden } : {}),
              ...(healing.attention > 0 ? { attentionLoss: latest.attention } : {}),
              learningRate: latest.learningRate,
              gradientNorm: latest.gradientNorm,
              tokensPerSecond: Math.round(
                ((state_.step - doneBefore) * batchRows * accumulation * sequence) / Math.max(1e-3, seconds),
              ),
              ...(state_.best
                ? { heldOutLoss: state_.lastHeldOut ?? state_.best.loss, bestHeldOutLoss: state_.best.loss }
                : {}),
              ...(trouble ? { checkpoint: trouble } : {}),
            },
          })
        },
      },
      known ?? { step: 0, losses: [], recompute },
    )
    const heldOutBefore = state.firstHeldOut!
    const best = state.best!
    if (best.step === 0 && state.unkept)
      throw new DomainError('DISK_FULL', 'Training helped, but there was no room to keep the better weights', {
        retryable: true,
      })
    const tenth = Math.max(1, Math.floor(state.losses.length / 10))
    const mean = (part: TrainingState['losses']) => part.reduce((sum, l) => sum + totalLoss(l), 0) / part.length
    const measurements = {
      improved: best.step > 0,
      heldOutBefore,
      heldOutAfter: best.loss,
      keptStep: best.step,
      steps: state.step,
      tokens: state.step * batchRows * accumulation * sequence,
      leaks: texts.leaks,
      cutTexts: texts.cutTexts,
      trainedParameters: training.tensors.reduce((sum, { weight }) => sum + weight.length, 0),
      firstLoss: mean(state.losses.slice(0, tenth)),
      lastLoss: mean(state.losses.slice(-tenth)),
    }
    if (best.step === 0) {
      if (!healing.required) return { manifest: manifestHash, measurements }
      const least = state.best!.loss
      throw new DomainError(
        'NOT_IMPROVED',
        `Held-out loss did not fall below ${least.toFixed(4)} nats per token in ${state.step} steps, after which it was ${state.lastHeldOut!.toFixed(4)}; the weights stay as they were`,
      )
    }
    if (best.step !== state.step && (await readCheckpoint(folder, 'best', key, training.tensors)) === undefined)
      throw new DomainError('PAYLOAD_CORRUPT', `The weights of step ${best.step} in ${folder} cannot be read`, {
        retryable: true,
      })
    const keep = lora && healing.lora?.keepAdapter
    const { hash } = await writeTrained(
      student,
      await finalWeights(training, lora, context),
      context,
      keep ? async after => ({ adapter: await keptAdapter(lora, training, manifestHash, after, context) }) : undefined,
    )
    return { manifest: hash, measurements }
  } finally {
    await Promise.all([training.dispose(), open?.dispose()])
  }
}

/** What training lowers: the weights of each loss sum to its share already. */
const totalLoss = ({ crossEntropy, divergence, hidden, attention }: StepLosses) =>
  crossEntropy + divergence + hidden + attention

/** The weights as the manifest has them: low-rank changes are merged. */
async function finalWeights({ tensors, model }: TrainingModel, lora: LoraSpec | undefined, context: HealContext) {
  if (!lora) return tensors
  const { payloads, env, dataFolder, signal } = context
  const stored = async (role: string) => {
    const tensor = model.tensors.get(role)!
    return { shape: tensor.shape, weight: await readTensorFloat32(payloads, tensor) }
  }
  const options = { threads: env.HARTONOMOUS_THREADS, weightsFolder: dataFolder, signal }
  return mergeLora(tensors, lora, stored, model.inputFirst, options)
}

const refuse = (message: string): never => {
  throw new DomainError('INVALID_RECIPE', message, { field: ['input', 'healing'] })
}

function trainedRoles({ train: part, layers }: Healing, { tensors, dimensions: d }: BuildableModel): string[] {
  const all = [...tensors.keys()].filter(role => role !== 'rope_factors' && !(role === 'lm_head' && d.tiedEmbeddings))
  if (part === 'NORMS') return all.filter(role => /norm(_bias)?$/.test(role))
  if (part !== 'LAYERS') return all
  const beyond = layers?.find(layer => layer >= d.layerCount)
  if (beyond !== undefined) refuse(`healing.layers: ${beyond}, the student has the layers 0 to ${d.layerCount - 1}`)
  const chosen = new Set(layers)
  return all.filter(role => chosen.has(parseRole(role).layerIndex ?? -1))
}

function loraOf({ lora }: Healing, { tensors }: BuildableModel): LoraSpec {
  const { rank, alpha, targets } = { ...loraDefaults, ...lora }
  const wanted: ReadonlySet<string> = new Set(targets)
  const roles = [...tensors.keys()].filter(role => wanted.has(parseRole(role).role))
  if (roles.length === 0) refuse(`healing.lora.targets: the model has none of ${targets.join(', ')}`)
  return { rank, alpha, targets: roles }
}

/** Losses of steps are kept in every checkpoint. */
const maximumSteps = 100_000

/** @throws INVALID_RECIPE where rows are longer than a context, or steps are too many */
function checkSizes(
  { sequence, tokens, batchRows, accumulation }: Healing,
  { contextLength: own }: ResolvedDimensions,
  { contextLength: other }: ResolvedDimensions,
) {
  if (sequence > Math.min(own, other))
    refuse(
      `healing.sequence: rows of ${sequence} tokens, but the ${own <= other ? 'student' : 'teacher'} reads at most ${Math.min(own, other)}`,
    )
  const steps = Math.floor(tokens / (sequence * batchRows * accumulation))
  if (steps > maximumSteps)
    refuse(
      `healing.tokens: ${tokens} tokens are ${steps} steps of ${sequence * batchRows * accumulation}, the most is ${maximumSteps}; make steps larger (batchRows, accumulation, sequence)`,
    )
}

/** Which layer of the teacher each of the student's was, through all cuts between them; undefined where the student does not come from it. */
async function keptLayers(
  student: Manifest,
  teacherHash: string,
  payloads: HealContext['payloads'],
): Promise<readonly number[] | undefined> {
  let { parent } = student
  let layers = parent?.layers
  while (parent && layers && parent.manifest !== teacherHash) {
    if (parent.sources) return undefined
    parent = (await readManifest(payloads, parent.manifest).catch(() => undefined))?.parent
    const above = parent?.layers
    layers = above && layers.map(layer => above[layer]!)
  }
  return parent?.sources ? undefined : layers
}

/** Pairs of layers whose outputs shall be alike; empty where no loss asks for them. @param kept the teacher's layer that each of the student's was */
function mappingOf(
  { hidden, attention, layerMapping }: Healing,
  kept: readonly number[] | undefined,
  { dimensions: own }: BuildableModel,
  { dimensions: other }: BuildableModel,
): { student: number; teacher: number }[] {
  if (hidden === 0 && attention === 0) return []
  if (hidden > 0 && own.hiddenSize !== other.hiddenSize)
    refuse(`Hidden states of ${own.hiddenSize} numbers cannot be like the teacher's of ${other.hiddenSize}`)
  const beforeCuts = kept?.flatMap((layer, i) =>
    i + 1 < kept.length && kept[i + 1]! > layer + 1 ? [{ student: i, teacher: kept[i + 1]! - 1 }] : [],
  )
  const pairs =
    layerMapping ?? (beforeCuts?.length ? beforeCuts : kept?.map((layer, i) => ({ student: i, teacher: layer })))
  if (!pairs?.length) return refuse('healing.layerMapping is missing: the student is not a cut of this teacher')
  for (const pair of pairs) {
    const [ours, theirs] = [layerDimensions(own, pair.student), layerDimensions(other, pair.teacher)]
    if (pair.student >= own.layerCount || pair.teacher >= other.layerCount)
      refuse(
        `healing.layerMapping: student layer ${pair.student} to teacher layer ${pair.teacher}; they have ${own.layerCount} and ${other.layerCount} layers`,
      )
    if (
      attention > 0 &&
      (ours.attentionHeadCount !== theirs.attentionHeadCount || ours.keyValueHeadCount !== theirs.keyValueHeadCount)
    )
      refuse(
        `healing.attention: ${headsOf(ours)} of student layer ${pair.student} cannot be like ${headsOf(theirs)} of teacher layer ${pair.teacher}`,
      )
  }
  return pairs
}

const headsOf = ({ attentionHeadCount, keyValueHeadCount }: ResolvedDimensions) =>
  `${attentionHeadCount} attention heads over ${keyValueHeadCount} key/value heads`

const promptKey = (prompt: string) => createHash('sha256').update(prompt).digest('hex')

/** Training and held-out texts as tokens; no prompt is in both. */
async function readTexts(student: Manifest, healing: Healing, { payloads }: HealContext) {
  const tokenizer = await loadTokenizer(student, payloads)
  const all = await parseProbeSet(await payloads.get(healing.data))
  const wanted = healing.capabilities && new Set(healing.capabilities)
  const unknown = healing.capabilities?.find(slug => !all.some(({ capability }) => capability === slug))
  const refuseData = (message: string): never => {
    throw new DomainError('BAD_USER_INPUT', message, { field: ['input', 'data'] })
  }
  if (unknown !== undefined) refuseData(`The training data has no capability "${unknown}"`)
  const chosen = all.filter(({ capability }) => !wanted || wanted.has(capability))
  const heldOutLines = chosen.filter(({ split }) => split === 'validation')
  const seen = new Set(heldOutLines.map(({ prompt }) => promptKey(prompt)))
  const lines = chosen.filter(({ split }) => split === 'probe')
  const clean = lines.filter(({ prompt }) => !seen.has(promptKey(prompt)))
  if (clean.length === 0)
    refuseData(
      lines.length === 0
        ? 'The training data has no lines to train on (split "probe")'
        : `All ${lines.length} training lines have prompts that are held out too`,
    )
  if (heldOutLines.length === 0)
    refuseData(
      'The training data has no held-out lines (split "validation"), so nothing could say whether training helps',
    )
  const bos = tokenizer.addBos && tokenizer.bosTokenId !== undefined ? [tokenizer.bosTokenId] : []
  const encode = ({ capability, prompt, completion }: ProbeSample): TrainingText => ({
    group: capability,
    prompt: [...bos, ...tokenizer.encode(prompt)],
    completion: tokenizer.encode(completion),
  })
  const training = clean.map(encode)
  const prompts = clean.map(({ capability, prompt }, i) => ({
    group: capability,
    prompt,
    tokens: training[i]!.prompt.length,
  }))
  const counts = new Map<string, number>()
  const heldOut = heldOutLines.flatMap(sample => {
    const count = (counts.get(sample.capability) ?? 0) + 1
    counts.set(sample.capability, count)
    return count > healing.heldOutSamples ? [] : [encode(sample)]
  })
  const cutTexts = training.filter(
    ({ prompt, completion }) => prompt.length + completion.length > healing.sequence,
  ).length
  return {
    training,
    prompts,
    heldOut,
    separator: tokenizer.eosTokenIds[0],
    leaks: lines.length - clean.length,
    cutTexts,
  }
}
