// The training loop: batches of packed rows, what each token counts, the schedule, checkpoints, held-out losses, early stopping.
import { DomainError } from '../../lib/errors.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import type { TeacherRow, TrainingBatch, TrainingRow } from './batch-feeds.js'
import type { PackedRow } from './pack-rows.js'
import { learningRateAt, type Schedule } from './schedule.js'
import type { StepResult, TrainingModel } from './training-model.js'

export interface TrainingPlan {
  rows: readonly PackedRow[]
  /** Rows of one pass, and passes of one step. */
  batchRows: number
  accumulation: number
  schedule: Schedule
  /** Shares of the losses. */
  crossEntropyShare: number
  divergenceShare: number
  hiddenShare: number
  attentionShare: number
  /** Of the rows, those that the student writes itself, anew every so many steps; absent: none. */
  onPolicy?: { share: number; every: number } | undefined
  /** Steps between two looks at held-out loss; absent: none but at the end. */
  evaluateEvery?: number | undefined
  /** Looks without improvement after which training stops; absent: never. */
  patience?: number | undefined
  /** Steps between two checkpoints; absent: none. */
  checkpointEvery?: number | undefined
}

/** What has happened so far; with the weights and moments all that a run needs to go on. */
export interface TrainingState {
  /** Steps done. */
  step: number
  losses: StepLosses[]
  /** The best held-out loss so far and its step, and looks since. */
  best?: { loss: number; step: number; since: number } | undefined
  /** Whether there were better weights that could not be kept. */
  unkept?: boolean | undefined
  /** Held-out loss of the last look. */
  lastHeldOut?: number | undefined
  /** Held-out loss before the first step. */
  firstHeldOut?: number | undefined
  /** Whether the run's graph computes the inside of layers anew: a run that goes on must go on so. */
  recompute?: boolean | undefined
}

/** Losses, gradient norm and learning rate of one step. */
export interface StepLosses extends StepResult {
  step: number
  learningRate: number
}

export interface TrainingHooks {
  /** What the teacher says of a row; absent: there is none. */
  teacher?: ((row: PackedRow) => Promise<TeacherRow>) | undefined
  /** Rows of the student's own from the weights as they are, for the steps from this one on; texts stand in for those it does not give. */
  ownRows?: ((step: number, rows: number) => Promise<PackedRow[]>) | undefined
  /** Held-out loss of the weights as they are. */
  heldOut?: (() => Promise<number>) | undefined
  /** Keeps the weights as they are as the best so far; says whether it could. Those before the first step need no keeping. */
  keepBest?: (() => Promise<boolean>) | undefined
  checkpoint?: ((state: TrainingState) => Promise<void>) | undefined
  stepDone?: ((state: TrainingState, latest: StepLosses) => void) | undefined
  signal?: AbortSignal | undefined
}

export const stepsOf = (rows: number, { batchRows, accumulation }: Pick<TrainingPlan, 'batchRows' | 'accumulation'>) =>
  Math.max(1, Math.floor(rows / (batchRows * accumulation)))

/** Whether the row is the student's own, so that their share is kept however few rows are looked at. */
const isOwn = (row: number, share: number) => Math.floor((row + 1) * share) > Math.floor(row * share)

/** The student's own rows among those of a step and the ones after it that use the same weights' words. */
function ownOf({ onPolicy, batchRows, accumulation, schedule }: TrainingPlan, step: number): number[] {
  if (!onPolicy) return []
  const perStep = batchRows * accumulation
  const last = Math.min(schedule.steps, step - 1 + onPolicy.every)
  const all = Array.from({ length: (last - step + 1) * perStep }, (_, i) => (step - 1) * perStep + i)
  return all.filter(row => isOwn(row, onPolicy.share))
}

/** The batches of a step (from 1), each token's weight such that the shares are what the losses' weights sum to over the step's texts; rows of the student's own count as much, for the divergence alone. */
export async function batchesOf(
  plan: TrainingPlan,
  step: number,
  teacher?: (row: PackedRow) => Promise<TeacherRow>,
  ownRows?: ReadonlyMap<number, PackedRow>,
): Promise<TrainingBatch[]> {
  const { batchRows, accumulation } = plan
  const perStep = batchRows * accumulation
  const first = (step - 1) * perStep
  const own = plan.rows.slice(first, first + perStep).map((row, i) => ownRows?.get(first + i) ?? row)
  const sequence = own[0]!.ids.length
  const sum = (values: Iterable<number>) => {
    let total = 0
    for (const value of values) total += value
    return total
  }
  const countsOf = (rows: readonly PackedRow[], to = sequence) => sum(rows.map(row => sum(row.counts.subarray(0, to))))
  const texts = own.filter(row => !row.own)
  const all = countsOf(own)
  const shareOf = (share: number, of: number) => (share > 0 && of > 0 ? share / of : 0)
  const kl = shareOf(plan.divergenceShare, all)
  // Its own words are no text for it to be like: what cross-entropy would count of them, the divergence does.
  const ownKl = plan.divergenceShare > 0 ? shareOf(plan.divergenceShare + plan.crossEntropyShare, all) : 0
  const ce = shareOf(plan.crossEntropyShare * shareOf(countsOf(texts), all), countsOf(texts, sequence - 1))
  const hidden = shareOf(plan.hiddenShare, own.length * (sequence - 1))
  const rows: TrainingRow[] = []
  for (const row of own) {
    rows.push({
      ids: row.ids,
      divergenceWeights: kl > 0 ? row.counts.map(count => count * (row.own ? ownKl : kl)) : undefined,
      crossEntropyWeights:
        plan.crossEntropyShare > 0
          ? row.counts.map((count, at) => (at < sequence - 1 && !row.own ? count * ce : 0))
          : undefined,
      // The first position's state is huge in many models, and says nothing of the text.
      hiddenWeights: hidden > 0 ? row.counts.map((_, at) => (at > 0 ? hidden : 0)) : undefined,
      teacher: teacher && (await teacher(row)),
    })
  }
  const passes = Math.ceil(rows.length / batchRows)
  return Array.from({ length: passes }, (_, i) => ({
    rows: rows.slice(i * batchRows, (i + 1) * batchRows),
    seq: sequence,
    attentionWeight: plan.attentionShare / (own.length * sequence),
  }))
}

/**
 * Runs the steps that are left and says what came of them. With `heldOut`, the weights are looked at before the first step, every
 * `evaluateEvery` and after the last; `keepBest` is called at each new best.
 * @throws NOT_A_NUMBER with step and tensor, CANCELLED
 */
export async function train(
  model: TrainingModel,
  plan: TrainingPlan,
  hooks: TrainingHooks,
  from: TrainingState = { step: 0, losses: [] },
): Promise<TrainingState> {
  const { schedule, evaluateEvery, patience, checkpointEvery } = plan
  const { heldOut, keepBest, checkpoint, signal } = hooks
  const state: TrainingState = { ...from, losses: [...from.losses] }
  const look = async () => {
    if (!heldOut) return
    const loss = await heldOut()
    state.firstHeldOut ??= loss
    state.lastHeldOut = loss
    const last = state.step === schedule.steps
    if (!state.best) state.best = { loss, step: state.step, since: 0 }
    else if (loss < state.best.loss) {
      // What could not be kept is not the best: but after the last step the weights are still there.
      if ((await keepBest?.()) !== false || last) state.best = { loss, step: state.step, since: 0 }
      else state.unkept = true
    } else state.best = { ...state.best, since: state.best.since + 1 }
  }
  let own: ReadonlyMap<number, PackedRow> | undefined
  if (state.step === 0) await look()
  while (state.step < schedule.steps) {
    throwIfCancelled(signal)
    const step = state.step + 1
    const learningRate = learningRateAt(schedule, step)
    if (plan.onPolicy && hooks.ownRows && (step - 1) % plan.onPolicy.every === 0) {
      const places = ownOf(plan, step)
      const written = places.length > 0 ? await hooks.ownRows(step, places.length) : []
      own = new Map(written.map((row, i) => [places[i]!, row]))
    }
    const batches = await batchesOf(plan, step, hooks.teacher, own)
    const result = await model.step(batches, learningRate, step)
    const latest = { step, learningRate, ...result }
    state.losses.push(latest)
    state.step = step
    checkDivergence(state, model.model.dimensions.vocabularySize)
    hooks.stepDone?.(state, latest)
    if (step === schedule.steps || (evaluateEvery && step % evaluateEvery === 0)) await look()
    if (patience !== undefined && state.best && state.best.since >= patience) break
    if (checkpoint && checkpointEvery && step % checkpointEvery === 0 && step < schedule.steps) await checkpoint(state)
  }
  return state
}

/** How many times its first value a loss may grow before training is called off, once it has had some steps. */
const divergenceFactor = 4
const divergenceSteps = 5

/**
 * A first step may hold hardly a token that counts: what is still better than knowing nothing of `vocabularySize` tokens has not run away.
 * @throws NOT_A_NUMBER where the loss has run away from where it began
 */
function checkDivergence({ losses }: TrainingState, vocabularySize: number): void {
  if (losses.length <= divergenceSteps) return
  const value = (l: StepLosses) => l.crossEntropy + l.divergence
  const mean = (part: readonly StepLosses[]) => part.reduce((sum, l) => sum + value(l), 0) / part.length
  const [first, last] = [mean(losses.slice(0, 1)), mean(losses.slice(-divergenceSteps))]
  if (last <= Math.max(divergenceFactor * first + 1, Math.log(vocabularySize))) return
  const { step, learningRate } = losses.at(-1)!
  throw new DomainError(
    'NOT_A_NUMBER',
    `Step ${step}: training diverges, the loss grew from ${first.toFixed(3)} to ${last.toFixed(3)} nats at a learning rate of ${learningRate}; choose a lower one`,
  )
}
