// Graphs that compute a model's loss and, by one backward pass, its gradients: for the gates of attention heads, or for the weights.
import type { BuildableModel } from '../architectures/registry.js'
import { type AttentionWeights, type DifferentiableGraph, differentiable } from '../autodiff/differentiable.js'
import { gradients } from '../autodiff/gradients.js'
import type { GraphBuilder } from '../graph/builder.js'
import type { Graph, Value } from '../graph/ir.js'
import { apply, reshape } from '../ops/apply.js'
import type { LocateWeight } from './graph-inputs.js'
import { buildModelGraph } from './model-graph.js'

/**
 * The measuring graph's loss: `loss` [] = - sum over rows of `row_weights` [rows] times the target's log-probability, in nats.
 * Beside the measuring graph's inputs it takes `head_gates` and `causal_mask` (see `differentiable`).
 */
function addLoss(
  model: BuildableModel,
  locate: LocateWeight,
  variant: 'measure' | 'losses' = 'measure',
): DifferentiableGraph & { loss: Value } {
  const opened = differentiable(buildModelGraph(model, variant, locate), ['log_probabilities'])
  const { g, values } = opened
  const weights = g.input('row_weights', 'float32', ['rows'])
  const weighted = apply(g, 'Mul', [values.get('log_probabilities')!, weights], {}, { name: 'weighted' })
  const sum = apply(g, 'ReduceSum', [weighted], { keepdims: 0 }, { name: 'weighted_sum' })
  const loss = apply(g, 'Neg', [sum], {}, { name: 'loss' })
  g.output(loss)
  return { ...opened, loss }
}

/**
 * Outputs `loss`, `log_probabilities` [rows], `head_gradients` [layers, batch, heads], the derivatives of the loss for each head's gate, and
 * `head_entropies` [layers, batch, heads]: the entropy of each head's attention, -sum p ln p in nats, summed over the positions with the
 * input `position_weights` [batch, 1, seq].
 */
export function headGradientGraph(model: BuildableModel, locate: LocateWeight): Graph {
  const { g, values, headGates, attentions, loss } = addLoss(model, locate)
  g.output(values.get('log_probabilities')!)
  g.output(gradients(g, loss, [headGates])[0]!, 'head_gradients')
  addEntropies(g, attentions)
  return g.build()
}

/** Output `head_entropies` [layers, batch, heads], from the input `position_weights`. */
function addEntropies(g: GraphBuilder, attentions: readonly AttentionWeights[]): void {
  const positions = g.input('position_weights', 'float32', ['batch', 1, 'seq'])
  const most = Math.max(...attentions.map(({ heads }) => heads))
  const entropies = attentions.map((attention, layer) => {
    const own = attentionEntropy(g, attention, positions, layer)
    return attention.heads === most ? own : filledUp(g, own, most - attention.heads, layer)
  })
  const joined = apply(g, 'Concat', entropies, { axis: 0 }, { name: 'negative_entropies' })
  g.output(apply(g, 'Neg', [joined], {}, { name: 'head_entropies' }))
}

/** [1, batch, heads + missing], with 0 for the heads that the layer lacks and others have. */
function filledUp(g: GraphBuilder, entropies: Value, missing: number, layer: number): Value {
  const named = (part: string) => `entropy.${layer}.${part}`
  const batch = apply(g, 'Shape', [entropies], { start: 0, end: 2 }, { name: named('one_and_batch') })
  const shape = apply(g, 'Concat', [batch, g.int64s([missing])], { axis: 0 }, { name: named('missing_shape') })
  const zeros = apply(g, 'Expand', [g.float32(0), shape], {}, { name: named('missing'), shape: [1, 'batch', missing] })
  return apply(g, 'Concat', [entropies, zeros], { axis: 2 }, { name: named('filled') })
}

/** [1, batch, heads]: sum over positions of weight * sum p ln p; where a position may not look, p is 0 and ln p finite. */
function attentionEntropy(
  g: GraphBuilder,
  { scores, weights, heads }: AttentionWeights,
  positions: Value,
  layer: number,
): Value {
  const named = (part: string) => ({ name: `entropy.${layer}.${part}` })
  const last = g.int64s([-1])
  const logarithms = apply(g, 'LogSoftmax', [scores], { axis: -1 }, named('logarithms'))
  const products = apply(g, 'Mul', [weights, logarithms], {}, named('products'))
  const sums = apply(g, 'ReduceSum', [products, last], { keepdims: 0 }, named('sums')) // [batch, kv heads, group * seq]
  const perHead = reshape(g, sums, [0, heads, -1], ['batch', heads, 'seq'], named('heads').name)
  const weighted = apply(g, 'Mul', [perHead, positions], {}, named('weighted'))
  const total = apply(g, 'ReduceSum', [weighted, last], { keepdims: 0 }, named('total'))
  return reshape(g, total, [1, -1, heads], [1, 'batch', heads], named('row').name)
}

/**
 * The same loss from the last layer's output on: inputs as the graph of losses has, outputs `loss`, `log_probabilities` [rows] and
 * `hidden_gradient` [tokens, hidden], the loss's derivative for `hidden_in`.
 */
export function lossGradientGraph(model: BuildableModel, locate: LocateWeight): Graph {
  const { g, values, loss } = addLoss(model, locate, 'losses')
  g.output(values.get('log_probabilities')!)
  g.output(gradients(g, loss, [values.get('hidden_in')!])[0]!, 'hidden_gradient')
  return g.build()
}

/**
 * One layer of the backward pass: from `hidden_in` and `hidden_out_gradient`, the loss's derivative for the layer's output, outputs
 * `hidden_gradient` for its input, `head_gradients` and `head_entropies` [1, batch, heads]. The layer is computed again rather than kept.
 */
export function layerGradientGraph(model: BuildableModel, locate: LocateWeight, layer: number): Graph {
  const opened = differentiable(buildModelGraph(model, `layer.${layer}`, locate), ['hidden_out'])
  const { g, values, headGates, attentions } = opened
  const upstream = g.input('hidden_out_gradient', 'float32', ['tokens', model.dimensions.hiddenSize])
  // Its derivative for hidden_out is the upstream gradient, which makes the chain rule one of scalars.
  const product = apply(g, 'Mul', [values.get('hidden_out')!, upstream], {}, { name: 'chained' })
  const scalar = apply(g, 'ReduceSum', [product], { keepdims: 0 }, { name: 'chained_sum' })
  const [forHidden, forGates] = gradients(g, scalar, [values.get('hidden_in')!, headGates])
  g.output(forHidden!, 'hidden_gradient')
  g.output(forGates!, 'head_gradients')
  addEntropies(g, attentions)
  return g.build()
}

/**
 * Outputs `loss`, `gradient.<role>` shaped as the weight for each of `roles` (tied weights: the sum of their uses), and
 * `squared_gradient_norm` [], the sum of squares over all of them.
 */
export function weightGradientGraph(model: BuildableModel, locate: LocateWeight, roles: readonly string[]): Graph {
  const { g, values, loss } = addLoss(model, locate)
  const weights = roles.map(role => {
    const weight = values.get(role)
    if (!weight) throw new Error(`the loss does not depend on a weight ${role}`)
    return weight
  })
  const found = gradients(g, loss, weights)
  const squares = found.map(gradient => apply(g, 'ReduceSumSquare', [gradient], { keepdims: 0 }))
  found.forEach((gradient, i) => {
    g.output(gradient, `gradient.${roles[i]}`)
  })
  g.output(
    squares.reduce((sum, square) => apply(g, 'Add', [sum, square])),
    'squared_gradient_norm',
  )
  return g.build()
}
