// A graph as text, one line per value: what tests snapshot and what a person reads when a plan changes.
import { type Constant, type Graph, isExternal, type Value } from './ir.js'

const typed = (value: Value) => `${value.name}: ${value.type}[${value.shape.join(', ')}]`

function constantText({ data }: Constant): string {
  if (isExternal(data)) return `external ${data.length} bytes`
  return data.length > 8 ? `${data.length} values` : `{${[...data].join(', ')}}`
}

/** Text of a graph; external locations are left out because they are hashes of weights. */
export function printGraph(graph: Graph): string {
  const lines = [`graph ${graph.name}`]
  for (const input of graph.inputs) lines.push(`  input ${typed(input)}`)
  for (const constant of graph.constants) lines.push(`  constant ${typed(constant)} = ${constantText(constant)}`)
  for (const node of graph.nodes) {
    const results = node.outputs.map(o => (o ? typed(o) : '_')).join('; ')
    const attributes = Object.entries(node.attributes).map(
      ([key, value]) => `${key}=${typeof value === 'object' ? `[${value.join(', ')}]` : value}`,
    )
    const given = [...node.inputs.map(i => i?.name ?? '_'), ...attributes].join(', ')
    lines.push(`  ${results} = ${node.op}(${given})`)
  }
  for (const output of graph.outputs) lines.push(`  output ${typed(output)}`)
  return `${lines.join('\n')}\n`
}
