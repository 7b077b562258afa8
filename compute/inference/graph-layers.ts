// The parts of a layer that architectures vary: norms, linear layers as they are stored, projections to heads, activations.
import {
  type Activation,
  type Architecture,
  layerDimensions,
  type ResolvedDimensions,
} from '../architectures/architecture.js'
import type { BuildableModel } from '../architectures/registry.js'
import type { GraphBuilder } from '../graph/builder.js'
import type { Value } from '../graph/ir.js'
import { apply, applyAll, reshape } from '../ops/apply.js'

type Weight = (role: string) => Value

/** The kernels of each kind of norm: of a value, and of a value plus what was added to it. */
export const normOps = {
  rms: ['SimplifiedLayerNormalization', 'SkipSimplifiedLayerNormalization'],
  layer: ['LayerNormalization', 'SkipLayerNormalization'],
} as const satisfies Record<Architecture['norm'], readonly string[]>

/** Weight, and bias where the model has one, of a norm. The offset is folded into the weight when the session is made. */
export function normWeights(g: GraphBuilder, model: BuildableModel, weight: Weight, role: string): Value[] {
  const { normOffset, tensors } = model
  const stored = weight(role)
  const scale =
    normOffset === 0 ? stored : apply(g, 'Add', [stored, g.float32(normOffset)], {}, { name: `${role}.weight` })
  return tensors.has(`${role}_bias`) ? [scale, weight(`${role}_bias`)] : [scale]
}

export function linearLayers(g: GraphBuilder, model: BuildableModel, weight: Weight) {
  const { dimensions, tensors, inputFirst } = model

  /** x [tokens, in] -> [tokens, out]. */
  const linear = (x: Value, role: string): Value => {
    const bias = tensors.has(`${role}_bias`) ? [weight(`${role}_bias`)] : []
    const attributes = { transB: inputFirst.has(role) ? 0 : 1 }
    return apply(g, 'Gemm', [x, weight(role), ...bias], attributes, { name: `${role}.out` })
  }

  /** RMSNorm of each head on its own: x [tokens, heads * head size], weight [head size]. */
  const headNorm = (x: Value, role: string): Value => {
    if (!tensors.has(role)) return x
    const { headSize, normEpsilon } = dimensions
    const heads = reshape(g, x, [-1, headSize], ['heads', headSize], `${role}.heads`)
    const attributes = { axis: -1, epsilon: normEpsilon, stash_type: 1 }
    const weights = normWeights(g, model, weight, role)
    return apply(g, 'SimplifiedLayerNormalization', [heads, ...weights], attributes, { name: `${role}.out` })
  }

  /** q, k and v of x in a layer, each flat: [tokens, heads * head size], or [heads of all tokens, head size] where heads are normed. */
  const projections = (x: Value, layer: number): [q: Value, k: Value, v: Value] => {
    const at = (role: string) => `layers.${layer}.${role}`
    const [q, k, v] = tensors.has(at('qkv'))
      ? splitHeads(linear(x, at('qkv')), layerDimensions(dimensions, layer), at)
      : [linear(x, at('q')), linear(x, at('k')), linear(x, at('v'))]
    return [headNorm(q!, at('q_norm')), headNorm(k!, at('k_norm')), v!]
  }

  const splitHeads = (qkv: Value, d: ResolvedDimensions, at: (role: string) => string) => {
    const keys = d.keyValueHeadCount * d.headSize
    const sizes = g.int64s([d.attentionHeadCount * d.headSize, keys, keys])
    return applyAll(g, 'Split', [qkv, sizes], { axis: 1 }, { name: [at('q.out'), at('k.out'), at('v.out')] })
  }

  return { linear, projections }
}

type Activate = (g: GraphBuilder, x: Value, at: (role: string) => string) => Value

const activations: Record<Activation, Activate> = {
  silu: (g, x, at) => {
    const sigmoid = apply(g, 'Sigmoid', [x], {}, { name: at('sigmoid') })
    return apply(g, 'Mul', [x, sigmoid], {}, { name: at('silu') })
  },
  gelu_tanh: (g, x, at) => apply(g, 'FastGelu', [x], {}, { name: at('gelu') }),
}

export const activate = (g: GraphBuilder, activation: Activation, x: Value, at: (role: string) => string): Value =>
  activations[activation](g, x, at)
