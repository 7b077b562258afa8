// A model run piece by piece: embedding, single layers, losses, with the residual stream in the caller's hands. Measurements that
// differ only in later layers compute the earlier ones once; a layer is skipped by not running it.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'
import { floats, int32s, int64s, type RuntimeTensor, type Session } from '../runtime/session.js'
import type { SampleScore, ScoredSample } from './model.js'
import type { GraphVariant } from './model-graph.js'

/** The residual stream of a batch, [samples * longest, hidden]; rows of shorter samples are padded on the right. */
export type HiddenState = Float32Array

/** As of a whole model; without hits where nobody asked for them. */
export type PieceScore = Omit<SampleScore, 'hits'> & { hits?: number }

export interface ModelPieces {
  embed(samples: readonly ScoredSample[]): Promise<HiddenState>
  /** @param withoutGroups key/value heads whose query heads give 0 before the output projection; absent: none */
  layer(
    index: number,
    hidden: HiddenState,
    samples: readonly ScoredSample[],
    withoutGroups?: readonly number[] | undefined,
  ): Promise<HiddenState>
  /** The layer's output only where a completion token follows, [such tokens of all samples in order, hidden]: for `losses` with `scoredOnly`. */
  tail(index: number, hidden: HiddenState, samples: readonly ScoredSample[]): Promise<HiddenState>
  /**
   * What the last layer's output says of the completions. Not-a-number losses are the caller's to find.
   * @param scoredOnly whether `hidden` comes from `tail`; then nobody counts hits
   */
  losses(hidden: HiddenState, samples: readonly ScoredSample[], scoredOnly?: boolean): Promise<PieceScore[]>
}

/** Logits of one run, as numbers: 16 M are 64 MB. */
const maximumLogits = 16 * 1024 * 1024

export const longestOf = (samples: readonly ScoredSample[]) => Math.max(1, ...samples.map(s => s.ids.length))

/** [query heads * head size]: 0 for the query heads that share these key/value heads, 1 for the others. */
function groupGates(d: ResolvedDimensions, groups: readonly number[]): RuntimeTensor {
  const width = (d.attentionHeadCount / d.keyValueHeadCount) * d.headSize
  const gates = new Float32Array(d.attentionHeadCount * d.headSize).fill(1)
  for (const group of groups) {
    if (group < 0 || group >= d.keyValueHeadCount) throw new Error(`group ${group} of ${d.keyValueHeadCount}`)
    gates.fill(0, group * width, (group + 1) * width)
  }
  return floats(gates, [gates.length])
}

/** Where a completion token follows: its sample, the flat token position before it, and the token. */
function wantedOf(samples: readonly ScoredSample[]) {
  const seq = longestOf(samples)
  return samples.flatMap(({ ids, completionStart }, sample) =>
    ids.flatMap((target, i) =>
      i >= Math.max(1, completionStart) ? [{ sample, row: sample * seq + i - 1, target }] : [],
    ),
  )
}

/** @param model.check throws where token ids do not suit the model */
export function modelPieces(
  d: ResolvedDimensions,
  model: {
    session(variant: GraphVariant): Promise<Session>
    check(ids: readonly number[]): void
    ropeFeeds(start: number, batch: number, seq: number): Record<string, RuntimeTensor>
  },
): ModelPieces {
  const commonFeeds = (samples: readonly ScoredSample[]) => {
    const seq = longestOf(samples)
    const ids = samples.flatMap(s => [...s.ids, ...new Array<number>(seq - s.ids.length).fill(0)])
    return {
      input_ids: int64s(ids, [samples.length, seq]),
      last_positions: int32s(new Array<number>(samples.length).fill(seq - 1)),
      total_length: int32s([seq], []),
      ...model.ropeFeeds(0, samples.length, seq),
    }
  }
  // The same batch is run many times over.
  const feedsOfBatch = new WeakMap<readonly ScoredSample[], ReturnType<typeof commonFeeds>>()
  const feedsFor = (samples: readonly ScoredSample[]) => {
    let feeds = feedsOfBatch.get(samples)
    if (!feeds) {
      feeds = commonFeeds(samples)
      feedsOfBatch.set(samples, feeds)
    }
    return feeds
  }
  const hiddenIn = (hidden: HiddenState) => ({
    hidden_in: floats(hidden, [hidden.length / d.hiddenSize, d.hiddenSize]),
  })

  return {
    async embed(samples) {
      for (const { ids } of samples) model.check(ids)
      const { hidden_out } = await (await model.session('embed')).run(feedsFor(samples), ['hidden_out'])
      return hidden_out!.data as HiddenState
    },

    async layer(index, hidden, samples, withoutGroups) {
      const masked: Record<string, RuntimeTensor> =
        withoutGroups === undefined ? {} : { head_gates: groupGates(layerDimensions(d, index), withoutGroups) }
      const feeds = { ...feedsFor(samples), ...hiddenIn(hidden), ...masked }
      const session = await model.session(withoutGroups === undefined ? `layer.${index}` : `masked.${index}`)
      const { hidden_out } = await session.run(feeds, ['hidden_out'])
      return hidden_out!.data as HiddenState
    },

    async tail(index, hidden, samples) {
      const rows = int64s(wantedOf(samples).map(w => w.row))
      const feeds = { ...feedsFor(samples), ...hiddenIn(hidden), rows }
      const { hidden_out } = await (await model.session(`tail.${index}`)).run(feeds, ['hidden_out'])
      return hidden_out!.data as HiddenState
    },

    async losses(hidden, samples, scoredOnly = false) {
      const session = await model.session(scoredOnly ? 'nll' : 'losses')
      const wanted = wantedOf(samples).map((one, i) => (scoredOnly ? { ...one, row: i } : one))
      const scores = samples.map(
        (): PieceScore => ({ nll: 0, completionTokens: 0, ...(scoredOnly ? {} : { hits: 0 }) }),
      )
      const step = Math.max(1, Math.floor(maximumLogits / d.vocabularySize))
      for (let from = 0; from < wanted.length; from += step) {
        const part = wanted.slice(from, from + step)
        const feeds = {
          ...feedsFor(samples),
          ...hiddenIn(hidden),
          rows: int64s(part.map(w => w.row)),
          targets: int64s(part.map(w => w.target)),
        }
        const results = await session.run(
          feeds,
          scoredOnly ? ['log_probabilities'] : ['log_probabilities', 'predictions'],
        )
        const logProbabilities = results.log_probabilities!.data as Float32Array
        const predictions = results.predictions?.data as BigInt64Array | undefined
        part.forEach(({ sample, target }, i) => {
          const score = scores[sample]!
          score.nll -= logProbabilities[i]!
          score.completionTokens++
          if (predictions && Number(predictions[i]) === target) score.hits!++
        })
      }
      return scores
    },
  }
}
