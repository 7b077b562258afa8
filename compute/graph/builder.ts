// Builds a Graph node by node: names values, shares small constants, knows nothing of what the ops mean.
import type { AttributeValue, Constant, Dimension, ElementType, ExternalData, Graph, GraphNode, Value } from './ir.js'

export interface NodeSpec {
  op: string
  inputs: readonly (Value | null)[]
  attributes?: Readonly<Record<string, AttributeValue>>
  /** Type and shape of each output; null leaves an optional output out. */
  outputs: readonly (Pick<Value, 'type' | 'shape'> | null)[]
  /** Base of the outputs' names, or one for each; the op's name where absent. */
  name?: string | readonly string[]
}

export interface GraphBuilder {
  input(name: string, type: ElementType, shape: readonly Dimension[]): Value
  /** Marks a value as an output of the graph; under another name it is renamed, because an Identity would copy it. */
  output(value: Value, name?: string): void
  /** A weight in a payload file; asked for twice, it is the same value. */
  weight(name: string, shape: readonly number[], data: ExternalData, type?: ElementType): Value
  /** Small constants; equal ones are one value. */
  int64s(values: readonly number[]): Value
  int64(value: number): Value
  float32(value: number): Value
  node(spec: NodeSpec): (Value | null)[]
  /** The nodes so far, in their order. */
  readonly nodes: readonly GraphNode[]
  build(): Graph
}

export function graphBuilder(name: string): GraphBuilder {
  const inputs: Value[] = []
  const outputs: Value[] = []
  const nodes: GraphNode[] = []
  const constants = new Map<string, Constant>()
  const taken = new Set<string>()

  const claim = (base: string): string => {
    let candidate = base
    for (let n = 1; taken.has(candidate); n++) candidate = `${base}_${n}`
    taken.add(candidate)
    return candidate
  }
  const constant = (key: string, make: () => Omit<Constant, 'name'>): Value => {
    const known = constants.get(key)
    if (known) return known
    const value = { name: claim(key), ...make() }
    constants.set(key, value)
    return value
  }

  return {
    input(inputName, type, shape) {
      if (taken.has(inputName)) throw new Error(`graph ${name}: two values named ${inputName}`)
      const value = { name: claim(inputName), type, shape }
      inputs.push(value)
      return value
    },
    output(value, outputName = value.name) {
      if (outputName !== value.name) {
        if (outputs.includes(value) || !nodes.some(node => node.outputs.includes(value)))
          throw new Error(`graph ${name}: ${value.name} cannot be renamed to ${outputName}`)
        // Nodes hold the value itself, so that all of them see the new name.
        Object.assign(value, { name: claim(outputName) })
      }
      if (!outputs.includes(value)) outputs.push(value)
    },
    weight: (weightName, shape, data, type = 'float32') => constant(weightName, () => ({ type, shape, data })),
    int64s: values =>
      constant(`int64[${values.join(',')}]`, () => ({
        type: 'int64',
        shape: [values.length],
        data: BigInt64Array.from(values, BigInt),
      })),
    int64: value =>
      constant(`int64(${value})`, () => ({ type: 'int64', shape: [], data: BigInt64Array.of(BigInt(value)) })),
    float32: value =>
      constant(`float32(${value})`, () => ({ type: 'float32', shape: [], data: Float32Array.of(value) })),
    node({ op, inputs: nodeInputs, attributes = {}, outputs: kinds, name = op }) {
      const base = (index: number) => (typeof name === 'string' ? name : (name[index] ?? op))
      const made = kinds.map((kind, i) => (kind ? { name: claim(base(i)), type: kind.type, shape: kind.shape } : null))
      nodes.push({ op, inputs: nodeInputs, outputs: made, attributes })
      return made
    },
    nodes,
    build: () => ({ name, inputs, outputs, constants: [...constants.values()], nodes }),
  }
}
