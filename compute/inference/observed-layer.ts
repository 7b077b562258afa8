// A layer's graph with its inside open: what attention and the feed-forward block give before their output projections, and a gate on the former.
import { graphBuilder } from '../graph/builder.js'
import { type Graph, isExternal, type Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'

/** What an observed layer tells besides `hidden_out`; all [tokens, …]. */
export const taps = {
  /** Heads' outputs side by side, the input of the output projection. */
  attended: { role: 'o', part: 'input' },
  /** What attention adds to the residual stream. */
  attention: { role: 'o', part: 'output' },
  /** Hidden units of the feed-forward block, the input of its output projection. */
  units: { role: 'down', part: 'input' },
  /** What the feed-forward block adds to the residual stream. */
  feed_forward: { role: 'down', part: 'output' },
} as const
export type Tap = keyof typeof taps

/**
 * The graph of one layer (`layer.<n>`, see model-graph.ts) with the taps as outputs and the input `head_gates` [query heads * head size],
 * factors of `attended` before the output projection; `attended` itself is before them.
 */
export function observedLayer(graph: Graph, layer: number): Graph {
  const g = graphBuilder(`${graph.name} observed`)
  const values = new Map<string, Value>()
  for (const { name, type, shape } of graph.inputs) values.set(name, g.input(name, type, shape))
  for (const { name, type, shape, data } of graph.constants) {
    if (isExternal(data)) values.set(name, g.weight(name, shape as number[], data))
    else if (type === 'float32' && shape.length === 0) values.set(name, g.float32(data[0] as number))
    else if (type === 'int64')
      values.set(name, shape.length === 0 ? g.int64(Number(data[0])) : g.int64s(Array.from(data, Number)))
    else throw new Error(`constant ${name}: ${type} [${shape}] cannot be copied`)
  }
  const own = (value: Value | null) => value && values.get(value.name)!
  const outputs = new Map<Tap, Value>()
  for (const node of graph.nodes) {
    const inputs = node.inputs.map(own)
    const role = /^layers\.\d+\.(o|down)$/.exec(node.inputs[1]?.name ?? '')?.[1]
    const tapped = (part: string) =>
      (Object.keys(taps) as Tap[]).filter(
        tap => node.op === 'Gemm' && taps[tap].role === role && taps[tap].part === part,
      )
    for (const tap of tapped('input')) outputs.set(tap, inputs[0]!)
    if (node.op === 'Gemm' && role === 'o') {
      const gates = g.input('head_gates', 'float32', [inputs[0]!.shape[1]!])
      inputs[0] = apply(g, 'Mul', [inputs[0]!, gates], {}, { name: `layers.${layer}.heads_gated` })
    }
    const names = node.outputs.map(output => output?.name ?? '')
    const made = g.node({ ...node, inputs, name: names })
    made.forEach((output, i) => {
      if (output) values.set(names[i]!, output)
    })
    for (const tap of tapped('output')) outputs.set(tap, made[0]!)
  }
  for (const { name } of graph.outputs) g.output(values.get(name)!)
  for (const [tap, value] of outputs) g.output(value, tap)
  return g.build()
}

/**
 * Sums of products over tokens: inputs `a` [tokens, p], `b` [tokens, q] and `weights` [tokens, 1], output `sums` [p, q], the sum over tokens
 * of weight * a_i * b_j.
 */
export function productSumsGraph(p: number, q: number): Graph {
  const g = graphBuilder('sums of products')
  const a = g.input('a', 'float32', ['tokens', p])
  const b = g.input('b', 'float32', ['tokens', q])
  const weights = g.input('weights', 'float32', ['tokens', 1])
  const weighted = apply(g, 'Mul', [b, weights], {}, { name: 'weighted' })
  g.output(apply(g, 'Gemm', [a, weighted], { transA: 1 }, { name: 'sums' }))
  return g.build()
}

/**
 * Minitron's size of each unit (arXiv 2407.14679, eq. 3): inputs `x` [tokens, size] and `means` [samples, tokens], the share of each token in
 * its sample's mean; output `sizes` [size], the sum over samples of (mean over the sample's tokens of |x|)^2.
 */
export function unitSizesGraph(size: number): Graph {
  const g = graphBuilder('sizes of units')
  const x = g.input('x', 'float32', ['tokens', size])
  const means = g.input('means', 'float32', ['samples', 'tokens'])
  const absolute = apply(g, 'Max', [x, apply(g, 'Neg', [x], {}, { name: 'negative' })], {}, { name: 'absolute' })
  const perSample = apply(g, 'Gemm', [means, absolute], {}, { name: 'per_sample' })
  g.output(apply(g, 'ReduceSumSquare', [perSample, g.int64s([0])], { keepdims: 0 }, { name: 'sizes' }))
  return g.build()
}
