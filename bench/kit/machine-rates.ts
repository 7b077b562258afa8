// What the machine gives at most, measured in the same process as what is held against it: memory bandwidth and matrix multiplication.
import { graphBuilder } from '../../compute/graph/builder.js'
import type { Graph } from '../../compute/graph/ir.js'
import { apply } from '../../compute/ops/apply.js'
import { createSession, floats, type RuntimeTensor } from '../../compute/runtime/session.js'

export const seconds = async (work: () => Promise<unknown>): Promise<number> => {
  const started = performance.now()
  await work()
  return (performance.now() - started) / 1000
}

export interface MachineRate {
  /** Units per second of one run. */
  measure(): Promise<number>
  dispose(): Promise<void>
}

/** How many threads, and a folder for sessions to resolve paths in. */
interface Place {
  threads: number
  weightsFolder: string
}

async function rate(graph: Graph, feeds: Record<string, RuntimeTensor>, units: number, place: Place, runs: number) {
  const session = await createSession(graph, { ...place, spin: true })
  const fetches = session.outputs
  await session.run(feeds, fetches)
  return {
    measure: async () => {
      const times: number[] = []
      for (let i = 0; i < runs; i++) times.push(await seconds(() => session.run(feeds, fetches)))
      return units / Math.min(...times)
    },
    dispose: () => session.dispose(),
  }
}

/** Bytes per second: 512 MB of float32 summed on all threads, once per measurement. */
export function bandwidth(place: Place): Promise<MachineRate> {
  const shape = [32768, 4096]
  const elements = 32768 * 4096
  const g = graphBuilder('bandwidth')
  const x = g.input('x', 'float32', shape)
  g.output(apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 0 }, { name: 'sum' }))
  return rate(g.build(), { x: floats(new Float32Array(elements).fill(1), shape) }, elements * 4, place, 1)
}

/** Floating-point operations per second of a float32 product of two [1024, 1024]; the best of four runs per measurement. */
export function matrixMultiply(place: Place): Promise<MachineRate> {
  const size = 1024
  const shape = [size, size]
  const g = graphBuilder('matrix multiply')
  const [a, b] = [g.input('a', 'float32', shape), g.input('b', 'float32', shape)]
  g.output(apply(g, 'FusedMatMul', [a, b], {}, { name: 'product' }))
  const numbers = () =>
    floats(
      Float32Array.from({ length: size * size }, (_, i) => (i % 13) / 13 - 0.5),
      shape,
    )
  return rate(g.build(), { a: numbers(), b: numbers() }, 2 * size ** 3, place, 4)
}
