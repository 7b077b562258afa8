// A decoding graph with more, or less, of it computed together; what it computes stays the same up to the order of sums.
import { relative } from 'node:path'
import type { Fusion } from '../../lib/fusion.js'
import type { BuildableModel } from '../architectures/registry.js'
import type { DerivedContext, StoredTensor } from '../formats/float-weights.js'
import { ensureJoined, joinedBytes } from '../formats/joined-weights.js'
import type { Constant, Graph, GraphNode, Value } from '../graph/ir.js'
import { packHeads } from './pack-heads.js'

/** What the engine does of itself in every graph that decodes. */
export const builtInFusions: readonly Fusion[] = ['RESIDUAL_NORM']
/** And where steps run on quantised kernels. */
export const quantisedFusions: readonly Fusion[] = ['RESIDUAL_NORM', 'QKV', 'GATE_UP', 'NORM_ATTENTION']

const joinedRoles = { QKV: ['q', 'k', 'v'], GATE_UP: ['gate', 'up'] } as const
export type Join = keyof typeof joinedRoles
const joins = Object.keys(joinedRoles) as Join[]

/** Which linear layers are multiplied at once: attention that reads packed heads needs q, k and v as one product. */
export const joinsOf = (fusions: readonly Fusion[]): ReadonlySet<Join> =>
  new Set(joins.filter(join => fusions.includes(join) || (join === 'QKV' && fusions.includes('NORM_ATTENTION'))))

/** The join that a linear layer's role belongs to. */
export const joinOf = (role: string): Join | undefined =>
  joins.find(join => (joinedRoles[join] as readonly string[]).includes(role.replace(/^layers\.\d+\./, '')))

export interface JoinedLayers {
  join: Join
  nodes: GraphNode[]
  tensors: StoredTensor[]
}

/** Linear layers of one input that can be one product: all of a join's roles, all with a bias or none. */
export function joinedLayers(graph: Graph, tensors: BuildableModel['tensors'], wanted: ReadonlySet<Join>) {
  const groups = new Map<string, JoinedLayers>()
  for (const node of graph.nodes) {
    const { alpha = 1, transA = 0, transB = 0 } = node.attributes
    const [x, weight] = node.inputs
    if (node.op !== 'Gemm' || !x || !weight || alpha !== 1 || transA !== 0 || transB !== 1) continue
    const join = joinOf(weight.name)
    const tensor = tensors.get(weight.name)
    if (!join || !tensor || !wanted.has(join)) continue
    const key = `${join} ${x.name}`
    const group = groups.get(key) ?? { join, nodes: [], tensors: [] }
    group.nodes.push(node)
    group.tensors.push(tensor)
    groups.set(key, group)
  }
  return [...groups.values()].filter(
    ({ join, nodes }) =>
      nodes.length === joinedRoles[join].length && new Set(nodes.map(node => Boolean(node.inputs[2]))).size === 1,
  )
}

/** Bytes of the files that joining takes beside those of the tensors themselves. */
export const bytesToJoin = (graph: Graph, model: Pick<BuildableModel, 'tensors'>, fusions: readonly Fusion[]): number =>
  joinedLayers(graph, model.tensors, joinsOf(fusions)).reduce((sum, { tensors }) => sum + joinedBytes(tensors), 0)

/**
 * The float32 graph with these fusions and no others.
 * @throws what making derived files throws
 */
export async function fuseGraph(
  graph: Graph,
  model: Pick<BuildableModel, 'tensors'>,
  fusions: readonly Fusion[],
  context: DerivedContext,
): Promise<Graph> {
  const normed = fusions.includes('RESIDUAL_NORM') ? graph : splitResidualNorms(graph)
  const groups = joinedLayers(normed, model.tensors, joinsOf(fusions))
  if (groups.length === 0) return normed
  const replaced = new Map<GraphNode, readonly GraphNode[]>()
  const constants: Constant[] = []
  for (const group of groups) {
    const path = await ensureJoined(context, group.tensors)
    const made = joinedNodes(group, relative(context.dataFolder, path))
    constants.push(...made.constants)
    group.nodes.forEach((node, i) => {
      replaced.set(node, i === 0 ? made.nodes : [])
    })
  }
  const nodes = normed.nodes.flatMap(node => replaced.get(node) ?? [node])
  const used = new Set(nodes.flatMap(node => node.inputs.map(input => input?.name)))
  const kept = normed.constants.filter(constant => used.has(constant.name))
  const joined = { ...normed, nodes, constants: [...kept, ...constants] }
  return fusions.includes('NORM_ATTENTION') ? packHeads(joined) : joined
}

/** One product, split into what the layers gave under the names they had. */
function joinedNodes({ nodes, tensors }: JoinedLayers, location: string) {
  const first = nodes[0]!
  const name = nodes.map(node => node.inputs[1]!.name).join('+')
  const sizes = tensors.map(({ shape }) => shape[0]!)
  const rows = sizes.reduce((sum, size) => sum + size, 0)
  const weight: Constant = {
    name,
    type: 'float32',
    shape: [rows, tensors[0]!.shape[1]!],
    data: { location, offset: 0, length: joinedBytes(tensors) },
  }
  const split: Constant = {
    name: `${name}.sizes`,
    type: 'int64',
    shape: [sizes.length],
    data: BigInt64Array.from(sizes, BigInt),
  }
  const biases = nodes.flatMap(node => node.inputs[2] ?? [])
  const bias: Value = { name: `${name}.bias`, type: 'float32', shape: [rows] }
  const product: Value = { name: `${name}.product`, type: 'float32', shape: [first.outputs[0]!.shape[0]!, rows] }
  const made: GraphNode[] = [
    ...(biases.length > 0 ? [{ op: 'Concat', inputs: biases, outputs: [bias], attributes: { axis: 0 } }] : []),
    {
      op: 'Gemm',
      inputs: [first.inputs[0]!, weight, ...(biases.length > 0 ? [bias] : [])],
      outputs: [product],
      attributes: { transB: 1 },
    },
    {
      op: 'Split',
      inputs: [product, split],
      outputs: nodes.map(node => node.outputs[0]!),
      attributes: { axis: 1 },
    },
  ]
  return { nodes: made, constants: [weight, split] }
}

const plainNorms: Readonly<Record<string, string>> = {
  SkipSimplifiedLayerNormalization: 'SimplifiedLayerNormalization',
  SkipLayerNormalization: 'LayerNormalization',
}

/** The graph with residual sums apart from the norms that follow them: only there to time what doing both at once gains. */
export function splitResidualNorms(graph: Graph): Graph {
  const nodes = graph.nodes.flatMap((node): readonly GraphNode[] => {
    const op = plainNorms[node.op]
    const [x, added, ...weights] = node.inputs
    const [out, , , sum] = node.outputs
    if (!op || !x || !added || !out || !sum) return [node]
    const attributes = { axis: -1, epsilon: node.attributes.epsilon!, stash_type: 1 }
    return [
      { op: 'Add', inputs: [x, added], outputs: [sum], attributes: {} },
      { op, inputs: [sum, ...weights], outputs: [out], attributes },
    ]
  })
  return { ...graph, nodes }
}

/** Places of each fusion in a decoding graph. */
export function fusionSites(graph: Graph, model: BuildableModel): Record<Fusion, number> {
  const groups = joinedLayers(graph, model.tensors, new Set(joins))
  const count = (join: Join) => groups.filter(group => group.join === join).length
  const attentions = graph.nodes.filter(({ op }) => op === 'GroupQueryAttention').length
  // Packed heads are read where nothing comes between the product and attention: no norm of heads, no rotation outside.
  const between = [...model.tensors.keys()].some(role => role.endsWith('.q_norm')) || !graph.nodes.every(packable)
  return {
    NORM_WEIGHT: 0,
    QKV: count('QKV'),
    GATE_UP: count('GATE_UP'),
    NORM_ATTENTION: between ? 0 : Math.min(count('QKV'), attentions),
    RESIDUAL_NORM: graph.nodes.filter(({ op }) => op in plainNorms).length,
  }
}

/** Attention must rotate by itself, and heads must have the size that its kernel wants. */
const packable = ({ op, attributes }: GraphNode) =>
  op !== 'RotaryEmbedding' && (op !== 'GroupQueryAttention' || attributes.do_rotary === 1)
