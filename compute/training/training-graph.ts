// One graph that computes a model's training losses and, by one backward pass, the gradients of what is trained.
import type { BuildableModel } from '../architectures/registry.js'
import { type Rewriting, rewritten } from '../autodiff/differentiable.js'
import { backward } from '../autodiff/gradients.js'
import type { GraphBuilder } from '../graph/builder.js'
import type { Graph, GraphNode, Value } from '../graph/ir.js'
import type { LocateWeight } from '../inference/graph-inputs.js'
import { buildModelGraph } from '../inference/model-graph.js'
import { apply } from '../ops/apply.js'
import { type HeadLosses, lossHead } from './loss-head.js'

/** Low-rank changes of linear layers: W + alpha / rank B A (Hu et al. 2021, arXiv 2106.09685). */
export interface LoraSpec {
  rank: number
  alpha: number
  /** Roles of the weights that get one. */
  targets: readonly string[]
}
export const loraA = (role: string) => `lora_a.${role}`
export const loraB = (role: string) => `lora_b.${role}`

/** A state of the residual stream that is to be like the teacher's: `hidden.<layer>`, after `layer` layers of the student. */
export interface HiddenLoss {
  layer: number
  /** `mse`: squared distance over the teacher's squared length; `cosine`: 1 - cosine. */
  kind: 'mse' | 'cosine'
}

export interface TrainingGraphOptions extends HeadLosses {
  /** Roles of the weights that are inputs and get gradients. */
  trained: readonly string[]
  lora?: LoraSpec | undefined
  hidden?: readonly HiddenLoss[] | undefined
  /** Layers of the student whose attention probabilities are to be like the teacher's. */
  attention?: readonly number[] | undefined
  /** Whether batches say which layers take part in which of their rows (stochastic depth, Huang et al. 2016, arXiv 1603.09382). */
  layerGates?: boolean | undefined
  /** Parts that the rows of the output layer are run in: bounds its memory. */
  headChunks: number
  /** false: losses only. */
  gradients?: boolean
  /** Whether the backward pass computes each layer's inside anew instead of keeping it: a third more work, a fraction of the memory. */
  recompute?: boolean | undefined
}

/** Outputs beside the losses. */
export const gradientOf = (role: string) => `gradient.${role}`

/** Names of everything that gets a gradient, in order: weights by role, then pairs of low-rank factors. */
export const trainedNames = ({ trained, lora }: Pick<TrainingGraphOptions, 'trained' | 'lora'>): string[] => [
  ...trained,
  ...(lora?.targets ?? []).flatMap(role => [loraA(role), loraB(role)]),
]

/** Shape of what is called `name` by `trainedNames`. */
export function trainedShape({ tensors, inputFirst }: BuildableModel, name: string, lora?: LoraSpec): number[] {
  const whole = tensors.get(name)
  if (whole) return whole.shape
  const role = name.slice('lora_a.'.length)
  const stored = tensors.get(role)!.shape
  const [outputs, inputs] = inputFirst.has(role) ? stored.toReversed() : stored
  return name === loraA(role) ? [lora!.rank, inputs!] : [outputs!, lora!.rank]
}

/**
 * Inputs: `input_ids` [batch, seq], tables or ids of positions, `causal_mask`, the trained weights by role, those of `lossHead`; per hidden
 * loss i `teacher_hidden.i` [tokens, hidden] and `hidden_weights.i` [tokens, 1]; per attention loss i `teacher_attention.i`
 * [batch, kv heads, group * seq, seq] and `attention_weight` []; with `layerGates` `layer_gates` [batch, layers].
 * Outputs: `cross_entropy`, `divergence`, `hidden_loss`, `attention_loss` [] where they are asked for, `gradient.<name>` of each of
 * `trainedNames`, and `squared_gradient_norm` [].
 */
export function trainingGraph(model: BuildableModel, locate: LocateWeight, options: TrainingGraphOptions): Graph {
  const { trained, lora, hidden = [], attention = [], headChunks } = options
  const headRole = model.dimensions.tiedEmbeddings ? 'embed' : 'lm_head'
  const normOut = 'final_norm.out'
  const masked = (layer: number) => `layers.${layer}.attention.masked`
  const factors = new Map<string, Value>()
  const states = buildModelGraph(model, options.layerGates ? 'states.gated' : 'states', locate)
  const { g, values } = rewritten(states, [normOut, ...hidden.map(({ layer }) => `hidden.${layer}`)], {
    inputs: new Set(trained),
    headGates: false,
    replace: lora && addLora(model, lora, factors),
  })
  const known = (name: string): Value => {
    const value = values.get(name)
    if (!value) throw new Error(`the loss does not depend on ${name}`)
    return value
  }
  const head = headWeight(g, model, headRole, trained, values, locate)
  const losses = lossHead(g, known(normOut), head, headChunks, options)
  const seeds: [Value, Value][] = [...losses.seeds]
  if (trained.includes(headRole) && options.gradients !== false) seeds.push([head, losses.weight()])

  const hiddenLosses = hidden.map((own, i) => {
    const { loss, gradient } = hiddenLoss(g, known(`hidden.${own.layer}`), own, i)
    seeds.push([known(`hidden.${own.layer}`), gradient])
    return loss
  })
  const attentionWeight = attention.length > 0 ? g.input('attention_weight', 'float32', []) : undefined
  const attentionLosses = attention.map((layer, i) => {
    const scores = namedValue(g, masked(layer))
    const { loss, gradient } = attentionLoss(
      g,
      scores,
      namedValue(g, `layers.${layer}.attention.weights`),
      attentionWeight!,
      i,
    )
    seeds.push([scores, gradient])
    return loss
  })

  const output = (losses_: readonly Value[], name: string) => {
    if (losses_.length > 0) g.output(total(g, losses_), name)
  }
  output(losses.crossEntropy ? [losses.crossEntropy] : [], 'cross_entropy')
  output(losses.divergence ? [losses.divergence] : [], 'divergence')
  output(hiddenLosses, 'hidden_loss')
  output(attentionLosses, 'attention_loss')
  if (options.gradients === false) return g.build()

  const names = trainedNames(options)
  const wrt = names.map(name => factors.get(name) ?? (name === headRole ? head : known(name)))
  const layers = options.recompute ? model.dimensions.layerCount + 1 : 0
  const layerStates = Array.from({ length: layers }, (_, layer) => known(`hidden.${layer}`))
  const found = backward(g, seeds, wrt, layerStates)
  // ONNX Runtime runs first what the norm's sum asks for first. Gradients of the last layers first: else it goes back through all layers before
  // it makes the first gradient, and holds all that is between.
  const lastFirst = names.map((name, i) => ({ depth: depthOf(name), gradient: found[i]! }))
  lastFirst.sort((a, b) => b.depth - a.depth)
  const squares = lastFirst.map(({ gradient }) => apply(g, 'ReduceSumSquare', [gradient], { keepdims: 0 }))
  found.forEach((gradient, i) => {
    g.output(gradient, gradientOf(names[i]!))
  })
  g.output(total(g, squares), 'squared_gradient_norm')
  return g.build()
}

/** How late in the forward pass a weight is read first. */
function depthOf(name: string): number {
  const layer = /layers\.(\d+)\./.exec(name)?.[1]
  if (layer !== undefined) return Number(layer)
  return /embed/.test(name) ? -1 : Number.MAX_SAFE_INTEGER
}

const mul = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Mul', [a, b])
const sub = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Sub', [a, b])
const sum = (g: GraphBuilder, x: Value) => apply(g, 'ReduceSum', [x], { keepdims: 0 })
const sumLast = (g: GraphBuilder, x: Value) => apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 1 })
const total = (g: GraphBuilder, values: readonly Value[]) => values.reduce((a, b) => apply(g, 'Add', [a, b]))

function namedValue(g: GraphBuilder, name: string): Value {
  for (const { outputs } of g.nodes) for (const output of outputs) if (output?.name === name) return output
  throw new Error(`the graph has no value ${name}`)
}

/** The output layer's weight: the embedding's own value where both are one and the graph has it, an input where trained, else a constant. */
function headWeight(
  g: GraphBuilder,
  { tensors }: BuildableModel,
  role: string,
  trained: readonly string[],
  values: ReadonlyMap<string, Value>,
  locate: LocateWeight,
): Value {
  const { shape } = tensors.get(role)!
  return (
    values.get(role) ?? (trained.includes(role) ? g.input(role, 'float32', shape) : g.weight(role, shape, locate(role)))
  )
}

/** y = x W^T becomes x W^T + alpha / rank (x A^T) B^T. */
function addLora(
  model: BuildableModel,
  { rank, alpha, targets }: LoraSpec,
  factors: Map<string, Value>,
): NonNullable<Rewriting['replace']> {
  return (g: GraphBuilder, node: GraphNode, inputs: readonly (Value | null)[]) => {
    const role = node.op === 'Gemm' ? node.inputs[1]?.name : undefined
    if (role === undefined || !targets.includes(role)) return undefined
    const { name, shape } = node.outputs[0]!
    const [a, b] = [loraA(role), loraB(role)].map(factor => {
      const value = g.input(factor, 'float32', trainedShape(model, factor, { rank, alpha, targets }))
      factors.set(factor, value)
      return value
    })
    const [plain] = g.node({ ...node, inputs, outputs: [{ type: 'float32', shape }], name: `${name}.frozen` })
    const inner = apply(g, 'Gemm', [inputs[0]!, a!], { transB: 1 }, { name: `${name}.low_rank` }) // [tokens, rank]
    const attributes = { transB: 1, alpha: alpha / rank, beta: 1 }
    return [apply(g, 'Gemm', [inner, b!, plain!], attributes, { name })]
  }
}

/** With h the student's and t the teacher's state of a token: weighted sums over tokens, and the gradient for h. */
function hiddenLoss(g: GraphBuilder, state: Value, { kind }: HiddenLoss, index: number) {
  const teacher = g.input(`teacher_hidden.${index}`, 'float32', state.shape)
  const weights = g.input(`hidden_weights.${index}`, 'float32', ['tokens', 1])
  if (kind === 'mse') {
    // The weights hold 1 / |t|^2: w |h - t|^2, whose gradient is 2 w (h - t).
    const scaled = mul(g, sub(g, state, teacher), weights)
    return {
      loss: sum(g, mul(g, scaled, sub(g, state, teacher))),
      gradient: mul(g, scaled, g.float32(2)),
    }
  }
  // The teacher's state comes with length 1: w (1 - t h / |h|), whose gradient is w (c h / |h| - t) / |h| with c the cosine.
  const norm = apply(g, 'Sqrt', [
    apply(g, 'Max', [apply(g, 'ReduceSumSquare', [state, g.int64s([-1])], { keepdims: 1 }), g.float32(1e-20)]),
  ])
  const direction = apply(g, 'Div', [state, norm])
  const cosine = sumLast(g, mul(g, direction, teacher))
  return {
    loss: sum(g, mul(g, sub(g, g.float32(1), cosine), weights)),
    gradient: mul(g, sub(g, mul(g, direction, cosine), teacher), apply(g, 'Div', [weights, norm])),
  }
}

/** Divergence of attention probabilities q || p, weighted alike in all rows: gradient w (p - q) of the masked scores. */
function attentionLoss(g: GraphBuilder, scores: Value, probabilities: Value, weight: Value, index: number) {
  const teacher = g.input(`teacher_attention.${index}`, 'float32', scores.shape)
  const least = g.float32(leastAttention)
  const log = (p: Value) => apply(g, 'Log', [apply(g, 'Max', [p, least])])
  const rowwise = mul(g, teacher, sub(g, log(teacher), log(probabilities)))
  return { loss: mul(g, sum(g, rowwise), weight), gradient: mul(g, sub(g, probabilities, teacher), weight) }
}
/** Below any attention probability that matters: its logarithm is -69. */
const leastAttention = 1e-30
