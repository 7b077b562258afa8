// Lets attention read queries, keys and values from one value where they are made as one: no split, and one reshape instead of three.
import type { Constant, Dimension, Graph, GraphNode, Value } from '../graph/ir.js'

/**
 * The same graph, with GroupQueryAttention on packed heads ([batch, seq, (query heads + 2 * key/value heads) * head size]) wherever its
 * q, k and v are reshaped parts of one Split, in this order, and nothing comes between (no norm, no bias, no rotation).
 */
export function packHeads(graph: Graph): Graph {
  const producers = new Map<string, GraphNode>()
  const uses = new Map<string, number>()
  for (const node of graph.nodes) {
    for (const output of node.outputs) if (output) producers.set(output.name, node)
    for (const input of node.inputs) if (input) uses.set(input.name, (uses.get(input.name) ?? 0) + 1)
  }
  const made = (value: Value | null | undefined, op: string): GraphNode | undefined => {
    const node = value && uses.get(value.name) === 1 ? producers.get(value.name) : undefined
    return node?.op === op ? node : undefined
  }

  const replaced = new Map<GraphNode, readonly GraphNode[]>()
  const constants = new Map<string, Constant>()
  const shapes = new Map<string, { node: GraphNode; value: Value }>()
  for (const node of graph.nodes) {
    if (node.op !== 'GroupQueryAttention') continue
    const reshapes = node.inputs.slice(0, 3).map(input => made(input, 'Reshape'))
    const split = made(reshapes[0]?.inputs[0], 'Split')
    const parts = split?.outputs
    if (!split || parts!.length !== 3 || !reshapes.every((own, i) => own?.inputs[0]?.name === parts![i]?.name)) continue
    const sizes = producers.get(reshapes[0]!.inputs[1]!.name)
    if (sizes?.op !== 'Concat') continue

    const heads = split.inputs[0]!
    const width = heads.shape[1] as number
    const packedShape: Dimension[] = ['batch', 'seq', width]
    if (!shapes.has(`${width}`)) {
      const size: Constant = {
        name: `packed_heads.${width}`,
        type: 'int64',
        shape: [1],
        data: BigInt64Array.of(BigInt(width)),
      }
      constants.set(size.name, size)
      const value: Value = { name: `packed_shape.${width}`, type: 'int64', shape: [3] }
      const concat = { op: 'Concat', inputs: [sizes.inputs[0]!, size], outputs: [value], attributes: { axis: 0 } }
      shapes.set(`${width}`, { node: concat, value })
    }
    const packed: Value = { name: `${heads.name}.packed`, type: 'float32', shape: packedShape }
    replaced.set(split, [])
    for (const own of reshapes) replaced.set(own!, [])
    replaced.set(node, [
      { op: 'Reshape', inputs: [heads, shapes.get(`${width}`)!.value], outputs: [packed], attributes: {} },
      { ...node, inputs: [packed, null, null, ...node.inputs.slice(3)] },
    ])
  }
  if (replaced.size === 0) return graph
  const first = graph.nodes.findIndex(node => node.op === 'Shape')
  const nodes = graph.nodes.flatMap((node, i) => [
    ...(replaced.get(node) ?? [node]),
    ...(i === first ? [...shapes.values()].map(shape => shape.node) : []),
  ])
  const used = new Set(nodes.flatMap(node => node.inputs.map(input => input?.name)))
  return {
    ...graph,
    nodes,
    constants: [...graph.constants.filter(constant => used.has(constant.name)), ...constants.values()],
  }
}
