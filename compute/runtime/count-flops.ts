// Counts the multiplications and additions of matrix products as graphs run, for what a job cost.
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Dimension, Graph, GraphNode, Value } from '../graph/ir.js'
import type { Session } from './session.js'
import type { RuntimeTensor } from './tensor.js'

/** What one job has run so far. */
export interface FlopCounter {
  flops: number
}

const counters = new AsyncLocalStorage<FlopCounter>()

/** Runs `work` with a counter that every graph it runs adds to. */
export const withFlopCounter = <T>(counter: FlopCounter, work: () => Promise<T>): Promise<T> =>
  counters.run(counter, work)

export const addFlops = (flops: number) => {
  const counter = counters.getStore()
  if (counter) counter.flops += flops
}

type Sizes = ReadonlyMap<string, number>

/** The number behind a dimension; the name of a sum (`a+b`) is the sum of its parts. Undefined where it depends on more than the inputs' shapes. */
function sizeOf(dimension: Dimension | undefined, sizes: Sizes): number | undefined {
  if (dimension === undefined || typeof dimension === 'number') return dimension
  const known = sizes.get(dimension)
  if (known !== undefined) return known
  if (!dimension.includes('+')) return undefined
  const parts = dimension.split('+').map(part => sizeOf(part, sizes))
  return parts.every(part => part !== undefined) ? (parts as number[]).reduce((a, b) => a + b, 0) : undefined
}

const elements = (shape: readonly Dimension[], sizes: Sizes): number =>
  shape.reduce<number>((product, dimension) => product * (sizeOf(dimension, sizes) ?? 1), 1)

type Count = (node: GraphNode, sizes: Sizes) => number
const shapeOf = (value: Value | null | undefined) => value?.shape ?? []

/** 2 m n k for a product of [m, k] and [k, n]: the output's elements times twice the length that is summed over. */
const product: Count = ({ inputs: [a], outputs: [y], attributes }, sizes) => {
  const shape = shapeOf(a)
  const inner = attributes.transA ? shape.at(-2) : shape.at(-1)
  return 2 * elements(shapeOf(y), sizes) * (sizeOf(inner, sizes) ?? 1)
}

const counts: Readonly<Record<string, Count>> = {
  Gemm: product,
  MatMul: product,
  FusedMatMul: product,
  MatMulNBits: ({ outputs: [y], attributes }, sizes) => 2 * elements(shapeOf(y), sizes) * Number(attributes.K),
  // Scores and what they mix, over all positions so far: half of it is masked, and computed all the same.
  // Its output is as wide as the queries, which may come packed with keys and values.
  GroupQueryAttention: ({ outputs: [y] }, sizes) =>
    4 * elements(shapeOf(y), sizes) * (sizes.get('total') ?? sizes.get('seq') ?? 1),
}

/** A function from the inputs of a run to its floating-point operations; additions of norms, activations and the like are not counted. */
export function flopsOf(graph: Graph): (feeds: Readonly<Record<string, RuntimeTensor>>) => number {
  const nodes = graph.nodes.filter(node => node.op in counts)
  return feeds => {
    const sizes = new Map<string, number>()
    for (const { name, shape } of graph.inputs) {
      const given = feeds[name]
      given?.shape.forEach((size, axis) => {
        const dimension = shape[axis]
        if (typeof dimension === 'string') sizes.set(dimension, size)
      })
    }
    const [batch, seq] = [sizes.get('batch'), sizes.get('seq')]
    if (!sizes.has('tokens') && batch !== undefined && seq !== undefined) sizes.set('tokens', batch * seq)
    const total = feeds.total_length?.data[0]
    if (total !== undefined) sizes.set('total', Number(total))
    return nodes.reduce((sum, node) => sum + counts[node.op]!(node, sizes), 0)
  }
}

/** The same session; each of its runs is counted for the job that asked for it. */
export function counted(session: Session, graph: Graph): Session {
  const flops = flopsOf(graph)
  return {
    ...session,
    async run(feeds, fetches, options) {
      const results = await session.run(feeds, fetches, options)
      if (counters.getStore()) addFlops(flops(feeds))
      return results
    },
  }
}
