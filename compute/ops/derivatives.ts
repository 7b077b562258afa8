// The derivative of every op of the table, as nodes of the same table: what reverse-mode differentiation is made of.
import type { GraphBuilder } from '../graph/builder.js'
import type { Value } from '../graph/ir.js'
import { apply, applyAll } from './apply.js'
import {
  axisFirst,
  type Cotangent,
  dense,
  densify,
  expandLike,
  invert,
  reshapeLike,
  shapeOf,
  sumTo,
  transpose,
  zerosLike,
} from './cotangent.js'
import { type Attributes, axisFrom0, type OpName, reducedAxes } from './table.js'

/** One input's share of the gradient. */
export interface Share {
  make(): Cotangent
  /** The same added to what the input has already, where one kernel does both. */
  onto?(sum: Value): Value
}

export interface DerivativeArguments<K extends OpName = OpName> {
  g: GraphBuilder
  inputs: readonly (Value | null)[]
  outputs: readonly (Value | null)[]
  attributes: Attributes<K>
  /** Per output; null where the loss does not depend on it. */
  cotangents: readonly (Cotangent | null)[]
  /** The first output's, as a tensor. */
  dy(): Value
}

/** Shares in the order of the inputs; null for inputs that have no derivative (indices, sizes). */
export type Derivative<K extends OpName = OpName> = (node: DerivativeArguments<K>) => (Share | null)[]

/** Why an op has none. */
export interface NotDifferentiable {
  reason: string
}

const share = (make: () => Value): Share => ({ make: () => dense(make()) })

/** Below the square of any norm that is not zero in float32: a zero vector's gradient is zero, not a division by it. */
const leastNorm = 1e-30

const mul = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Mul', [a, b])
const sub = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Sub', [a, b])
const scaled = (g: GraphBuilder, x: Value, factor: number) => (factor === 1 ? x : mul(g, x, g.float32(factor)))
const sumLast = (g: GraphBuilder, x: Value) => apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 1 })
const notDifferentiable = (reason: string): NotDifferentiable => ({ reason })

/** dy and y = softmax(x): dx = y (dy - sum(dy y)). */
const softmaxGradient = (g: GraphBuilder, y: Value, dy: Value) => mul(g, y, sub(g, dy, sumLast(g, mul(g, dy, y))))

/** Softmaxes are differentiated over the last axis, the only one that graphs use. */
function requireLastAxis(op: string, axis: number | undefined, x: Value): void {
  if (axisFrom0(axis ?? -1, x.shape.length) !== x.shape.length - 1)
    throw new Error(`${op}: axis ${axis} is not the last`)
}

/**
 * Norms y = c inv w (+ bias) with inv = 1 / sqrt(mean(c^2) + epsilon); c is x, and for LayerNorm x - mean(x). With n = c inv and e = dy w:
 * dx = inv (e - n mean(e n)), for LayerNorm less the mean of that; dw = sum(dy n). inv is computed again: the kernels' own second
 * output is wrong on WebGPU.
 */
function normGradient(g: GraphBuilder, x: Value, weight: Value, epsilon: number, centred: boolean, dy: () => Value) {
  const width = Number(x.shape.at(-1))
  const mean = (value: Value) => scaled(g, sumLast(g, value), 1 / width)
  const centre = (value: Value) => (centred ? sub(g, value, mean(value)) : value)
  let known: { inverse: Value; normed: Value; product: Value } | undefined
  const parts = () => {
    if (known) return known
    const centredX = centre(x)
    const squares = apply(g, 'ReduceSumSquare', [centredX, g.int64s([-1])], { keepdims: 1 })
    const variance = apply(g, 'Add', [scaled(g, squares, 1 / width), g.float32(epsilon)])
    const inverse = apply(g, 'Div', [g.float32(1), apply(g, 'Sqrt', [variance])])
    const normed = mul(g, centredX, inverse)
    known = { inverse, normed, product: mul(g, dy(), normed) }
    return known
  }
  return {
    dx: () => {
      const { inverse, normed, product } = parts()
      const along = mul(g, normed, mean(mul(g, product, weight)))
      return mul(g, sub(g, centre(mul(g, dy(), weight)), along), inverse)
    },
    dw: () => sumTo(g, parts().product, weight),
  }
}

type SkipNorm = DerivativeArguments<'SkipLayerNormalization' | 'SkipSimplifiedLayerNormalization'>

/** The norm's gradient reaches the sum (output 3), and the sum's both of its terms. */
function skipNorm({ g, inputs, outputs, attributes: { epsilon = 1e-12 }, cotangents, dy }: SkipNorm, centred: boolean) {
  const [norm, , , sum] = cotangents
  const { dx, dw } = normGradient(g, outputs[3]!, inputs[2]!, epsilon, centred, dy)
  let known: Value | undefined
  const both = () => {
    known ??= norm ? (sum ? apply(g, 'Add', [densify(g, sum), dx()]) : dx()) : densify(g, sum!)
    return known
  }
  const bias = inputs[3]
  return [share(both), share(both), norm ? share(dw) : null, bias && norm ? share(() => sumTo(g, dy(), bias)) : null]
}

export const derivatives: { readonly [K in OpName]: Derivative<K> | NotDifferentiable } = {
  Add: ({ g, inputs, dy }) => inputs.map(x => share(() => sumTo(g, dy(), x!))),
  Sub: ({ g, inputs: [a, b], dy }) => [
    share(() => sumTo(g, dy(), a!)),
    share(() => apply(g, 'Neg', [sumTo(g, dy(), b!)])),
  ],
  Mul: ({ g, inputs: [a, b], dy }) => [
    share(() => sumTo(g, mul(g, dy(), b!), a!)),
    share(() => sumTo(g, mul(g, dy(), a!), b!)),
  ],
  Div: ({ g, inputs: [a, b], outputs: [y], dy }) => [
    share(() => sumTo(g, apply(g, 'Div', [dy(), b!]), a!)),
    share(() => apply(g, 'Neg', [sumTo(g, mul(g, apply(g, 'Div', [dy(), b!]), y!), b!)])),
  ],
  /** Each gets its part where it is the greater, half of it where both are equal. */
  Max: ({ g, inputs: [a, b], dy }) => {
    const half = (x: Value, other: Value) => {
      const greater = apply(g, 'Add', [apply(g, 'Sign', [sub(g, x, other)]), g.float32(1)])
      return share(() => sumTo(g, mul(g, dy(), scaled(g, greater, 0.5)), x))
    }
    return [half(a!, b!), half(b!, a!)]
  },
  Neg: ({ g, dy }) => [share(() => apply(g, 'Neg', [dy()]))],
  Exp: ({ g, outputs: [y], dy }) => [share(() => mul(g, dy(), y!))],
  Log: ({ g, inputs: [x], dy }) => [share(() => apply(g, 'Div', [dy(), x!]))],
  Sqrt: ({ g, outputs: [y], dy }) => [share(() => apply(g, 'Div', [scaled(g, dy(), 0.5), y!]))],
  Cast: notDifferentiable('it only occurs in graphs for other programs'),
  Sign: notDifferentiable('it is constant wherever it has a derivative'),
  Sigmoid: ({ g, outputs: [y], dy }) => [share(() => mul(g, dy(), sub(g, y!, mul(g, y!, y!))))],

  /** Rows are added back where they came from; repeated ones add up. Into what is there already where axis is 0 (tied embeddings). */
  Gather: ({ g, inputs: [data, indices], attributes: { axis = 0 }, dy }) => {
    const { perm, inverse } = axisFirst(data!.shape.length, axis)
    const before = perm[0]!
    const places = indices!.shape.length
    const blocks = () => {
      const order = dy().shape.map((_, i) => i)
      return transpose(g, dy(), [...order.splice(before, places), ...order])
    }
    const tuples = () =>
      apply(
        g,
        'Reshape',
        [indices!, apply(g, 'Concat', [shapeOf(g, indices!), g.int64s([1])], { axis: 0 })],
        {},
        {
          shape: [...indices!.shape, 1],
        },
      )
    const into = (base: Value) => apply(g, 'ScatterND', [base, tuples(), blocks()], { reduction: 'add' })
    if (before === 0) return [{ make: () => dense(into(zerosLike(g, data!))), onto: into }, null]
    const zeros = () => transpose(g, zerosLike(g, data!), perm)
    return [share(() => transpose(g, into(zeros()), inverse)), null]
  },
  GatherElements: ({ inputs: [like, indices], attributes: { axis = 0 }, dy }) => [
    { make: () => ({ form: 'entries', axis, indices: indices!, updates: dy(), like: like! }) },
    null,
  ],
  ScatterElements: ({ g, inputs: [, indices], attributes: { axis = 0, reduction }, dy }) => {
    if (reduction !== 'add') throw new Error('ScatterElements: only the adding form has a derivative here')
    return [share(dy), null, share(() => apply(g, 'GatherElements', [dy(), indices!], { axis }))]
  },
  ScatterND: notDifferentiable('it only occurs in gradients, and those are not differentiated again'),
  Transpose: ({ g, attributes: { perm = [] }, dy }) => [share(() => transpose(g, dy(), invert(perm)))],
  Split: ({ g, inputs: [x], outputs, attributes: { axis = 0 }, cotangents }) => {
    const pieces = () => outputs.map((y, i) => (cotangents[i] ? densify(g, cotangents[i]) : zerosLike(g, y!)))
    return [share(() => apply(g, 'Concat', pieces(), { axis: axisFrom0(axis, x!.shape.length) }, { shape: x!.shape }))]
  },
  Concat: ({ g, inputs, attributes: { axis = 0 }, dy }) => {
    const sizes = inputs.map(x => x!.shape[axisFrom0(axis, x!.shape.length)]!)
    let pieces: readonly Value[] | undefined
    const piece = (index: number) => {
      pieces ??= split(g, dy(), sizes, axis)
      return pieces[index]!
    }
    return inputs.map((_, i) => share(() => piece(i)))
  },
  Reshape: ({ g, inputs: [x], dy }) => [share(() => reshapeLike(g, dy(), x!)), null],
  Expand: ({ g, inputs: [x], dy }) => [share(() => sumTo(g, dy(), x!)), null],
  Shape: notDifferentiable('its result is whole numbers'),

  /** Of y = alpha op(a) op(b) + beta c; a gradient there already is added to inside the kernel. */
  Gemm: ({ g, inputs: [a, b, c], attributes: { transA = 0, transB = 0, alpha = 1, beta = 1 }, cotangents, dy }) => {
    const product = (x: Value, y: Value, tx: number, ty: number): Share => {
      const attributes = { transA: tx, transB: ty, alpha }
      return {
        make: () => dense(apply(g, 'Gemm', [x, y], attributes)),
        onto: sum => apply(g, 'Gemm', [x, y, sum], { ...attributes, beta: 1 }),
      }
    }
    /** Made when it is asked for, so that no node is for nothing. */
    const later = (make: () => Share): Share => ({ make: () => make().make(), onto: sum => make().onto!(sum) })
    const [cotangent] = cotangents
    const scale = cotangent?.form === 'rows' && !transA && transB ? cotangent.scale : undefined
    const rows = () => (cotangent?.form === 'rows' ? cotangent.value : dy())
    return [
      scale
        ? share(() => mul(g, apply(g, 'Gemm', [rows(), b!], { alpha }), scale))
        : later(() => (transA ? product(b!, dy(), transB, 1) : product(dy(), b!, 0, transB ? 0 : 1))),
      scale
        ? later(() => product(rows(), mul(g, a!, scale), 1, 0))
        : later(() => (transB ? product(dy(), a!, 1, transA) : product(a!, dy(), transA ? 0 : 1, 0))),
      ...(c ? [share(() => scaled(g, sumTo(g, dy(), c), beta))] : []),
    ]
  },
  FusedMatMul: ({ g, inputs: [a, b], attributes: { transA = 0, transB = 0, alpha = 1 }, dy }) => {
    const product = (x: Value, y: Value, tx: number, ty: number) =>
      apply(g, 'FusedMatMul', [x, y], { transA: tx, transB: ty, alpha })
    return [
      share(() => (transA ? product(b!, dy(), transB, 1) : product(dy(), b!, 0, transB ? 0 : 1))),
      share(() => (transB ? product(dy(), a!, 1, transA) : product(a!, dy(), transA ? 0 : 1, 0))),
    ]
  },

  ReduceSum: ({ g, inputs, attributes: { keepdims = 1 }, dy }) => [
    share(() => expandLike(g, withAxes(g, dy(), inputs, keepdims), inputs[0]!)),
    null,
  ],
  ReduceSumSquare: ({ g, inputs, attributes: { keepdims = 1 }, dy }) => [
    share(() => mul(g, inputs[0]!, scaled(g, withAxes(g, dy(), inputs, keepdims), 2))),
    null,
  ],
  ReduceL2: ({ g, inputs, outputs: [y], attributes: { keepdims = 1 }, dy }) => [
    share(() => {
      const ratio = apply(g, 'Div', [dy(), apply(g, 'Max', [y!, g.float32(leastNorm)])])
      return mul(g, inputs[0]!, withAxes(g, ratio, inputs, keepdims))
    }),
    null,
  ],
  Softmax: ({ g, outputs: [y], attributes: { axis }, dy }) => {
    requireLastAxis('Softmax', axis, y!)
    return [share(() => softmaxGradient(g, y!, dy()))]
  },
  /**
   * dx = dy - softmax(x) sum(dy). Where dy is one entry per row, as of a cross-entropy, that is -dy (softmax(x) - one-hot):
   * the softmax with 1 taken from one entry, scaled per row (the scale is left to whoever multiplies it).
   */
  LogSoftmax: ({ g, outputs: [y], attributes: { axis }, cotangents: [cotangent], dy }) => {
    requireLastAxis('LogSoftmax', axis, y!)
    const probabilities = () => apply(g, 'Exp', [y!])
    const oneEach =
      cotangent?.form === 'entries' && y!.shape.length === 2 && cotangent.indices.shape[1] === 1 ? cotangent : undefined
    if (!oneEach) return [share(() => sub(g, dy(), mul(g, probabilities(), sumLast(g, dy()))))]
    const { indices, updates } = oneEach
    return [
      {
        make: () => {
          const minusOnes = expandLike(g, g.float32(-1), indices)
          const attributes = { axis: 1, reduction: 'add' } as const
          const value = apply(g, 'ScatterElements', [probabilities(), indices, minusOnes], attributes)
          return { form: 'rows', value, scale: apply(g, 'Neg', [updates]) }
        },
      },
    ]
  },
  MatMulNBits: notDifferentiable('its weights are codes; gradients are taken of the float32 graph'),
  GatherBlockQuantized: notDifferentiable('its table is codes; gradients are taken of the float32 graph'),
  TopK: notDifferentiable('it only chooses what a teacher says'),
  ArgMax: notDifferentiable('its result is whole numbers'),
  SimplifiedLayerNormalization: ({ g, inputs: [x, weight], attributes: { epsilon = 1e-5 }, dy }) => {
    const { dx, dw } = normGradient(g, x!, weight!, epsilon, false, dy)
    return [share(dx), share(dw)]
  },
  SkipSimplifiedLayerNormalization: node => skipNorm(node, false),
  LayerNormalization: ({ g, inputs: [x, weight, bias], attributes: { epsilon = 1e-5 }, dy }) => {
    const { dx, dw } = normGradient(g, x!, weight!, epsilon, true, dy)
    return [share(dx), share(dw), ...(bias ? [share(() => sumTo(g, dy(), bias))] : [])]
  },
  SkipLayerNormalization: node => skipNorm(node, true),
  /** y = x s with s = sigmoid(2 c (x + a x^3)), the same as the tanh form: dx = dy (s + x s (1 - s) 2 c (1 + 3 a x^2)). */
  FastGelu: ({ g, inputs: [x], dy }) => [
    share(() => {
      const [c, a] = [2 * Math.sqrt(2 / Math.PI), 0.044715]
      const square = mul(g, x!, x!)
      const inner = mul(g, x!, apply(g, 'Add', [scaled(g, square, c * a), g.float32(c)]))
      const s = apply(g, 'Sigmoid', [inner])
      const slope = mul(g, x!, apply(g, 'Add', [scaled(g, square, 3 * c * a), g.float32(c)]))
      const bend = mul(g, slope, sub(g, s, mul(g, s, s)))
      return mul(g, dy(), apply(g, 'Add', [s, bend]))
    }),
  ],
  /** A rotation's gradient is the rotation back: the same op with the sine's sign changed. */
  RotaryEmbedding: ({ g, inputs: [, positions, cos, sin], attributes, dy }) => [
    share(() => apply(g, 'RotaryEmbedding', [dy(), positions!, cos!, apply(g, 'Neg', [sin!])], attributes)),
    null,
    null,
    null,
  ],
  GroupQueryAttention: notDifferentiable('graphs to be differentiated write attention out (explicit-attention.ts)'),
}

/** A reduction's cotangent with the reduced axes as 1. */
function withAxes(g: GraphBuilder, dy: Value, inputs: readonly (Value | null)[], keepdims: number): Value {
  if (keepdims !== 0) return dy
  const axes = reducedAxes(inputs)
  const kept = inputs[0]!.shape.map((size, axis) => (axes.includes(axis) ? 1 : size))
  return reshapeLike(g, dy, { name: '', type: dy.type, shape: kept })
}

function split(g: GraphBuilder, x: Value, sizes: readonly (number | string)[], axis: number): readonly Value[] {
  if (!sizes.every(size => typeof size === 'number')) {
    throw new Error(`Concat: sizes ${sizes.join(', ')} along axis ${axis} are not all known`)
  }
  return applyAll(g, 'Split', [x, g.int64s(sizes as number[])], { axis }).map(piece => piece!)
}
