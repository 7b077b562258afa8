// Adds nodes of the table's ops to a graph, with their attributes checked by the compiler.
import type { GraphBuilder } from '../graph/builder.js'
import type { AttributeValue, Dimension, Value } from '../graph/ir.js'
import { type Attributes, type OpDefinition, type OpName, ops } from './table.js'

/** All outputs of a node; null where an optional output is not made. */
export function applyAll<K extends OpName>(
  graph: GraphBuilder,
  op: K,
  inputs: readonly (Value | null)[],
  attributes: Attributes<K> = {},
  options: { name?: string | readonly string[]; shape?: readonly Dimension[] } = {},
): (Value | null)[] {
  const definition: OpDefinition = ops[op]
  const given = attributes as Record<string, AttributeValue>
  const outputs = definition
    .infer(inputs, given)
    .map((kind, i) => (i === 0 && options.shape && kind ? { ...kind, shape: options.shape } : kind))
  return graph.node({ op, inputs, attributes: given, outputs, name: options.name })
}

/** The first output of a node. */
export function apply<K extends OpName>(
  graph: GraphBuilder,
  op: K,
  inputs: readonly (Value | null)[],
  attributes: Attributes<K> = {},
  options: { name?: string | readonly string[]; shape?: readonly Dimension[] } = {},
): Value {
  return applyAll(graph, op, inputs, attributes, options)[0]!
}

/** Reshape to constant sizes (-1 once: what is left; 0: as it was); `shape` is what the result is called. */
export const reshape = (
  graph: GraphBuilder,
  x: Value,
  sizes: readonly number[],
  shape: readonly Dimension[],
  name?: string,
) => apply(graph, 'Reshape', [x, graph.int64s(sizes)], {}, { shape, name })

/** Reshape to a shape computed in the graph. */
export const reshapeTo = (graph: GraphBuilder, x: Value, sizes: Value, shape: readonly Dimension[], name?: string) =>
  apply(graph, 'Reshape', [x, sizes], {}, { shape, name })
