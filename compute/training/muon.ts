// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose update of a matrix is made orthogonal by Newton-Schulz.
import { graphBuilder } from '../graph/builder.js'
import type { Graph, Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'
import { createSession, floats, type RuntimeTensor, type Session, type SessionOptions } from '../runtime/session.js'
import type { TrainedTensor } from './adamw.js'

export interface MuonOptions {
  momentum: number
  /** Subtracted as `learning rate * decay * weight`. */
  weightDecay: number
}

/** Of the quintic x -> a x + b x^3 + c x^5 that the authors tuned to bring singular values near 1 in five turns. */
const [a, b, c] = [3.4445, -4.775, 2.0315]
const turns = 5
/** Keeps a gradient of zeros from being divided by its norm. */
const leastNorm = 1e-7

/** Numbers of a step, in the order of the graph's scalar inputs. */
const scalars = ['gradient_scale', 'step_size', 'keep_weight'] as const

/**
 * With G the scaled gradient, one matrix [rows, columns]: m' = mu m + (1 - mu) G, U = mu m' + (1 - mu) G, O = NewtonSchulz(U / |U|),
 * w' = keep w - step O. Wide matrices are worked on as they are, tall ones transposed.
 */
function muonGraph(rows: number, columns: number, momentum: number): Graph {
  const g = graphBuilder('muon')
  const shape = [rows, columns]
  const [weight, gradient, first] = ['weight', 'gradient', 'first'].map(name => g.input(name, 'float32', shape)) as [
    Value,
    Value,
    Value,
  ]
  const s = Object.fromEntries(scalars.map(name => [name, g.input(name, 'float32', [])])) as Record<
    (typeof scalars)[number],
    Value
  >
  const op = (name: 'Mul' | 'Add' | 'Sub' | 'Div', x: Value, y: Value) => apply(g, name, [x, y])
  const turned = (x: Value) => (rows > columns ? apply(g, 'Transpose', [x], { perm: [1, 0] }) : x)
  const [keep, add] = [g.float32(momentum), g.float32(1 - momentum)]
  const scaled = op('Mul', op('Mul', gradient, s.gradient_scale), add)
  const m = op('Add', op('Mul', first, keep), scaled)
  const update = turned(op('Add', op('Mul', m, keep), scaled))
  const squares = apply(g, 'ReduceSumSquare', [update], { keepdims: 0 })
  let x = op('Div', update, op('Add', apply(g, 'Sqrt', [squares]), g.float32(leastNorm)))
  for (let turn = 0; turn < turns; turn++) {
    const square = apply(g, 'Gemm', [x, x], { transB: 1 }) // x x^T
    const polynomial = apply(g, 'Gemm', [square, square, square], { alpha: c, beta: b }) // b s + c s s
    x = apply(g, 'Gemm', [polynomial, x, x], { alpha: 1, beta: a })
  }
  g.output(m, 'next_first')
  g.output(op('Sub', op('Mul', weight, s.keep_weight), op('Mul', turned(x), s.step_size)), 'next_weight')
  return g.build()
}

export interface Muon {
  /** One update of all matrices from their gradients, which are multiplied by `gradientScale` first. */
  update(learningRate: number, gradientScale: number): Promise<void>
  dispose(): Promise<void>
}

/** @param tensors matrices; the moment `first` is used, `second` is not */
export async function createMuon(
  tensors: readonly TrainedTensor[],
  { momentum, weightDecay }: MuonOptions,
  options: SessionOptions,
): Promise<Muon> {
  const sessions = new Map<string, Session>()
  for (const { shape } of tensors) {
    const [rows, columns] = shape as [number, number]
    const key = shape.join()
    if (!sessions.has(key)) sessions.set(key, await createSession(muonGraph(rows, columns, momentum), options))
  }
  const numbers = Object.fromEntries(scalars.map(name => [name, floats(new Float32Array(1), [])]))
  const set = (name: (typeof scalars)[number], value: number) => {
    ;(numbers[name]!.data as Float32Array)[0] = value
  }
  const matrices = tensors.map(({ shape, weight, gradient, first }) => {
    const [rows, columns] = shape as [number, number]
    const [w, m] = [floats(weight, shape), floats(first, shape)]
    const feeds: Record<string, RuntimeTensor> = { weight: w, gradient: floats(gradient, shape), first: m, ...numbers }
    const session = sessions.get(shape.join())!
    // An orthogonal matrix with more rows than columns changes each output less.
    return { session, feeds, into: { next_weight: w, next_first: m }, scale: Math.sqrt(Math.max(1, rows / columns)) }
  })
  return {
    async update(learningRate, gradientScale) {
      set('gradient_scale', gradientScale)
      set('keep_weight', 1 - learningRate * weightDecay)
      for (const { session, feeds, into, scale } of matrices) {
        set('step_size', learningRate * scale)
        await session.run(feeds, ['next_first', 'next_weight'], { into })
      }
    },
    async dispose() {
      for (const session of sessions.values()) await session.dispose()
    },
  }
}
