// Low-rank changes added to the weights they belong to, so that the model runs as any other.
import { graphBuilder } from '../graph/builder.js'
import { apply } from '../ops/apply.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import { createSession, floats } from '../runtime/session.js'
import type { TrainedTensor } from './adamw.js'
import { type LoraSpec, loraA, loraB } from './training-graph.js'

/**
 * W + alpha / rank B A for every target.
 * @param stored the weight as the model stores it, by role
 * @param inputFirst roles whose weight is [in, out]
 * @throws CANCELLED
 */
export async function mergeLora(
  factors: readonly TrainedTensor[],
  { rank, alpha, targets }: LoraSpec,
  stored: (role: string) => Promise<{ shape: readonly number[]; weight: Float32Array }>,
  inputFirst: ReadonlySet<string>,
  { signal, ...options }: { threads: number; weightsFolder: string; signal?: AbortSignal | undefined },
): Promise<{ name: string; weight: Float32Array }[]> {
  const byName = new Map(factors.map(factor => [factor.name, factor]))
  const merged: { name: string; weight: Float32Array }[] = []
  for (const turned of [false, true]) {
    const roles = targets.filter(role => inputFirst.has(role) === turned)
    if (roles.length === 0) continue
    const g = graphBuilder('merge low-rank factors')
    const a = g.input('a', 'float32', ['rank', 'in'])
    const b = g.input('b', 'float32', ['out', 'rank'])
    const w = g.input('w', 'float32', turned ? ['in', 'out'] : ['out', 'in'])
    const attributes = { alpha: alpha / rank, beta: 1, ...(turned ? { transA: 1, transB: 1 } : {}) }
    g.output(apply(g, 'Gemm', turned ? [a, b, w] : [b, a, w], attributes), 'merged')
    const session = await createSession(g.build(), options)
    try {
      for (const role of roles) {
        throwIfCancelled(signal)
        const [first, second] = [byName.get(loraA(role))!, byName.get(loraB(role))!]
        const { shape, weight } = await stored(role)
        const feeds = {
          a: floats(first.weight, first.shape),
          b: floats(second.weight, second.shape),
          w: floats(weight, shape),
        }
        const found = await session.run(feeds, ['merged'])
        merged.push({ name: role, weight: (found.merged!.data as Float32Array).slice() })
      }
    } finally {
      await session.dispose()
    }
  }
  return merged
}
