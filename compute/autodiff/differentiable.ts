// Rewrites a graph so that every op of it has a derivative: attention written out in products and a softmax, with a gate per head.
import { type GraphBuilder, graphBuilder } from '../graph/builder.js'
import { type Constant, type Graph, type GraphNode, isExternal, type Value } from '../graph/ir.js'
import { apply, applyAll, reshape } from '../ops/apply.js'
import type { Attributes } from '../ops/table.js'

export interface DifferentiableGraph {
  /** The same graph, open: gradients can be added to it. */
  g: GraphBuilder
  /** Its values by their names in the original. */
  values: ReadonlyMap<string, Value>
  /** Input `head_gates` [layers, batch, heads]: factors of each query head's output, before the output projection. */
  headGates: Value
  /** By attention in order: what its softmax takes (scores with the mask) and gives, [batch, kv heads, group * seq, seq]. */
  attentions: readonly AttentionWeights[]
}

export interface AttentionWeights {
  scores: Value
  weights: Value
  /** Query heads. */
  heads: number
}

/** What of a graph is to be changed while it is copied. */
export interface Rewriting {
  /** Constants that become inputs of the same name and shape. */
  inputs?: ReadonlySet<string>
  /** Whether heads have gates; absent: true. */
  headGates?: boolean
  /** May put other nodes in the place of one: gets its inputs in the new graph, gives the outputs or undefined to copy it. */
  replace?(g: GraphBuilder, node: GraphNode, inputs: readonly (Value | null)[]): (Value | null)[] | undefined
}

const attentionOp = 'GroupQueryAttention'
/** The fused op's inputs that are about the cache, which the written-out form has none of. */
const cacheInputs = [3, 4, 5, 6]

/**
 * The part of a graph that its values `wanted` depend on, with the inputs it needs and two more: `head_gates` and `causal_mask`
 * [seq, seq], which is added to the attention scores (see `causalMask`). Numbers are those of the fused form.
 * Throws where attention reads or gives a cache.
 */
export function differentiable(graph: Graph, wanted: readonly string[]): DifferentiableGraph {
  const { headGates, ...opened } = rewritten(graph, wanted, {})
  return { ...opened, headGates: headGates! }
}

/** The same with changes, and without gates where they are not wanted (then `headGates` is null). */
export function rewritten(
  graph: Graph,
  wanted: readonly string[],
  { inputs: asInputs, headGates: gated = true, replace }: Rewriting,
): Omit<DifferentiableGraph, 'headGates'> & { headGates: Value | null } {
  const g = graphBuilder(`${graph.name} differentiable`)
  const { nodes, used } = neededFor(graph, wanted)
  const values = new Map<string, Value>()
  for (const { name, type, shape } of graph.inputs) if (used.has(name)) values.set(name, g.input(name, type, shape))
  for (const constant of graph.constants) {
    if (!used.has(constant.name)) continue
    const { name, type, shape } = constant
    values.set(name, asInputs?.has(name) ? g.input(name, type, shape) : copied(g, constant))
  }
  const own = (value: Value | null) => value && values.get(value.name)!

  const attentions = nodes.filter(node => node.op === attentionOp)
  const heads = Math.max(1, ...attentions.map(node => Number(node.attributes.num_heads)))
  const headGates = gated ? g.input('head_gates', 'float32', [attentions.length, 'batch', heads]) : null
  const mask = g.input('causal_mask', 'float32', ['seq', 'seq'])
  const written: AttentionWeights[] = []
  for (const node of nodes) {
    if (node.op === attentionOp) {
      const layer = written.length
      const gate = headGates && gateOf(g, headGates, layer, Number(node.attributes.num_heads))
      const { out, ...weights } = writtenOut(g, node, node.inputs.map(own), mask, gate)
      values.set(node.outputs[0]!.name, out)
      written.push(weights)
      continue
    }
    const names = node.outputs.map(output => output?.name ?? '')
    const given = node.inputs.map(own)
    const outputs = replace?.(g, node, given) ?? g.node({ ...node, inputs: given, name: names })
    outputs.forEach((output, i) => {
      if (output) values.set(names[i]!, output)
    })
  }
  return { g, values, headGates, attentions: written }
}

/** [1, batch, heads of the layer]: the last gates of layers with fewer heads than others are of no head. */
function gateOf(g: GraphBuilder, headGates: Value, layer: number, heads: number): Value {
  const gates = apply(g, 'Gather', [headGates, g.int64s([layer])], { axis: 0 }, { name: `head_gates.${layer}` })
  const most = Number(headGates.shape[2])
  if (heads === most) return gates
  const names = [`head_gates.${layer}.own`, `head_gates.${layer}.rest`]
  return applyAll(g, 'Split', [gates, g.int64s([heads, most - heads])], { axis: 2 }, { name: names })[0]!
}

/**
 * [length, length], 0 where a position may look and a number that no score outweighs where it may not: at later positions, and at those
 * before its window (its own position included).
 */
export function causalMask(length: number, window = Number.POSITIVE_INFINITY): Float32Array {
  const mask = new Float32Array(length * length).fill(-1e9)
  for (let row = 0; row < length; row++) {
    mask.fill(0, row * length + Math.max(0, row + 1 - window), row * length + row + 1)
  }
  return mask
}

/** Nodes that the wanted values depend on, in order, and the names of all values they use. */
function neededFor(graph: Graph, wanted: readonly string[]): { nodes: GraphNode[]; used: ReadonlySet<string> } {
  const used = new Set(wanted)
  const nodes: GraphNode[] = []
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(output => output && used.has(output.name))) continue
    const fused = node.op === attentionOp
    if (fused && (node.inputs[3] || node.outputs.slice(1).some(output => output && used.has(output.name)))) {
      throw new Error(`${node.outputs[0]?.name}: attention with a cache cannot be differentiated`)
    }
    nodes.unshift(node)
    node.inputs.forEach((input, i) => {
      if (input && !(fused && cacheInputs.includes(i))) used.add(input.name)
    })
  }
  return { nodes, used }
}

/** A constant in another graph, where equal small ones are one value as they were. */
function copied(g: GraphBuilder, { name, type, shape, data }: Constant): Value {
  if (isExternal(data)) return g.weight(name, shape as number[], data)
  if (type === 'float32' && shape.length === 0) return g.float32(data[0] as number)
  if (type === 'int64') return shape.length === 0 ? g.int64(Number(data[0])) : g.int64s(Array.from(data, Number))
  throw new Error(`constant ${name}: ${type} [${shape}] cannot be copied`)
}

/**
 * softmax(scale q k^T + mask) v. The query heads that share a key/value head are its rows, [batch, kv heads, group * seq, head size],
 * so keys and values are never repeated.
 */
function writtenOut(
  g: GraphBuilder,
  { outputs, attributes }: GraphNode,
  inputs: readonly (Value | null)[],
  mask: Value,
  gate: Value | null,
): AttentionWeights & { out: Value } {
  const { name, shape } = outputs[0]!
  const {
    num_heads: heads = 1,
    kv_num_heads: groups = 1,
    scale = 1,
    do_rotary,
    rotary_interleaved: interleaved = 0,
  } = attributes as Attributes<typeof attentionOp>
  const [q, k, v, , , , , cos, sin] = inputs
  const [batch, seq] = shape as [string, string]
  const size = Number(shape[2]) / heads
  const named = (part: string) => `${name}.${part}`

  const rotate = (x: Value, count: number) => {
    if (do_rotary !== 1) return x
    // One position id: that of the first token of every row.
    const rotary = { interleaved, num_heads: count, rotary_embedding_dim: 0 }
    return apply(g, 'RotaryEmbedding', [x, g.int64s([0]), cos!, sin!], rotary, { name: named('rotated') })
  }
  const toHeads = (x: Value, count: number) => {
    const split = reshape(g, x, [0, 0, count, size], [batch, seq, count, size], named('split'))
    return apply(g, 'Transpose', [split], { perm: [0, 2, 1, 3] }, { name: named('heads') }) // [batch, heads, seq, head size]
  }
  const perGroup = heads / groups
  const rows = new Array(perGroup).fill(seq).join('+')
  const grouped = (x: Value) =>
    perGroup === 1 ? x : reshape(g, x, [0, groups, -1, size], [batch, groups, rows, size], named('grouped'))
  const rowMask =
    perGroup === 1
      ? mask
      : apply(g, 'Concat', new Array<Value>(perGroup).fill(mask), { axis: 0 }, { name: named('mask') })

  const query = grouped(toHeads(rotate(q!, heads), heads))
  const key = toHeads(rotate(k!, groups), groups)
  const value = toHeads(v!, groups)
  const scores = apply(g, 'FusedMatMul', [query, key], { transB: 1, alpha: scale }, { name: named('scores') })
  const masked = apply(g, 'Add', [scores, rowMask], {}, { name: named('masked') })
  const weights = apply(g, 'Softmax', [masked], { axis: -1 }, { name: named('weights') }) // [batch, kv heads, rows, seq]
  const mixed = apply(g, 'FusedMatMul', [weights, value], { alpha: 1 }, { name: named('mixed') })
  const perHead =
    perGroup === 1 ? mixed : reshape(g, mixed, [0, heads, -1, size], [batch, heads, seq, size], named('out'))
  const factor = gate && reshape(g, gate, [-1, heads, 1, 1], [batch, heads, 1, 1], named('gates'))
  const gated = factor ? apply(g, 'Mul', [perHead, factor], {}, { name: named('gated') }) : perHead
  const joined = apply(g, 'Transpose', [gated], { perm: [0, 2, 1, 3] }, { name: named('joined') })
  return { out: reshape(g, joined, [0, 0, heads * size], shape, name), scores: masked, weights, heads }
}
