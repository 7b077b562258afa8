// The graphs of a decoder model, wired as its architecture's data say: one that decodes with a key/value cache, one that measures with
// layer gates and probes, and its pieces layer by layer.
import { layerDimensions } from '../architectures/architecture.js'
import type { BuildableModel } from '../architectures/registry.js'
import { type GraphBuilder, graphBuilder } from '../graph/builder.js'
import type { Graph, Value } from '../graph/ir.js'
import { apply, applyAll, reshape, reshapeTo } from '../ops/apply.js'
import { embedding, type GraphInputs, type LocateWeight, ownInputs, portableInputs } from './graph-inputs.js'
import { activate, linearLayers, normOps, normWeights } from './graph-layers.js'

/**
 * `generate`: inputs past keys and values in buffers with room to spare, outputs `present.*`, meant to be written into the very same
 * buffers. `measure`: inputs `layer_gates` and `targets`, no cache, outputs
 * losses, hits and per-layer probes. Both give logits of the token positions named by `rows`. The pieces make up the same model without
 * cache and gates: `embed` and each layer give `hidden_out`, layers and `losses` take `hidden_in` [tokens, hidden], the residual stream.
 * `states`: no cache, gates or head; outputs the final norm `final_norm.out` and the residual stream `hidden.<l>` after l layers, all
 * [tokens, hidden]: what training is built on; `states.gated` is the same with `layer_gates`.
 * `portable`: what other programs run: `input_ids`, `attention_mask`, `position_ids` and `past_key_values.*` in, logits of every position
 * [batch, seq, vocabulary] and `present.*` out. Rows of a batch are padded on the right.
 * `tail` is a layer that gives only the rows of its output that the input `rows` names, [rows, hidden]: all that losses need of the last.
 * `nll` is `losses` without the predicted tokens, whose search takes a tenth as long as the head.
 * `masked` is a layer with `head_gates` [query heads * head size], factors of what attention gives before its output projection.
 */
export type GraphVariant =
  | 'generate'
  | 'measure'
  | 'states'
  | 'states.gated'
  | 'portable'
  | 'embed'
  | `layer.${number}`
  | `tail.${number}`
  | `masked.${number}`
  | 'losses'
  | 'nll'

/** Which part of the model a graph holds: [from, to) of its layers. */
function partOf(variant: GraphVariant, layerCount: number) {
  if (variant === 'embed') return { embed: true, from: 0, to: 0, head: false }
  if (variant === 'losses' || variant === 'nll') return { embed: false, from: layerCount, to: layerCount, head: true }
  const layer = Number(/^(?:layer|tail|masked)\.(\d+)$/.exec(variant)?.[1] ?? -1)
  if (layer < 0) return { embed: true, from: 0, to: layerCount, head: true }
  return { embed: false, from: layer, to: layer + 1, head: false }
}

/** TensorProto.DataType */
const float32 = 1
/** Far below the product of two hidden states' norms, far above the least float32. */
const leastNormProduct = 1e-20
/** GroupQueryAttention takes heads whose size is a multiple of this; others are filled up with zeros, which change no product. */
const headMultiple = 8

/** The size that heads have inside the attention kernel, and in its cache. */
export const kernelHeadSize = (headSize: number) => Math.ceil(headSize / headMultiple) * headMultiple

/**
 * The residual stream is kept flat, [tokens, hidden] with tokens = batch * seq, so that linear layers are Gemm on weights as stored
 * ([out, in]). Rows of a batch are padded on the right: attention is causal, so padding never reaches a real token.
 */
export function buildModelGraph(model: BuildableModel, variant: GraphVariant, locate: LocateWeight): Graph {
  const { dimensions: d, tensors } = model
  const g = graphBuilder(`${model.architecture.name} ${variant}`)
  const part = partOf(variant, d.layerCount)
  const portable = variant === 'portable'

  const inputs = portable ? portableInputs(g, model, locate) : ownInputs(g, model)
  const rows = part.head && !variant.startsWith('states') && !portable ? g.input('rows', 'int64', ['rows']) : null

  const weight = (role: string): Value => {
    const { type = 'float32', ...data } = locate(role)
    const stored = g.weight(role, tensors.get(role)!.shape, data, type)
    // Sessions do this once, when they are made.
    return type === 'float32' ? stored : apply(g, 'Cast', [stored], { to: float32 }, { name: `${role}.float32` })
  }
  const { linear, projections } = linearLayers(g, model, weight)

  const embed = () => {
    const embedded = embedding(g, model, inputs, weight)
    return reshape(g, embedded, [-1, d.hiddenSize], ['tokens', d.hiddenSize], part.head ? 'hidden.0' : 'hidden_out')
  }
  let residual = part.embed ? embed() : g.input('hidden_in', 'float32', ['tokens', d.hiddenSize])
  /** What the last block added to the residual stream, not yet summed: the next norm does both in one kernel. */
  let added: Value | null = null
  const [plainNorm, skipNorm] = normOps[model.architecture.norm]
  const norm = (role: string, sumName: string): Value => {
    const weights = normWeights(g, model, weight, role)
    if (!added) {
      const attributes = { axis: -1, epsilon: d.normEpsilon, stash_type: 1 }
      return apply(g, plainNorm, [residual, ...weights], attributes, { name: `${role}.out` })
    }
    const attributes = { epsilon: d.normEpsilon }
    const outputs = applyAll(g, skipNorm, [residual, added, ...weights], attributes, {
      name: [`${role}.out`, '', '', sumName],
    })
    residual = outputs[3]!
    return outputs[0]!
  }

  const tailRows = variant.startsWith('tail.') ? g.input('rows', 'int64', ['rows']) : null
  /** Of a layer's output, the rows that anybody reads: after the last layer of a prompt, those that logits are wanted of. */
  const rowsOf = (layer: number) => tailRows ?? (variant === 'generate' && layer === d.layerCount - 1 ? rows : null)
  const maskedHeads = layerDimensions(d, part.from).attentionHeadCount
  const headGates = variant.startsWith('masked.') ? g.input('head_gates', 'float32', [maskedHeads * d.headSize]) : null
  const gates = variant === 'measure' || variant === 'states.gated' ? tokenGates(g, inputs.ids, d.layerCount) : null
  const attend = attention(g, model, inputs, portable ? portableCache : variant === 'generate' ? ownCache : null)
  const hidden: Value[] = []

  for (let layer = part.from; layer < part.to; layer++) {
    const at = (role: string) => `layers.${layer}.${role}`
    const gate = gates && apply(g, 'Gather', [gates, g.int64s([layer])], { axis: 1 }, { name: at('gate_value') }) // [tokens, 1]
    const gated = (x: Value, name: string) => (gate ? apply(g, 'Mul', [x, gate], {}, { name: at(name) }) : x)

    const x = norm(at('attn_norm'), `hidden.${layer}`)
    hidden.push(residual)
    const attended = attend(layer, ...projections(x, layer))
    const mixed = headGates ? apply(g, 'Mul', [attended, headGates], {}, { name: at('heads_gated') }) : attended
    const kept = rowsOf(layer)
    const ofRows = (x: Value, name: string) =>
      kept ? apply(g, 'Gather', [x, kept], { axis: 0 }, { name: at(name) }) : x
    residual = ofRows(residual, 'input_of_rows')
    added = gated(linear(ofRows(mixed, 'attended_of_rows'), at('o')), 'attention_gated')

    const y = norm(at('mlp_norm'), at('after_attention'))
    const { activation } = model.architecture
    const product = tensors.has(at('gate'))
      ? apply(
          g,
          'Mul',
          [activate(g, activation, linear(y, at('gate')), at), linear(y, at('up'))],
          {},
          { name: at('gated_up') },
        )
      : activate(g, activation, linear(y, at('up')), at)
    added = gated(linear(product, at('down')), 'mlp_gated')
  }
  if (!part.head) {
    g.output(added ? apply(g, 'Add', [residual, added], {}, { name: 'hidden_out' }) : residual)
    return g.build()
  }
  const normed = norm('final_norm', `hidden.${d.layerCount}`)
  hidden.push(residual)
  const head = d.tiedEmbeddings ? 'embed' : 'lm_head'
  if (portable) {
    const flat = apply(g, 'Gemm', [normed, weight(head)], { transB: 1 }, { name: 'flat_logits' }) // [tokens, vocabulary]
    const sizes = apply(g, 'Shape', [inputs.ids], {}, { name: 'logit_rows' })
    const shape = apply(g, 'Concat', [sizes, g.int64s([d.vocabularySize])], { axis: 0 }, { name: 'logit_shape' })
    g.output(reshapeTo(g, flat, shape, ['batch_size', 'sequence_length', d.vocabularySize], 'logits'))
    return g.build()
  }
  if (!rows) {
    for (const state of [normed, ...hidden]) g.output(state)
    return g.build()
  }

  // [rows, hidden]
  const wanted = rowsOf(d.layerCount - 1) ? normed : apply(g, 'Gather', [normed, rows], { axis: 0 }, { name: 'wanted' })
  const logits = apply(g, 'Gemm', [wanted, weight(head)], { transB: 1 }, { name: 'logits' }) // [rows, vocabulary]
  if (variant !== 'losses' && variant !== 'nll') g.output(logits)
  if (variant !== 'generate') addLosses(g, logits, variant !== 'nll')
  if (variant === 'measure') addProbes(g, hidden)
  return g.build()
}

/** Buffers with room to spare, written in place. */
const ownCache = { past: 'past', batch: 'batch', before: 'capacity', after: 'capacity' } as const
/** What there was, and with the new positions behind it, as Hugging Face models have it. */
const portableCache = {
  past: 'past_key_values',
  batch: 'batch_size',
  before: 'past_sequence_length',
  after: 'total_sequence_length',
} as const

/** Attention of one layer: q, k, v [tokens, heads * head size] -> [tokens, query heads * head size]; adds the cache's inputs and outputs. */
function attention(
  g: GraphBuilder,
  { dimensions }: BuildableModel,
  inputs: GraphInputs,
  /** Names and sizes where keys and values of the past are inputs, and theirs and the new ones outputs. */
  cache: typeof ownCache | typeof portableCache | null,
) {
  const batchAndSeq = apply(g, 'Shape', [inputs.ids], {}, { name: 'batch_and_seq' })
  const split = (width: number, name: string) => {
    const shape = apply(g, 'Concat', [batchAndSeq, g.int64s([width])], { axis: 0 }, { name })
    return (x: Value, as: string) => reshapeTo(g, x, shape, ['batch', 'seq', width], as)
  }
  // Layers of one width share the node.
  const splits = new Map<string, ReturnType<typeof split>>()
  const splitOnce = (width: number, name: string) => {
    const known = splits.get(`${name} ${width}`) ?? split(width, name)
    splits.set(`${name} ${width}`, known)
    return known
  }
  if (!dimensions.perLayer) {
    splitOnce(dimensions.attentionHeadCount * dimensions.headSize, 'query_shape')
    splitOnce(dimensions.keyValueHeadCount * dimensions.headSize, 'key_shape')
  }
  const interleaved = dimensions.ropeLayout === 'interleaved' ? 1 : 0
  const { positions, rope } = inputs
  // RoPE inside the attention kernel where it can.
  const fused = rope && !positions ? rope : null
  const rotate = (x: Value, heads: number, name: string) => {
    if (!rope || !positions) return x
    const attributes = { interleaved, num_heads: heads, rotary_embedding_dim: 0 }
    return apply(g, 'RotaryEmbedding', [x, positions, rope.cos, rope.sin], attributes, { name })
  }
  const { headSize } = dimensions
  const size = kernelHeadSize(headSize)
  const gap = size - headSize
  /** [batch, seq, heads * head size] -> [batch, seq, heads * size], and back. */
  const fillUp = (x: Value, heads: number, name: string) => {
    if (gap === 0) return x
    const shape = apply(g, 'Concat', [batchAndSeq, g.int64s([heads, gap])], { axis: 0 }, { name: `${name}.gap_shape` })
    const named = { name: `${name}.gap`, shape: ['batch', 'seq', heads, gap] }
    const zeros = apply(g, 'Expand', [g.float32(0), shape], {}, named)
    const split = reshape(g, x, [0, 0, heads, headSize], ['batch', 'seq', heads, headSize], `${name}.heads`)
    const filled = apply(g, 'Concat', [split, zeros], { axis: 3 }, { name: `${name}.filled` })
    return reshape(g, filled, [0, 0, heads * size], ['batch', 'seq', heads * size], `${name}.kernel`)
  }
  const cutBack = (x: Value, heads: number, name: string) => {
    if (gap === 0) return x
    const split = reshape(g, x, [0, 0, heads, size], ['batch', 'seq', heads, size], `${name}.heads`)
    const outputs = [headSize, gap]
    const [kept] = applyAll(
      g,
      'Split',
      [split, g.int64s(outputs)],
      { axis: 3 },
      { name: [`${name}.kept`, `${name}.rest`] },
    )
    return kept!
  }

  return (layer: number, q: Value, k: Value, v: Value): Value => {
    const at = (name: string) => `layers.${layer}.${name}`
    const d = layerDimensions(dimensions, layer)
    const queryWidth = d.attentionHeadCount * headSize
    const splitQuery = splitOnce(queryWidth, 'query_shape')
    const splitKey = splitOnce(d.keyValueHeadCount * headSize, 'key_shape')
    const attributes = {
      num_heads: d.attentionHeadCount,
      kv_num_heads: d.keyValueHeadCount,
      scale: 1 / Math.sqrt(headSize),
      do_rotary: fused ? 1 : 0,
      rotary_interleaved: fused ? interleaved : 0,
      local_window_size: d.slidingWindow ?? -1,
    }
    const cacheShape = (positions: string) => [cache?.batch ?? 'batch', d.keyValueHeadCount, positions, size]
    const rotatedQuery = rotate(splitQuery(q, at('query')), d.attentionHeadCount, at('query_rotated'))
    const rotatedKey = rotate(splitKey(k, at('key')), d.keyValueHeadCount, at('key_rotated'))
    const query = fillUp(rotatedQuery, d.attentionHeadCount, at('query'))
    const key = fillUp(rotatedKey, d.keyValueHeadCount, at('key'))
    const value = fillUp(splitKey(v, at('value')), d.keyValueHeadCount, at('value'))
    const past = ['key', 'value'].map(part =>
      cache ? g.input(`${cache.past}.${layer}.${part}`, 'float32', cacheShape(cache.before)) : null,
    )
    const rotary = fused ? [fused.cos, fused.sin] : []
    const outputs = applyAll(
      g,
      'GroupQueryAttention',
      [query, key, value, ...past, inputs.lastPositions, inputs.totalLength, ...rotary],
      attributes,
      { name: [at('attention'), `present.${layer}.key`, `present.${layer}.value`] },
    )
    if (cache) for (const present of outputs.slice(1)) g.output({ ...present!, shape: cacheShape(cache.after) })
    return reshape(
      g,
      cutBack(outputs[0]!, d.attentionHeadCount, at('attention')),
      [-1, queryWidth],
      ['tokens', queryWidth],
      at('attended'),
    )
  }
}

/** `layer_gates` [batch, layers] repeated for every token of its row: [tokens, layers]. */
function tokenGates(g: GraphBuilder, ids: Value, layerCount: number): Value {
  const gates = g.input('layer_gates', 'float32', ['batch', layerCount])
  const rowwise = reshape(g, gates, [-1, 1, layerCount], ['batch', 1, layerCount], 'gates_by_row')
  const shape = apply(
    g,
    'Concat',
    [apply(g, 'Shape', [ids], {}, { name: 'gate_batch_and_seq' }), g.int64s([layerCount])],
    { axis: 0 },
    { name: 'gate_shape' },
  )
  const expanded = apply(
    g,
    'Expand',
    [rowwise, shape],
    {},
    { name: 'gates_by_token', shape: ['batch', 'seq', layerCount] },
  )
  return reshape(g, expanded, [-1, layerCount], ['tokens', layerCount], 'token_gates')
}

/** `log_probabilities` [rows] = ln softmax(logits)[target], in nats, and where asked for `predictions` [rows], the arg-max token. */
function addLosses(g: GraphBuilder, logits: Value, predictions: boolean): void {
  const targets = g.input('targets', 'int64', ['rows'])
  const column = reshape(g, targets, [-1, 1], ['rows', 1], 'target_column')
  // Of the forms that are exact for rare tokens the fastest: ReduceLogSumExp takes half as long again as the head itself.
  const normalised = apply(g, 'LogSoftmax', [logits], { axis: -1 }, { name: 'log_softmax' }) // [rows, vocabulary]
  const chosen = apply(g, 'GatherElements', [normalised, column], { axis: 1 }, { name: 'target_log_probability' }) // [rows, 1]
  g.output(reshape(g, chosen, [-1], ['rows'], 'log_probabilities'))
  if (predictions) g.output(apply(g, 'ArgMax', [logits], { axis: -1, keepdims: 0 }, { name: 'predictions' }))
}

/**
 * `norms` [layers + 1, tokens]: L2 norm of the residual stream, 0 the embedding, l + 1 after layer l.
 * `cosines` [layers, tokens]: cos(layer input, layer output), of which block influence is 1 - mean (ShortGPT, arXiv 2403.03853).
 */
function addProbes(g: GraphBuilder, hidden: readonly Value[]): void {
  const lastAxis = g.int64s([-1])
  const asRow = (x: Value, name: string) => reshape(g, x, [1, -1], [1, 'tokens'], name)
  const norms = hidden.map((h, i) => apply(g, 'ReduceL2', [h, lastAxis], { keepdims: 0 }, { name: `norm.${i}` }))
  const cosines = hidden.slice(1).map((after, layer) => {
    const product = apply(g, 'Mul', [hidden[layer]!, after], {}, { name: `product.${layer}` })
    const dot = apply(g, 'ReduceSum', [product, lastAxis], { keepdims: 0 }, { name: `dot.${layer}` })
    const scale = apply(g, 'Mul', [norms[layer]!, norms[layer + 1]!], {}, { name: `norm_product.${layer}` })
    // A hidden state of zeros has no direction: its cosine is 0, not a division by zero.
    const safe = apply(g, 'Max', [scale, g.float32(leastNormProduct)], {}, { name: `norm_product_safe.${layer}` })
    return asRow(apply(g, 'Div', [dot, safe], {}, { name: `cosine.${layer}` }), `cosine_row.${layer}`)
  })
  const normRows = norms.map((n, i) => asRow(n, `norm_row.${i}`))
  g.output(apply(g, 'Concat', normRows, { axis: 0 }, { name: 'norms' }))
  g.output(apply(g, 'Concat', cosines, { axis: 0 }, { name: 'cosines' }))
}
