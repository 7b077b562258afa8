// What a model's graph is given beside its weights, and the embedding that comes first.
import type { BuildableModel } from '../architectures/registry.js'
import type { GraphBuilder } from '../graph/builder.js'
import type { ElementType, ExternalData, Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'

/** Where a tensor lies; roles as in the architecture (`layers.3.q`). `type`: as what it is stored there, absent: float32. */
export type LocateWeight = (role: string) => ExternalData & { type?: ElementType }

/** GroupQueryAttention rotates by itself only where the head size is a multiple of this. */
const fusedRotaryMultiple = 16

/** What the graphs of a model ask for positions: RoPE tables, ids of positions, or both. */
export function positionInputs({ architecture, dimensions }: Pick<BuildableModel, 'architecture' | 'dimensions'>) {
  const rotary = architecture.positions === 'rotary'
  return { tables: rotary, ids: !rotary || dimensions.headSize % fusedRotaryMultiple !== 0 }
}

export interface GraphInputs {
  ids: Value
  lastPositions: Value
  totalLength: Value
  /** Tables of cosines and sines; null where positions are learned. */
  rope: { cos: Value; sin: Value } | null
  positions: Value | null
}

/** As our own sessions feed them. */
export function ownInputs(g: GraphBuilder, model: BuildableModel): GraphInputs {
  const halfHead = model.dimensions.headSize / 2
  const asked = positionInputs(model)
  return {
    ids: g.input('input_ids', 'int64', ['batch', 'seq']),
    lastPositions: g.input('last_positions', 'int32', ['batch']),
    totalLength: g.input('total_length', 'int32', []),
    rope: asked.tables
      ? {
          cos: g.input('rope_cos', 'float32', ['positions', halfHead]),
          sin: g.input('rope_sin', 'float32', ['positions', halfHead]),
        }
      : null,
    positions: asked.ids ? g.input('position_ids', 'int64', ['batch', 'seq']) : null,
  }
}

/** TensorProto.DataType */
const int32 = 6

/**
 * As Hugging Face models are fed: a mask from which lengths follow, ids of positions, RoPE tables that come with the
 * weights. transformers.js knows sizes by these names.
 */
export function portableInputs(g: GraphBuilder, model: BuildableModel, locate: LocateWeight): GraphInputs {
  const { contextLength, headSize } = model.dimensions
  const ids = g.input('input_ids', 'int64', ['batch_size', 'sequence_length'])
  const mask = g.input('attention_mask', 'int64', ['batch_size', 'total_sequence_length'])
  const positions = g.input('position_ids', 'int64', ['batch_size', 'sequence_length'])
  const lengths = apply(g, 'ReduceSum', [mask, g.int64s([1])], { keepdims: 0 }, { name: 'lengths' }) // [batch]
  const last = apply(g, 'Sub', [lengths, g.int64(1)], {}, { name: 'last' })
  const sizes = apply(g, 'Shape', [mask], {}, { name: 'mask_shape' })
  const total = apply(g, 'Gather', [sizes, g.int64(1)], { axis: 0 }, { name: 'total' })
  const table = (role: string) => g.weight(role, [contextLength, headSize / 2], locate(role))
  return {
    ids,
    lastPositions: apply(g, 'Cast', [last], { to: int32 }, { name: 'last_positions' }),
    totalLength: apply(g, 'Cast', [total], { to: int32 }, { name: 'total_length' }),
    rope: model.architecture.positions === 'rotary' ? { cos: table('rope_cos'), sin: table('rope_sin') } : null,
    positions,
  }
}

/** [batch, seq, hidden]: the tokens' rows, scaled or with their positions' rows added where the architecture says so. */
export function embedding(
  g: GraphBuilder,
  { architecture, dimensions }: BuildableModel,
  { ids, positions }: GraphInputs,
  weight: (role: string) => Value,
): Value {
  let embedded = apply(g, 'Gather', [weight('embed'), ids], {}, { name: 'embedded' })
  const scale = architecture.embeddingScale?.(dimensions) ?? 1
  if (scale !== 1) embedded = apply(g, 'Mul', [embedded, g.float32(scale)], {}, { name: 'embedded_scaled' })
  if (architecture.positions === 'rotary') return embedded
  const rows = apply(g, 'Gather', [weight('position_embed'), positions], {}, { name: 'position_embedded' })
  return apply(g, 'Add', [embedded, rows], {}, { name: 'embedded_at_position' })
}
