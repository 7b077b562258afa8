// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over tensors in memory: elementwise kernels in place, piece by piece.
import { graphBuilder } from '../graph/builder.js'
import type { Graph, Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'
import { createSession, floats, type RuntimeTensor, type Session, type SessionOptions } from '../runtime/session.js'

export interface AdamWOptions {
  beta1: number
  beta2: number
  epsilon: number
  /** Subtracted as `learning rate * decay * weight`, from the tensors that say so. */
  weightDecay: number
}
export const adamWDefaults: AdamWOptions = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 }

/** One trained tensor with its gradient and the moments of its gradients; all of one length. */
export interface TrainedTensor {
  name: string
  shape: readonly number[]
  decayed: boolean
  weight: Float32Array
  gradient: Float32Array
  first: Float32Array
  second: Float32Array
}

export const trainedTensor = (
  name: string,
  shape: readonly number[],
  weight: Float32Array,
  decayed: boolean,
): TrainedTensor => {
  const zeros = () => new Float32Array(weight.length)
  return { name, shape, decayed, weight, gradient: zeros(), first: zeros(), second: zeros() }
}

/**
 * Elements of a piece, which bound the memory between kernels to some 16 MB. Alone, on 26 M elements and two threads: 120 ms for 64 K (each kernel is
 * handed to all threads), 92 for 512 K, 55 to 75 for 1 M, 51 for 4 M; within whole steps 1 M and 4 M are alike.
 */
const pieceElements = 1024 * 1024

/** Numbers of a step, in the order of the graph's scalar inputs. */
const scalars = ['keep_first', 'add_first', 'keep_second', 'add_second', 'epsilon', 'step_size', 'keep_weight'] as const
type Scalar = (typeof scalars)[number]

const asked = (decayed: boolean) => scalars.filter(name => decayed || name !== 'keep_weight')

/**
 * m' = b1 m + (1 - b1) c g, v' = b2 v + (1 - b2) (c g)^2, w' = (1 - lr decay) w - lr m' / (1 - b1^t) / (sqrt(v' / (1 - b2^t)) + eps), with c
 * the clipping's factor; the scalars hold what does not differ between elements.
 */
function adamWGraph(decayed: boolean): Graph {
  const g = graphBuilder('adamw')
  const [weight, gradient, first, second] = ['weight', 'gradient', 'first', 'second'].map(name =>
    g.input(name, 'float32', ['n']),
  ) as [Value, Value, Value, Value]
  const s = Object.fromEntries(asked(decayed).map(name => [name, g.input(name, 'float32', [])])) as Record<
    Scalar,
    Value
  >
  const op = (name: 'Mul' | 'Add' | 'Sub' | 'Div', a: Value, b: Value) => apply(g, name, [a, b])
  const m = op('Add', op('Mul', first, s.keep_first), op('Mul', gradient, s.add_first))
  const v = op('Add', op('Mul', second, s.keep_second), op('Mul', op('Mul', gradient, gradient), s.add_second))
  const change = op('Div', op('Mul', m, s.step_size), op('Add', apply(g, 'Sqrt', [v]), s.epsilon))
  const w = op('Sub', decayed ? op('Mul', weight, s.keep_weight) : weight, change)
  g.output(m, 'next_first')
  g.output(v, 'next_second')
  g.output(w, 'next_weight')
  return g.build()
}

export interface AdamW {
  /**
   * One update of all tensors from their gradients, which are multiplied by `gradientScale` first.
   * @param step counted from 1
   */
  update(learningRate: number, step: number, gradientScale: number): Promise<void>
  dispose(): Promise<void>
}

export async function createAdamW(
  tensors: readonly TrainedTensor[],
  options: AdamWOptions,
  sessionOptions: SessionOptions,
): Promise<AdamW> {
  const open = async (decayed: boolean) => {
    const session: Session = await createSession(adamWGraph(decayed), sessionOptions)
    const numbers = Object.fromEntries(asked(decayed).map(name => [name, floats(new Float32Array(1), [])]))
    return { session, numbers }
  }
  const [plain, decaying] = [await open(false), await open(true)]
  const set = (name: Scalar, value: number) => {
    for (const { numbers } of [plain, decaying]) if (numbers[name]) (numbers[name].data as Float32Array)[0] = value
  }
  const pieces = tensors.flatMap(({ weight, gradient, first, second, decayed }) =>
    Array.from({ length: Math.ceil(weight.length / pieceElements) }, (_, i) => {
      const part = (of: Float32Array): RuntimeTensor => {
        const data = of.subarray(i * pieceElements, Math.min(of.length, (i + 1) * pieceElements))
        return floats(data, [data.length])
      }
      const [w, m, v] = [part(weight), part(first), part(second)]
      const { session, numbers } = decayed ? decaying : plain
      return {
        session,
        feeds: { weight: w, gradient: part(gradient), first: m, second: v, ...numbers },
        into: { next_weight: w, next_first: m, next_second: v },
      }
    }),
  )
  const fetches = ['next_first', 'next_second', 'next_weight']
  return {
    async update(learningRate, step, gradientScale) {
      const { beta1, beta2, epsilon, weightDecay } = options
      const [c1, c2] = [1 - beta1 ** step, 1 - beta2 ** step]
      set('keep_first', beta1)
      set('add_first', (1 - beta1) * gradientScale)
      set('keep_second', beta2)
      set('add_second', (1 - beta2) * gradientScale ** 2)
      set('epsilon', epsilon * Math.sqrt(c2))
      set('step_size', (learningRate * Math.sqrt(c2)) / c1)
      set('keep_weight', 1 - learningRate * weightDecay)
      for (const { session, feeds, into } of pieces) await session.run(feeds, fetches, { into })
    },
    async dispose() {
      await Promise.all([plain.session.dispose(), decaying.session.dispose()])
    },
  }
}
