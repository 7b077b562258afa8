// Sums the gradients of several batches, so that they make one step.
import { graphBuilder } from '../graph/builder.js'
import { apply } from '../ops/apply.js'
import { createSession, floats, type RuntimeTensor, type SessionOptions } from '../runtime/session.js'

export interface Accumulator {
  /** Adds the further gradients to the sums in place; gives the sum of squares over all of them. */
  add(sums: Readonly<Record<string, RuntimeTensor>>, further: Readonly<Record<string, RuntimeTensor>>): Promise<number>
  dispose(): Promise<void>
}

export async function createAccumulator(options: SessionOptions): Promise<Accumulator> {
  const g = graphBuilder('accumulate')
  const [a, b] = [g.input('sum', 'float32', ['n']), g.input('further', 'float32', ['n'])]
  const sum = apply(g, 'Add', [a, b])
  g.output(sum, 'next_sum')
  g.output(apply(g, 'ReduceSumSquare', [sum], { keepdims: 0 }), 'squares')
  const session = await createSession(g.build(), options)
  return {
    async add(sums, further) {
      let squares = 0
      for (const [name, { data }] of Object.entries(sums)) {
        const flat = floats(data as Float32Array, [data.length])
        const feeds = { sum: flat, further: floats(further[name]!.data as Float32Array, [data.length]) }
        const found = await session.run(feeds, ['next_sum', 'squares'], { into: { next_sum: flat } })
        squares += (found.squares!.data as Float32Array)[0]!
      }
      return squares
    },
    dispose: () => session.dispose(),
  }
}
