// Opens the model of a measuring job: weights, tokenizer and a scorer that hears the job's signal; closed again whatever happens.
import { DomainError, isDomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { layerDimensions } from '../architectures/architecture.js'
import { readManifest } from '../formats/manifest.js'
import { loadTokenizer } from '../formats/tokenizer.js'
import type { HeadGradientOptions, HeadGradients } from '../inference/head-gradients.js'
import { type LoadedModel, openModel } from '../inference/model.js'
import type { HeadModel, HeadRecord } from '../probing/head-importance.js'
import { createScorer, type ScoreRow, type Scorer, type ScoringModel } from '../probing/scoring.js'
import { findNotANumber } from '../probing/stacks.js'
import { findBrokenTensor } from './broken-tensor.js'
import type { HandlerContext } from './handler.js'

export interface MeasuringContext {
  manifest: Manifest
  model: ScoringModel
  scorer: Scorer
  /** For what its attention heads do. */
  heads: HeadModel
}

/** Runs `use` on the opened model and disposes it. `name` is what errors call it. */
export async function withScoringModel<T>(
  manifestHash: string,
  context: Pick<HandlerContext, 'payloads' | 'dataFolder' | 'env' | 'signal' | 'progress'>,
  use: (opened: MeasuringContext) => Promise<T>,
): Promise<T> {
  const { payloads, signal } = context
  context.progress({ stage: 'open', completed: 0, total: 1, unit: 'models' })
  const manifest = await readManifest(payloads, manifestHash)
  const tokenizer = await loadTokenizer(manifest, payloads)
  const loaded = await openModel(manifest, context)
  const name = `model ${manifest.sourceName ?? manifestHash.slice(0, 12)}`
  const model: ScoringModel = {
    name,
    layerCount: loaded.dimensions.layerCount,
    contextLength: loaded.dimensions.contextLength,
    pieceByPiece: loaded.pieceByPiece,
    encode: text => checkedIds(tokenizer.encode(text), name, loaded.dimensions.vocabularySize),
    bosTokenId: tokenizer.addBos ? tokenizer.bosTokenId : undefined,
    score: async (rows, { layerSums }) => {
      const gates = rows.map(row =>
        Float32Array.from(row.gates ?? new Array<number>(loaded.dimensions.layerCount).fill(1)),
      )
      const scores = await loaded.score(rows, { gates, probes: layerSums, signal }).catch(async error => {
        throw await explainNotANumber(error, model, rows)
      })
      return scores.map(({ nll, completionTokens, hits, probes }) => ({
        nll,
        exact: hits === completionTokens,
        layers: probes,
      }))
    },
    layerwise: {
      hiddenSize: loaded.dimensions.hiddenSize,
      embed: loaded.pieces.embed,
      layer: loaded.pieces.layer,
      tail: loaded.pieces.tail,
      losses: async (hidden, rows, scoredOnly) =>
        (await loaded.pieces.losses(hidden, rows, scoredOnly)).map(({ nll, completionTokens, hits }) => ({
          nll,
          ...(hits === undefined ? {} : { exact: hits === completionTokens }),
        })),
    },
  }
  try {
    return await use({ manifest, model, scorer: createScorer(model, signal), heads: headModel(name, loaded) })
  } catch (error) {
    throw await nameTensor(error, name, manifest, context)
  } finally {
    await loaded.dispose()
  }
}

const headModel = (name: string, { dimensions: d, headGradients }: LoadedModel): HeadModel => ({
  name,
  layerCount: d.layerCount,
  headCount: d.attentionHeadCount,
  keyValueHeadCount: d.keyValueHeadCount,
  headsOf(layer) {
    const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
    return { heads: attentionHeadCount, keyValueHeads: keyValueHeadCount }
  },
  async gradients(rows, { signal, batchDone }) {
    // Plain numbers: records of them are written as JSON.
    const plain = ({ loss, gradients, entropies }: HeadGradients): HeadRecord => ({
      loss,
      gradients: [...gradients],
      entropies: [...entropies],
    })
    const options: HeadGradientOptions = {
      signal,
      batchDone: batchDone && ((indices, found) => batchDone(indices, found.map(plain))),
    }
    return (await headGradients(rows, options)).map(plain)
  },
})

/** @throws INVALID_MODEL_FILE where the tokenizer knows more tokens than the model: it belongs to another one */
function checkedIds(ids: readonly number[], name: string, vocabularySize: number): number[] {
  const foreign = ids.find(id => id >= vocabularySize)
  if (foreign === undefined) return [...ids]
  throw new DomainError(
    'INVALID_MODEL_FILE',
    `${name}: its tokenizer gives token ${foreign}, its vocabulary has ${vocabularySize}: they do not belong together`,
  )
}

/** Where a run gave no numbers because a weight is none: says which. */
async function nameTensor(
  error: unknown,
  name: string,
  manifest: Manifest,
  { payloads, signal }: Pick<HandlerContext, 'payloads' | 'signal'>,
): Promise<unknown> {
  if (!isDomainError(error) || error.code !== 'NOT_A_NUMBER') return error
  const broken = await findBrokenTensor(payloads, manifest, signal)
  if (!broken) return error
  const where = `tensor ${broken.name} holds ${broken.value} at [${broken.index.join(', ')}]`
  return new DomainError('NOT_A_NUMBER', `${name}: ${where}; nothing can be measured with it`, { cause: error })
}

/** Says which model, and after which layer the first value that is not a number appears. */
async function explainNotANumber(error: unknown, model: ScoringModel, rows: readonly ScoreRow[]): Promise<unknown> {
  if (!isDomainError(error) || error.code !== 'NOT_A_NUMBER') return error
  for (const row of rows) {
    const stack = Array.from({ length: model.layerCount }, (_, layer) => layer).filter(i => row.gates?.[i] !== 0)
    const broken = await findNotANumber(model.layerwise, [row], stack)
    if (broken === 'loss') continue
    const where = broken === 'embedding' ? 'the embedding' : `the output of layer ${broken}`
    return new DomainError('NOT_A_NUMBER', `${model.name}: ${where} holds NaN or infinity`, { cause: error })
  }
  return new DomainError('NOT_A_NUMBER', `${model.name}: ${error.message}`, { cause: error })
}
