// Recomputation (Chen et al. 2016, arXiv 1604.06174): the backward pass computes a layer's inside anew from the states that were kept before it,
// so that memory holds the inside of one layer at a time.
import type { GraphBuilder } from '../graph/builder.js'
import type { GraphNode, Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'

type Ends = Pick<GraphNode, 'inputs' | 'outputs'>

/**
 * What a node's derivative is to read instead of the forward pass's values: copies of the nodes between two of `kept`, made where a
 * derivative asks for them. Nodes before the first and after the last of `kept` are not computed twice.
 *
 * Copies take the kept states plus zero times the gradient that arrives at the layer's end: a runtime that orders nodes by what they need
 * cannot run them before the backward pass has come there, nor see that they are the forward pass's.
 */
export function recomputation(g: GraphBuilder, forward: readonly GraphNode[], kept: readonly Value[]) {
  const segments = new Map<GraphNode, number>()
  const makers = new Map<string, GraphNode>()
  const stays = new Set<string>()
  let current = 0
  for (const node of forward) {
    segments.set(node, current)
    for (const output of node.outputs) if (output) makers.set(output.name, node)
    if (!node.outputs.some(output => output && kept.includes(output))) continue
    for (const output of node.outputs) if (output) stays.add(output.name)
    current++
  }
  const last = current
  const copies = new Map<string, Value>()
  const zeros = new Map<number, Value>()

  const copyOf = (value: Value, segment: number): Value => {
    const maker = makers.get(value.name)
    if (!maker || (segments.get(maker) === segment && stays.has(value.name))) return value
    const key = `${segment} ${value.name}`
    const known = copies.get(key)
    if (known) return known
    if (segments.get(maker) !== segment) {
      const late = stays.has(value.name) && value.type === 'float32'
      const own = late ? apply(g, 'Add', [value, zeros.get(segment)!], {}, { name: `${value.name}.again` }) : value
      copies.set(key, own)
      return own
    }
    const inputs = maker.inputs.map(input => input && copyOf(input, segment))
    const name = maker.outputs.map(output => (output ? `${output.name}.again` : ''))
    const made = g.node({ ...maker, inputs, name })
    maker.outputs.forEach((output, i) => {
      if (output) copies.set(`${segment} ${output.name}`, made[i]!)
    })
    return copies.get(key)!
  }
  /** Copies are made where an element is read. */
  const lazy = (values: readonly (Value | null)[], segment: number) => {
    const result = [...values]
    values.forEach((value, i) => {
      if (value) Object.defineProperty(result, i, { get: () => copyOf(value, segment) })
    })
    return result
  }

  /** @param arrived the gradient of one of the node's outputs; asked for once per layer, at its last node */
  return (node: GraphNode, arrived: () => Value): Ends | undefined => {
    const segment = segments.get(node)
    if (segment === undefined || segment === 0 || segment === last) return undefined
    if (!zeros.has(segment)) {
      const sum = apply(g, 'ReduceSum', [arrived()], { keepdims: 0 }, { name: `arrived.${segment}` })
      zeros.set(segment, apply(g, 'Mul', [sum, g.float32(0)], {}, { name: `arrived.${segment}.zero` }))
    }
    return { inputs: lazy(node.inputs, segment), outputs: lazy(node.outputs, segment) }
  }
}
