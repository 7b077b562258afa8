// The part of a graph that some values need.
import type { Graph, Value } from './ir.js'

/** The graph with these outputs only, without the nodes, inputs and constants that none of them needs. */
export function partOf(graph: Graph, outputs: readonly Value[]): Graph {
  const needed = new Set(outputs.map(value => value.name))
  const nodes = graph.nodes.toReversed().filter(node => {
    if (!node.outputs.some(output => output && needed.has(output.name))) return false
    for (const input of node.inputs) if (input) needed.add(input.name)
    return true
  })
  const isNeeded = ({ name }: Value) => needed.has(name)
  return {
    ...graph,
    outputs,
    nodes: nodes.reverse(),
    inputs: graph.inputs.filter(isNeeded),
    constants: graph.constants.filter(isNeeded),
  }
}
