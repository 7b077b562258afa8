// The closed table of ops that graphs may use: ONNX domain, typed attributes, and a light rule for the outputs' types and shapes.
// Two more tables are typed against it: `derivatives.ts` and, in float64, `reference.ts`.
import type { Constant, Dimension, ElementType, Value } from '../graph/ir.js'

/** A list of words is an attribute that is one of them. */
export type AttributeKind = 'int' | 'float' | 'ints' | readonly string[]

export type OutputKind = { type: ElementType; shape: readonly Dimension[] }

export interface OpDefinition {
  /** '' is the ONNX standard (opset 21), `com.microsoft` ONNX Runtime's own kernels. */
  domain: '' | 'com.microsoft'
  attributes: Readonly<Record<string, AttributeKind>>
  /** One entry per output; null for an optional output that is not made. */
  infer(inputs: readonly (Value | null)[], attributes: Readonly<Record<string, unknown>>): (OutputKind | null)[]
}

const define = <const A extends Record<string, AttributeKind>>(
  definition: Omit<OpDefinition, 'attributes'> & { attributes: A },
) => definition

const at = (inputs: readonly (Value | null)[], index: number): Value => {
  const value = inputs[index]
  if (!value) throw new Error(`op input ${index} is missing`)
  return value
}
const kind = (type: ElementType, shape: readonly Dimension[]): OutputKind[] => [{ type, shape }]
const like = (inputs: readonly (Value | null)[]) => kind(at(inputs, 0).type, at(inputs, 0).shape)

/** NumPy broadcasting; a symbolic size stands against 1 or itself. */
function broadcast(a: Value, b: Value): Dimension[] {
  const rank = Math.max(a.shape.length, b.shape.length)
  return Array.from({ length: rank }, (_, i) => {
    const x = a.shape[i - rank + a.shape.length] ?? 1
    const y = b.shape[i - rank + b.shape.length] ?? 1
    if (x !== y && x !== 1 && y !== 1)
      throw new Error(`${a.name} [${a.shape}] and ${b.name} [${b.shape}] do not broadcast`)
    return x === 1 ? y : x
  })
}
const elementwise = define({
  domain: '',
  attributes: {},
  infer: inputs => kind(at(inputs, 0).type, broadcast(at(inputs, 0), at(inputs, 1))),
})
const unary = define({ domain: '', attributes: {}, infer: like })
/** The numbers of a constant (axes, sizes); undefined where the value is computed in the graph. */
export function constantInts(value: Value): number[] | undefined {
  const { data } = value as Partial<Constant>
  return data instanceof BigInt64Array ? Array.from(data, Number) : undefined
}
/** Axes from 0, of which negative ones count from the end. */
export const axisFrom0 = (axis: number, rank: number) => (axis < 0 ? axis + rank : axis)

/** The axes that a reduction's second input names: all where it is absent. */
export function reducedAxes(inputs: readonly (Value | null)[]): number[] {
  const x = at(inputs, 0)
  if (!inputs[1]) return x.shape.map((_, axis) => axis)
  const axes = constantInts(inputs[1])
  if (!axes) throw new Error(`axes ${inputs[1].name} of a reduction of ${x.name} are not a constant`)
  return axes.map(axis => axisFrom0(axis, x.shape.length))
}

/** Reduces the last axis, keeping it as 1 unless `keepdims` is 0. */
const lastAxis = (attributes: Readonly<Record<string, unknown>>, x: Value): Dimension[] =>
  attributes.keepdims === 0 ? x.shape.slice(0, -1) : [...x.shape.slice(0, -1), 1]
/** Reduces the axes of the second input (all where it is absent), keeping them as 1 unless `keepdims` is 0. */
const reduction = define({
  domain: '',
  attributes: { keepdims: 'int' },
  infer: (inputs, attributes) => {
    const x = at(inputs, 0)
    const axes = reducedAxes(inputs)
    const kept = attributes.keepdims === 0 ? [] : [1]
    return kind(
      x.type,
      x.shape.flatMap((size, axis) => (axes.includes(axis) ? kept : [size])),
    )
  },
})

/** TensorProto.DataType of what is cast to. */
const castTypes: Readonly<Record<number, ElementType>> = { 1: 'float32', 6: 'int32' }

export const ops = {
  Add: elementwise,
  Sub: elementwise,
  Mul: elementwise,
  Div: elementwise,
  Max: elementwise,
  Neg: unary,
  Exp: unary,
  /** Natural. */
  Log: unary,
  Sqrt: unary,
  /** -1, 0 or 1. */
  Sign: unary,
  Sigmoid: unary,
  /** The same numbers as another type (TensorProto.DataType). */
  Cast: define({
    domain: '',
    attributes: { to: 'int' },
    infer: (inputs, attributes) => {
      const type = castTypes[Number(attributes.to)]
      if (!type) throw new Error(`a cast of ${at(inputs, 0).name} to type ${attributes.to}`)
      return kind(type, at(inputs, 0).shape)
    },
  }),
  /** Rows of `data` (input 0) by `indices` (input 1). */
  Gather: define({
    domain: '',
    attributes: { axis: 'int' },
    infer: (inputs, attributes) => {
      const data = at(inputs, 0)
      const axis = Number(attributes.axis ?? 0)
      return kind(data.type, [...data.shape.slice(0, axis), ...at(inputs, 1).shape, ...data.shape.slice(axis + 1)])
    },
  }),
  /** out[i][j] = data[i][indices[i][j]] for axis 1. */
  GatherElements: define({
    domain: '',
    attributes: { axis: 'int' },
    infer: inputs => kind(at(inputs, 0).type, at(inputs, 1).shape),
  }),
  /** Input 0 with the updates (input 2) at indices (input 1) along one axis; with `add`, indices may repeat. */
  ScatterElements: define({
    domain: '',
    attributes: { axis: 'int', reduction: ['none', 'add'] },
    infer: like,
  }),
  /** Input 0 with the updates (input 2) as the blocks that index tuples (last axis of input 1) name; with `add`, tuples may repeat. */
  ScatterND: define({ domain: '', attributes: { reduction: ['none', 'add'] }, infer: like }),
  Transpose: define({
    domain: '',
    attributes: { perm: 'ints' },
    infer: (inputs, attributes) =>
      kind(
        at(inputs, 0).type,
        (attributes.perm as readonly number[]).map(axis => at(inputs, 0).shape[axis]!),
      ),
  }),
  /** Pieces of input 0 along an axis, of the constant sizes of input 1. */
  Split: define({
    domain: '',
    attributes: { axis: 'int' },
    infer: (inputs, attributes) => {
      const { type, shape } = at(inputs, 0)
      const axis = axisFrom0(Number(attributes.axis ?? 0), shape.length)
      const sizes = constantInts(at(inputs, 1))
      if (!sizes) throw new Error(`sizes of a split of ${at(inputs, 0).name} are not a constant`)
      return sizes.map(size => ({ type, shape: shape.map((own, i) => (i === axis ? size : own)) }))
    },
  }),
  /** The shape comes from a constant; who builds the node says what it means (see `reshape`). */
  Reshape: define({ domain: '', attributes: {}, infer: like }),
  Expand: define({ domain: '', attributes: {}, infer: like }),
  Shape: define({
    domain: '',
    attributes: { start: 'int', end: 'int' },
    infer: (inputs, attributes) =>
      kind('int64', [Number(attributes.end ?? at(inputs, 0).shape.length) - Number(attributes.start ?? 0)]),
  }),
  Concat: define({
    domain: '',
    attributes: { axis: 'int' },
    infer: (inputs, attributes) => {
      const first = at(inputs, 0)
      const axis = Number(attributes.axis)
      const sizes = inputs.map((_, i) => at(inputs, i).shape[axis] as Dimension)
      const total = sizes.every(size => typeof size === 'number')
        ? (sizes as number[]).reduce((a, b) => a + b, 0)
        : sizes.join('+')
      return kind(
        first.type,
        first.shape.map((size, i) => (i === axis ? total : size)),
      )
    },
  }),
  /** a [m, k] x b [k, n], each transposed on demand, plus an optional c [n] or [m, n]. */
  Gemm: define({
    domain: '',
    attributes: { transA: 'int', transB: 'int', alpha: 'float', beta: 'float' },
    infer: (inputs, attributes) => {
      const [a, b] = [at(inputs, 0), at(inputs, 1)]
      const [rows, inner] = attributes.transA ? [a.shape[1], a.shape[0]] : a.shape
      const [inner2, columns] = attributes.transB ? [b.shape[1], b.shape[0]] : b.shape
      if (inner !== inner2) throw new Error(`Gemm: ${a.name} [${a.shape}] and ${b.name} [${b.shape}] do not fit`)
      return kind('float32', [rows!, columns!])
    },
  }),
  /** Matrix products of the last two axes, each transposed on demand, times alpha; the axes before them are equal. */
  FusedMatMul: define({
    domain: 'com.microsoft',
    attributes: { transA: 'int', transB: 'int', alpha: 'float' },
    infer: (inputs, attributes) => {
      const [a, b] = [at(inputs, 0), at(inputs, 1)]
      const matrix = (x: Value, transposed: unknown) => {
        const [rows, columns] = x.shape.slice(-2)
        return transposed ? [columns!, rows!] : [rows!, columns!]
      }
      const [rows, inner] = matrix(a, attributes.transA) as [Dimension, Dimension]
      const [inner2, columns] = matrix(b, attributes.transB) as [Dimension, Dimension]
      const outer = a.shape.slice(0, -2)
      if (inner !== inner2 || outer.join() !== b.shape.slice(0, -2).join()) {
        throw new Error(`FusedMatMul: ${a.name} [${a.shape}] and ${b.name} [${b.shape}] do not fit`)
      }
      return kind('float32', [...outer, rows, columns])
    },
  }),
  /**
   * x [m, K] times a weight of N rows, transposed, whose entries are scale * (code - zero). Inputs: x, codes [N, K / block, bytes of a block],
   * scales [N, K / block], zeros [N, bytes] packed likewise (absent: half the codes' range). Accuracy level 4 rounds x to 8 bits per block.
   */
  MatMulNBits: define({
    domain: 'com.microsoft',
    attributes: { K: 'int', N: 'int', bits: 'int', block_size: 'int', accuracy_level: 'int' },
    infer: (inputs, attributes) => kind('float32', [at(inputs, 0).shape[0]!, Number(attributes.N)]),
  }),
  /** Rows by index of a table stored as codes [rows, bytes of a row] and scales [rows, blocks]. */
  GatherBlockQuantized: define({
    domain: 'com.microsoft',
    attributes: { bits: 'int', block_size: 'int', gather_axis: 'int', quantize_axis: 'int' },
    infer: (inputs, attributes) => {
      const width = (Number(at(inputs, 0).shape[1]) * 8) / Number(attributes.bits)
      return kind('float32', [...at(inputs, 1).shape, width])
    },
  }),
  ReduceSum: reduction,
  ReduceSumSquare: reduction,
  ReduceL2: reduction,
  Softmax: define({ domain: '', attributes: { axis: 'int' }, infer: like }),
  LogSoftmax: define({ domain: '', attributes: { axis: 'int' }, infer: like }),
  /** The greatest entries of an axis, as many as the constant input 1 says, and their indices. */
  TopK: define({
    domain: '',
    attributes: { axis: 'int', largest: 'int', sorted: 'int' },
    infer: (inputs, attributes) => {
      const x = at(inputs, 0)
      const [count] = constantInts(at(inputs, 1)) ?? []
      if (count === undefined) throw new Error(`how many of ${x.name} TopK takes is not a constant`)
      const axis = axisFrom0(Number(attributes.axis ?? -1), x.shape.length)
      const shape = x.shape.map((size, i) => (i === axis ? count : size))
      return [
        { type: x.type, shape },
        { type: 'int64', shape },
      ]
    },
  }),
  /** Index of the greatest entry of the last axis; the first of equals. */
  ArgMax: define({
    domain: '',
    attributes: { axis: 'int', keepdims: 'int' },
    infer: (inputs, attributes) => kind('int64', lastAxis(attributes, at(inputs, 0))),
  }),
  /** RMSNorm over the last axis: x / sqrt(mean(x^2) + epsilon) * weight. */
  SimplifiedLayerNormalization: define({
    domain: '',
    attributes: { axis: 'int', epsilon: 'float', stash_type: 'int' },
    infer: like,
  }),
  /** RMSNorm of input + skip: outputs the norm (0) and the sum (3). */
  SkipSimplifiedLayerNormalization: define({
    domain: 'com.microsoft',
    attributes: { epsilon: 'float' },
    infer: inputs => [...like(inputs), null, null, ...like(inputs)],
  }),
  /** LayerNorm over the last axis: (x - mean) / sqrt(variance + epsilon) * weight (input 1) + bias (input 2). */
  LayerNormalization: define({
    domain: '',
    attributes: { axis: 'int', epsilon: 'float', stash_type: 'int' },
    infer: like,
  }),
  /** LayerNorm of input + skip, weight (input 2) and bias (input 3): outputs the norm (0) and the sum (3). */
  SkipLayerNormalization: define({
    domain: 'com.microsoft',
    attributes: { epsilon: 'float' },
    infer: inputs => [...like(inputs), null, null, ...like(inputs)],
  }),
  /** GELU by its tanh form: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016, arXiv 1606.08415). */
  FastGelu: define({ domain: 'com.microsoft', attributes: {}, infer: like }),
  /** RoPE on [batch, seq, heads * head size] by position ids and tables [positions, head size / 2]. */
  RotaryEmbedding: define({
    domain: 'com.microsoft',
    attributes: { interleaved: 'int', num_heads: 'int', rotary_embedding_dim: 'int' },
    infer: like,
  }),
  /**
   * Causal attention with shared key/value heads and a cache. Inputs: q, k, v [batch, seq, heads * head size], past k, past v
   * [batch, kv heads, past, head size], last position of each row (int32 [batch]), total length (int32 []), cos and sin tables.
   */
  GroupQueryAttention: define({
    domain: 'com.microsoft',
    attributes: {
      num_heads: 'int',
      kv_num_heads: 'int',
      scale: 'float',
      do_rotary: 'int',
      rotary_interleaved: 'int',
      local_window_size: 'int',
    },
    infer: (inputs, attributes) => {
      const q = at(inputs, 0)
      const headSize = Number(q.shape[2]) / Number(attributes.num_heads)
      const present: OutputKind = {
        type: 'float32',
        shape: [q.shape[0]!, Number(attributes.kv_num_heads), 'total', headSize],
      }
      return [...kind(q.type, q.shape), present, present]
    },
  }),
} as const satisfies Record<string, OpDefinition>

export type OpName = keyof typeof ops

type NumericAttribute = { int: number; float: number; ints: readonly number[] }
type AttributeOf<T> = T extends keyof NumericAttribute
  ? NumericAttribute[T]
  : T extends readonly string[]
    ? T[number]
    : never
export type Attributes<K extends OpName> = {
  readonly [A in keyof (typeof ops)[K]['attributes']]?: AttributeOf<(typeof ops)[K]['attributes'][A]>
}
