// From samples to per-sample losses: token rows, batches of similar length whose size follows the measured speed, progress, cancelling.
import { setImmediate } from 'node:timers/promises'
import { DomainError } from '../../lib/errors.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { ActivationSums } from './activations.js'
import type { ProbeSample } from './probe-set.js'
import { findNotANumber, type LayerwiseModel, scoreBatch, type Variant } from './stacks.js'

/** One forward pass over one sequence. */
export interface ScoreRow {
  ids: readonly number[]
  /** Position of the first completion token; tokens from here on are predicted and scored. At least 1. */
  completionStart: number
  /** Per layer 1 (runs) or 0 (skipped: its input goes on unchanged); absent: all run. */
  gates?: readonly number[] | undefined
}

export interface RowScore {
  /** Summed negative log-likelihood of the completion tokens, nats. */
  nll: number
  /** Whether every completion token is the arg-max under teacher forcing; absent where stacks are only compared by their losses. */
  exact?: boolean | undefined
  /** Per layer, sums over the row's tokens; only where asked for. */
  layers?: LayerSums | undefined
}

export interface LayerSums {
  cosine: ArrayLike<number>
  norm: ArrayLike<number>
  /** [n - 1][layer]: angular distance of input and output of the n layers from `layer` on, at the row's last token; 0 to 1. */
  angles?: number[][] | undefined
  /** [layer], where layers are run one by one: what their outputs look like, and [hidden] the mean over the tokens that count. */
  activation?: ActivationSums[] | undefined
  centroids?: Float32Array[] | undefined
}

/** What probing needs of a loaded model. */
export interface ScoringModel {
  /** What messages call it. */
  name: string
  layerCount: number
  contextLength: number
  /** Without special tokens. */
  encode(text: string): number[]
  /** Put before the prompt; undefined where the tokenizer adds none. */
  bosTokenId: number | undefined
  /** Scores a batch. `layerSums`: also cosines and norms per layer. */
  score(rows: readonly ScoreRow[], options: { layerSums: boolean }): Promise<RowScore[]>
  /** It is larger than memory: every call of `score`, and every batch of stacks, reads all of its weights anew. Absent: it is not. */
  pieceByPiece?: boolean
  /** The same model in pieces. */
  layerwise: LayerwiseModel
}

/** A sample as tokens. */
export interface EncodedSample {
  capability: string
  ids: number[]
  completionStart: number
  completionTokens: number
}

/**
 * Prompt and completion tokenised separately, BOS first where the tokenizer says so, joined without a separator, cut to `maxTokens`
 * from the right. Undefined where no completion token is left: such a sample counts nothing.
 */
export function encodeSample(
  model: Pick<ScoringModel, 'encode' | 'bosTokenId' | 'contextLength'>,
  sample: Pick<ProbeSample, 'capability' | 'prompt' | 'completion'>,
  maxTokens: number,
): EncodedSample | undefined {
  const prompt = model.encode(sample.prompt)
  if (model.bosTokenId !== undefined && prompt[0] !== model.bosTokenId) prompt.unshift(model.bosTokenId)
  // Without BOS an empty prompt leaves the first completion token without anything to predict it from.
  const completionStart = Math.max(prompt.length, 1)
  const ids = [...prompt, ...model.encode(sample.completion)].slice(0, Math.min(maxTokens, model.contextLength))
  const completionTokens = ids.length - completionStart
  return completionTokens > 0 ? { capability: sample.capability, ids, completionStart, completionTokens } : undefined
}

/** A sample as tokens, with what it was made from. */
export interface ProbedSample extends EncodedSample {
  probe: ProbeSample
}

/** Longest stretch of tokenising without a turn of the event loop, so that large sets can be cancelled and heartbeats go on. */
const encodeMilliseconds = 50

/** Samples as tokens, without those whose completion is cut away. Throws CANCELLED when the signal fires. */
export async function encodeSamples(
  model: Pick<ScoringModel, 'encode' | 'bosTokenId' | 'contextLength'>,
  samples: readonly ProbeSample[],
  maxTokens: number,
  signal?: AbortSignal,
): Promise<ProbedSample[]> {
  const encoded: ProbedSample[] = []
  let paused = performance.now()
  for (const sample of samples) {
    if (performance.now() - paused > encodeMilliseconds) {
      await setImmediate()
      throwIfAborted(signal)
      paused = performance.now()
    }
    const one = encodeSample(model, sample, maxTokens)
    if (one) encoded.push({ ...one, probe: sample })
  }
  return encoded
}

/**
 * Runs are this short so that progress is steady, and so that a cancelled job stops well within half a second also on the backend that
 * cannot stop a run (`compute/runtime/backend-face.ts`).
 */
const targetSeconds = 0.3
/** Bounds the memory of a run's logits and activations. */
const maximumBatchTokens = 4096
/** A batch this large is closed rather than padded further: rows below this share of its longest go into the next. */
const worthwhileTokens = 512
const leastFill = 0.75
/** The first run is small: nothing is known yet about the model's speed. */
const firstBatchTokens = 128
/** Padded tokens of a run through one layer, states of several stacks together: enough for full speed, more gained nothing. */
const stackRunTokens = 2048
/** Samples of a batch that runs through many stacks: a batch is what a cancelled job loses. */
const stackBatchTokens = 512
/** A batch keeps one hidden state per stack. */
const stackStateBytes = 128 * 1024 * 1024
/** Rows of one batch differ little in length: many runs share the padding. */
const stackFill = 0.9

/**
 * Runs rows through a model in batches and learns its speed on the way; one per job, shared by all its stages.
 * A batch is padded to its longest row, so rows are taken in order of length.
 */
export function createScorer(model: ScoringModel, signal: AbortSignal) {
  let budget = firstBatchTokens
  let runTokens = firstBatchTokens
  let seconds = 0
  let tokens = 0

  const runBatch = async (rows: readonly ScoreRow[], layerSums: boolean): Promise<RowScore[]> => {
    // The event loop gets a turn, so that a cancellation can arrive between two native runs.
    await setImmediate()
    throwIfAborted(signal)
    const begin = performance.now()
    const scores = await model.score(rows, { layerSums })
    const elapsed = (performance.now() - begin) / 1000
    const padded = rows.length * Math.max(...rows.map(r => r.ids.length))
    seconds += elapsed
    tokens += rows.reduce((sum, r) => sum + r.ids.length, 0)
    const affordable = (padded / Math.max(elapsed, 1e-4)) * targetSeconds
    // Grows at most fourfold per run: one lucky measurement must not make the next run long.
    budget = Math.min(maximumBatchTokens, 4 * Math.max(budget, firstBatchTokens), Math.max(1, affordable))
    return scores
  }

  const explain = async (stack: Variant, row: ScoreRow) => {
    const where = await findNotANumber(model.layerwise, [row], stack)
    const gates = Array.from({ length: model.layerCount }, (_, layer) => (stack.includes(layer) ? 1 : 0))
    if (where === 'loss') return notANumber(model, gates, Number.NaN)
    const what = where === 'embedding' ? 'the embedding' : `the output of layer ${where}`
    return new DomainError('NOT_A_NUMBER', `${model.name}: ${what} holds NaN or infinity`)
  }

  /** Batches of row indices, longest rows first; each is cut when it is asked for, as the budget is then. */
  function* batchesOf(
    rows: readonly ScoreRow[],
    batchTokens: () => number,
    { worthwhile = worthwhileTokens, fill = leastFill } = {},
  ): Generator<number[]> {
    const order = rows.map((_, i) => i).sort((a, b) => rows[b]!.ids.length - rows[a]!.ids.length || a - b)
    for (let from = 0; from < order.length; ) {
      const longest = rows[order[from]!]!.ids.length
      const enough = Math.ceil(worthwhile / longest)
      const batch = order
        .slice(from, from + Math.max(1, Math.floor(batchTokens() / longest)))
        .filter((i, k) => k < enough || rows[i]!.ids.length >= fill * longest)
      from += batch.length
      yield batch
    }
  }

  return {
    /** Rows' own tokens (padding not counted) per second of model time so far. */
    get tokensPerSecond() {
      return seconds > 0 ? tokens / seconds : 0
    },
    /**
     * Scores in the order of `rows`.
     * @param done called after each batch with the tokens it held
     * @throws NOT_A_NUMBER via `check`, CANCELLED when the signal fires
     */
    async scoreRows(
      rows: readonly ScoreRow[],
      options: { layerSums?: boolean; done?: (tokens: number) => void } = {},
    ): Promise<RowScore[]> {
      const scores = new Array<RowScore>(rows.length)
      // It makes its own batches, all of which go through a layer before the next one is read.
      const batches = model.pieceByPiece ? [rows.map((_, i) => i)] : batchesOf(rows, () => budget)
      for (const batch of batches) {
        const batchRows = batch.map(i => rows[i]!)
        const results = await runBatch(batchRows, options.layerSums ?? false)
        results.forEach((score, k) => {
          scores[batch[k]!] = checkFinite(model, batchRows[k]!, score)
        })
        options.done?.(batchRows.reduce((sum, r) => sum + r.ids.length, 0))
      }
      return scores
    },

    /**
     * Scores every row with every stack of layers; what stacks have in common at their beginning is computed once. Of the stack
     * `observe` the scores carry what each layer does.
     * @param batchDone called after each batch with the rows it held and their scores, [stack][row of the batch]
     * @param done called after each run with the tokens that came through, all stacks together; in all, tokens of the rows times stacks
     * @returns [stack][row]
     * @throws NOT_A_NUMBER, CANCELLED when the signal fires
     */
    async scoreStacks(
      rows: readonly ScoreRow[],
      stacks: readonly Variant[],
      options: {
        observe?: number
        batchDone?: (rows: readonly number[], scores: readonly RowScore[][]) => Promise<void>
        done?: (tokens: number) => void
      } = {},
    ): Promise<RowScore[][]> {
      const scores = stacks.map(() => new Array<RowScore>(rows.length))
      const affordable = stackStateBytes / (4 * model.layerwise.hiddenSize * (stacks.length + 1))
      const batchTokens = Math.min(model.pieceByPiece ? stackRunTokens : stackBatchTokens, affordable)
      for (const batch of batchesOf(rows, () => batchTokens, { worthwhile: 0, fill: stackFill })) {
        const batchRows = batch.map(i => rows[i]!)
        const own = batchRows.reduce((sum, r) => sum + r.ids.length, 0)
        const results = await scoreBatch(model.layerwise, batchRows, stacks, {
          observe: options.observe,
          tokensPerRun: () => runTokens,
          async timed(padded, run) {
            // The event loop gets a turn, so that a cancellation can arrive between two native runs.
            await setImmediate()
            throwIfAborted(signal)
            const begin = performance.now()
            const result = await run()
            const elapsed = (performance.now() - begin) / 1000
            seconds += elapsed
            const affordable = (padded / Math.max(elapsed, 1e-4)) * targetSeconds
            runTokens = Math.min(stackRunTokens, 2 * Math.max(runTokens, firstBatchTokens), Math.max(1, affordable))
            return result
          },
          ran(share) {
            tokens += own * stacks.length * share
            options.done?.(own * stacks.length * share)
          },
        })
        for (const [s, stack] of stacks.entries()) {
          for (const [k, i] of batch.entries()) {
            const score = results[s]![k]!
            if (!Number.isFinite(score.nll)) throw await explain(stack, batchRows[k]!)
            scores[s]![i] = checkFinite(model, batchRows[k]!, score)
          }
        }
        await options.batchDone?.(batch, results)
      }
      return scores
    },
  }
}

export type Scorer = ReturnType<typeof createScorer>

/** @throws NOT_A_NUMBER naming the model and, where one is known, the layer */
function checkFinite(model: ScoringModel, row: ScoreRow, score: RowScore): RowScore {
  if (score.layers) {
    const { cosine, norm } = score.layers
    for (let layer = 0; layer < model.layerCount; layer++) {
      if (Number.isFinite(cosine[layer]) && Number.isFinite(norm[layer])) continue
      throw new DomainError('NOT_A_NUMBER', `${model.name}: the output of layer ${layer} holds NaN or infinity`)
    }
  }
  if (Number.isFinite(score.nll)) return score
  throw notANumber(model, row.gates ?? [], score.nll)
}

function notANumber({ name }: ScoringModel, gates: readonly number[], nll: number): DomainError {
  const skipped = gates.flatMap((gate, layer) => (gate === 0 ? [layer] : []))
  const where = skipped.length > 0 ? ` with layer ${skipped.join(', ')} skipped` : ''
  return new DomainError('NOT_A_NUMBER', `${name}: the loss${where} is ${nll}`)
}
