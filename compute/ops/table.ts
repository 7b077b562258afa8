// The closed table of ops that graphs may use: ONNX domain, typed attributes, and a light rule for the outputs' types and shapes.
import type { Dimension, ElementType, Value } from '../graph/ir.js'

export type AttributeKind = 'int' | 'float' | 'ints'

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
/** Reduces the last axis, keeping it as 1 unless `keepdims` is 0. */
const lastAxis = (attributes: Readonly<Record<string, unknown>>, x: Value): Dimension[] =>
  attributes.keepdims === 0 ? x.shape.slice(0, -1) : [...x.shape.slice(0, -1), 1]
const reduceLast = define({
  domain: '',
  attributes: { keepdims: 'int' },
  infer: (inputs, attributes) => kind(at(inputs, 0).type, lastAxis(attributes, at(inputs, 0))),
})

export const ops = {
  Add: elementwise,
  Sub: elementwise,
  Mul: elementwise,
  Div: elementwise,
  Max: elementwise,
  Sigmoid: unary,
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
  /** a [m, k] x b [k, n], each transposed on demand, plus an optional c [n]. */
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
  ReduceSum: reduceLast,
  ReduceL2: reduceLast,
  LogSoftmax: define({ domain: '', attributes: { axis: 'int' }, infer: like }),
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

type AttributeType = { int: number; float: number; ints: readonly number[] }
export type Attributes<K extends OpName> = {
  readonly [A in keyof (typeof ops)[K]['attributes']]?: (typeof ops)[K]['attributes'][A] extends AttributeKind
    ? AttributeType[(typeof ops)[K]['attributes'][A]]
    : never
}
