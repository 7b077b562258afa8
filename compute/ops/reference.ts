// What every op of the table means, in plain float64 loops: the definition that kernels and derivatives are checked against.
import type { GraphNode, Value } from '../graph/ir.js'
import { groupQueryAttention, rotaryEmbedding } from './reference-attention.js'
import { type Attributes, axisFrom0, type OpName } from './table.js'

/** Row-major; whole numbers and truth values are numbers too. */
export interface Tensor {
  shape: readonly number[]
  data: Float64Array
}

/** Outputs of an op in the order of the table; null for an optional one that is not made. */
export type Reference<K extends OpName = OpName> = (
  inputs: readonly (Tensor | null)[],
  attributes: Attributes<K>,
) => (Tensor | null)[]

export const sizeOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)
export const tensor = (shape: readonly number[], data: ArrayLike<number>): Tensor => {
  if (data.length !== sizeOf(shape)) throw new Error(`${data.length} numbers for a tensor of [${shape}]`)
  return { shape, data: Float64Array.from(data) }
}
const make = (shape: readonly number[], value: (index: number) => number): Tensor => ({
  shape,
  data: Float64Array.from({ length: sizeOf(shape) }, (_, index) => value(index)),
})

const strides = (shape: readonly number[]) => shape.map((_, axis) => sizeOf(shape.slice(axis + 1)))
/** Position along each axis of an entry. */
const unravel = (index: number, shape: readonly number[]) =>
  strides(shape).map((s, axis) => Math.floor(index / s) % shape[axis]!)
const ravel = (position: readonly number[], shape: readonly number[]) =>
  strides(shape).reduce((index, stride, axis) => index + stride * position[axis]!, 0)

/** Entry of `x` that stands at `position` of a larger shape it broadcasts to. */
function broadcastIndex(x: Tensor, position: readonly number[]): number {
  const missing = position.length - x.shape.length
  return ravel(
    x.shape.map((size, axis) => (size === 1 ? 0 : position[axis + missing]!)),
    x.shape,
  )
}
function broadcastShape(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const [x, y] = [a[i - rank + a.length] ?? 1, b[i - rank + b.length] ?? 1]
    return x === 1 ? y : x
  })
}

const elementwise =
  (f: (a: number, b: number) => number): Reference<'Add'> =>
  ([a, b]) => {
    const shape = broadcastShape(a!.shape, b!.shape)
    return [
      make(shape, i => {
        const position = unravel(i, shape)
        return f(a!.data[broadcastIndex(a!, position)]!, b!.data[broadcastIndex(b!, position)]!)
      }),
    ]
  }
const unary =
  (f: (x: number) => number): Reference<'Neg'> =>
  ([x]) => [{ shape: x!.shape, data: x!.data.map(f) }]

/** Sums f(x) over axes, then takes g of each sum. */
const reduction =
  (f: (x: number) => number, g: (sum: number) => number): Reference<'ReduceSum'> =>
  ([x, axes], { keepdims = 1 }) => {
    const rank = x!.shape.length
    const reduced = axes ? [...axes.data].map(axis => axisFrom0(axis, rank)) : x!.shape.map((_, axis) => axis)
    const kept = x!.shape.map((size, axis) => (reduced.includes(axis) ? 1 : size))
    const sums = new Float64Array(sizeOf(kept))
    x!.data.forEach((value, i) => {
      const position = unravel(i, x!.shape).map((p, axis) => (reduced.includes(axis) ? 0 : p))
      sums[ravel(position, kept)]! += f(value)
    })
    const shape = keepdims === 0 ? x!.shape.filter((_, axis) => !reduced.includes(axis)) : kept
    return [{ shape, data: sums.map(g) }]
  }

/** Applies f to each row of the last axis. */
function rowwise(x: Tensor, f: (row: Float64Array) => ArrayLike<number>): Tensor {
  const width = x.shape.at(-1)!
  const data = new Float64Array(x.data.length)
  for (let from = 0; from < data.length; from += width) data.set(f(x.data.subarray(from, from + width)), from)
  return { shape: x.shape, data }
}
const logSoftmax = (row: Float64Array): Float64Array => {
  const top = Math.max(...row)
  const log = top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0))
  return row.map(x => x - log)
}
const mean = (row: Float64Array) => row.reduce((sum, x) => sum + x, 0) / row.length

function norm(x: Tensor, weight: Tensor, bias: Tensor | null | undefined, epsilon: number, centred: boolean): Tensor {
  return rowwise(x, row => {
    const middle = centred ? mean(row) : 0
    const inverse = 1 / Math.sqrt(mean(row.map(v => (v - middle) ** 2)) + epsilon)
    return row.map((v, i) => (v - middle) * inverse * weight.data[i]! + (bias?.data[i] ?? 0))
  })
}
const skipNorm =
  (centred: boolean): Reference<'SkipLayerNormalization'> =>
  ([x, skip, weight, bias], { epsilon = 1e-12 }) => {
    const sum = make(x!.shape, i => x!.data[i]! + skip!.data[i]!)
    return [norm(sum, weight!, bias, epsilon, centred), null, null, sum]
  }

/** alpha op(a) op(b) of one matrix, its rows and columns taken by index functions. */
function product(a: Tensor, b: Tensor, transA: number, transB: number, alpha: number): Tensor {
  const [rowsA, columnsA] = a.shape.slice(-2) as [number, number]
  const [rowsB, columnsB] = b.shape.slice(-2) as [number, number]
  const [rows, inner] = transA ? [columnsA, rowsA] : [rowsA, columnsA]
  const columns = transB ? rowsB : columnsB
  const shape = [...a.shape.slice(0, -2), rows, columns]
  return make(shape, index => {
    const matrix = Math.floor(index / (rows * columns))
    const row = Math.floor(index / columns) % rows
    const column = index % columns
    let sum = 0
    for (let k = 0; k < inner; k++) {
      const left = transA ? k * columnsA + row : row * columnsA + k
      const right = transB ? column * columnsB + k : k * columnsB + column
      sum += a.data[matrix * rowsA * columnsA + left]! * b.data[matrix * rowsB * columnsB + right]!
    }
    return alpha * sum
  })
}

/** Index that a negative one means, counted from the end. */
const wrap = (index: number, size: number) => (index < 0 ? index + size : index)

/** Entries scale * (code - zero) of packed rows. */
function quantisedRows(
  codes: Tensor,
  scales: Tensor,
  zeros: Tensor | null,
  { columns, bits, blockSize }: { columns: number; bits: number; blockSize: number },
) {
  const perByte = 8 / bits
  const blocks = columns / blockSize
  const unpack = (packed: Tensor, row: number, rowBytes: number, index: number) =>
    (packed.data[row * rowBytes + Math.floor(index / perByte)]! >> (bits * (index % perByte))) & (2 ** bits - 1)
  return (row: number, column: number): number => {
    const block = Math.floor(column / blockSize)
    const zero = zeros ? unpack(zeros, row, Math.ceil(blocks / perByte), block) : 2 ** (bits - 1)
    return scales.data[row * blocks + block]! * (unpack(codes, row, columns / perByte, column) - zero)
  }
}

export const references: { readonly [K in OpName]: Reference<K> } = {
  Add: elementwise((a, b) => a + b),
  Sub: elementwise((a, b) => a - b),
  Mul: elementwise((a, b) => a * b),
  Div: elementwise((a, b) => a / b),
  Max: elementwise(Math.max),
  Neg: unary(x => -x),
  Exp: unary(Math.exp),
  Log: unary(Math.log),
  Sqrt: unary(Math.sqrt),
  Cast: unary(x => x),
  Sign: unary(Math.sign),
  Sigmoid: unary(x => 1 / (1 + Math.exp(-x))),
  FastGelu: unary(x => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))),

  Gather: ([data, indices], { axis = 0 }) => {
    const at = axisFrom0(axis, data!.shape.length)
    const shape = [...data!.shape.slice(0, at), ...indices!.shape, ...data!.shape.slice(at + 1)]
    const places = indices!.shape.length
    return [
      make(shape, i => {
        const position = unravel(i, shape)
        const chosen = indices!.data[ravel(position.slice(at, at + places), indices!.shape)]!
        const source = [...position.slice(0, at), wrap(chosen, data!.shape[at]!), ...position.slice(at + places)]
        return data!.data[ravel(source, data!.shape)]!
      }),
    ]
  },
  GatherElements: ([data, indices], { axis = 0 }) => {
    const at = axisFrom0(axis, data!.shape.length)
    return [
      make(indices!.shape, i => {
        const position = unravel(i, indices!.shape).with(at, wrap(indices!.data[i]!, data!.shape[at]!))
        return data!.data[ravel(position, data!.shape)]!
      }),
    ]
  },
  ScatterElements: ([data, indices, updates], { axis = 0, reduction: mode = 'none' }) => {
    const at = axisFrom0(axis, data!.shape.length)
    const result = data!.data.slice()
    updates!.data.forEach((update, i) => {
      const position = unravel(i, updates!.shape).with(at, wrap(indices!.data[i]!, data!.shape[at]!))
      const target = ravel(position, data!.shape)
      result[target] = mode === 'add' ? result[target]! + update : update
    })
    return [{ shape: data!.shape, data: result }]
  },
  ScatterND: ([data, indices, updates], { reduction: mode = 'none' }) => {
    const places = indices!.shape.at(-1)!
    const block = sizeOf(data!.shape.slice(places))
    const steps = strides(data!.shape)
    const result = data!.data.slice()
    for (let tuple = 0; tuple * places < indices!.data.length; tuple++) {
      let from = 0
      for (let k = 0; k < places; k++) from += wrap(indices!.data[tuple * places + k]!, data!.shape[k]!) * steps[k]!
      for (let i = 0; i < block; i++) {
        const update = updates!.data[tuple * block + i]!
        result[from + i] = mode === 'add' ? result[from + i]! + update : update
      }
    }
    return [{ shape: data!.shape, data: result }]
  },
  Transpose: ([x], { perm = [] }) => {
    const shape = perm.map(axis => x!.shape[axis]!)
    return [
      make(shape, i => {
        const source = new Array<number>(perm.length)
        unravel(i, shape).forEach((p, axis) => {
          source[perm[axis]!] = p
        })
        return x!.data[ravel(source, x!.shape)]!
      }),
    ]
  },
  Split: ([x, sizes], { axis = 0 }) => {
    const at = axisFrom0(axis, x!.shape.length)
    let start = 0
    return [...sizes!.data].map(size => {
      const from = start
      start += size
      const shape = x!.shape.with(at, size)
      return make(shape, i => {
        const position = unravel(i, shape)
        return x!.data[ravel(position.with(at, position[at]! + from), x!.shape)]!
      })
    })
  },
  Concat: (inputs, { axis = 0 }) => {
    const parts = inputs.map(x => x!)
    const first = parts[0]!.shape
    const at = axisFrom0(axis, first.length)
    const shape = first.with(
      at,
      parts.reduce((sum, x) => sum + x.shape[at]!, 0),
    )
    return [
      make(shape, i => {
        const position = unravel(i, shape)
        for (const part of parts) {
          if (position[at]! < part.shape[at]!) return part.data[ravel(position, part.shape)]!
          position[at]! -= part.shape[at]!
        }
        return Number.NaN
      }),
    ]
  },
  Reshape: ([x, sizes]) => {
    const asked = [...sizes!.data].map((size, axis) => (size === 0 ? x!.shape[axis]! : size))
    const rest = sizeOf(x!.shape) / sizeOf(asked.filter(size => size !== -1))
    return [{ shape: asked.map(size => (size === -1 ? rest : size)), data: x!.data }]
  },
  Expand: ([x, sizes]) => {
    const shape = broadcastShape(x!.shape, [...sizes!.data])
    return [make(shape, i => x!.data[broadcastIndex(x!, unravel(i, shape))]!)]
  },
  Shape: ([x], { start = 0, end = x!.shape.length }) => {
    const sizes = x!.shape.slice(start, end)
    return [tensor([sizes.length], sizes)]
  },

  Gemm: ([a, b, c], { transA = 0, transB = 0, alpha = 1, beta = 1 }) => {
    const result = product(a!, b!, transA, transB, alpha)
    if (!c) return [result]
    return [make(result.shape, i => result.data[i]! + beta * c.data[broadcastIndex(c, unravel(i, result.shape))]!)]
  },
  FusedMatMul: ([a, b], { transA = 0, transB = 0, alpha = 1 }) => [product(a!, b!, transA, transB, alpha)],
  ReduceSum: reduction(
    x => x,
    x => x,
  ),
  ReduceSumSquare: reduction(
    x => x * x,
    x => x,
  ),
  ReduceL2: reduction(x => x * x, Math.sqrt),
  Softmax: ([x]) => [rowwise(x!, row => logSoftmax(row).map(Math.exp))],
  LogSoftmax: ([x]) => [rowwise(x!, logSoftmax)],
  MatMulNBits: ([x, codes, scales, zeros], { K = 0, N = 0, bits = 4, block_size = 32 }) => {
    const weights = quantisedRows(codes!, scales!, zeros ?? null, { columns: K, bits, blockSize: block_size })
    return [
      make([x!.shape[0]!, N], i => {
        const [row, column] = [Math.floor(i / N), i % N]
        let sum = 0
        for (let k = 0; k < K; k++) sum += x!.data[row * K + k]! * weights(column, k)
        return sum
      }),
    ]
  },
  GatherBlockQuantized: ([codes, indices, scales], { bits = 4, block_size = 32 }) => {
    const columns = (codes!.shape[1]! * 8) / bits
    const table = quantisedRows(codes!, scales!, null, { columns, bits, blockSize: block_size })
    return [make([...indices!.shape, columns], i => table(indices!.data[Math.floor(i / columns)]!, i % columns))]
  },
  /** The last axis only; equal entries in order of their index. */
  TopK: ([x, count]) => {
    const [width, k] = [x!.shape.at(-1)!, count!.data[0]!]
    const rows = Array.from({ length: x!.data.length / width }, (_, row) => {
      const values = [...x!.data.subarray(row * width, (row + 1) * width)]
      return values.map((value, index) => ({ value, index })).sort((a, b) => b.value - a.value || a.index - b.index)
    })
    const chosen = rows.flatMap(row => row.slice(0, k))
    const shape = x!.shape.with(-1, k)
    return [make(shape, i => chosen[i]!.value), make(shape, i => chosen[i]!.index)]
  },
  ArgMax: ([x], { keepdims = 1 }) => {
    const width = x!.shape.at(-1)!
    const shape = keepdims === 0 ? x!.shape.slice(0, -1) : x!.shape.with(-1, 1)
    return [
      make(shape, i => {
        const row = x!.data.subarray(i * width, (i + 1) * width)
        return row.indexOf(Math.max(...row))
      }),
    ]
  },
  SimplifiedLayerNormalization: ([x, weight], { epsilon = 1e-5 }) => [norm(x!, weight!, null, epsilon, false)],
  SkipSimplifiedLayerNormalization: skipNorm(false),
  LayerNormalization: ([x, weight, bias], { epsilon = 1e-5 }) => [norm(x!, weight!, bias, epsilon, true)],
  SkipLayerNormalization: skipNorm(true),
  RotaryEmbedding: rotaryEmbedding,
  GroupQueryAttention: groupQueryAttention,
}

/** Values of a graph's nodes by name, from those of its inputs and weights; constants inline in the graph need not be given. */
export function evaluate(
  nodes: readonly GraphNode[],
  given: ReadonlyMap<string, Tensor>,
  constants: readonly (Value & { data: unknown })[] = [],
): Map<string, Tensor> {
  const values = new Map(given)
  for (const { name, shape, data } of constants) {
    if (values.has(name)) continue
    if (data instanceof Float32Array) values.set(name, tensor(shape as number[], data))
    if (data instanceof BigInt64Array) values.set(name, tensor(shape as number[], Array.from(data, Number)))
  }
  for (const { op, inputs, outputs, attributes } of nodes) {
    const own = inputs.map(input => {
      if (!input) return null
      const value = values.get(input.name)
      if (!value) throw new Error(`${op}: ${input.name} has no value`)
      return value
    })
    const made = (references[op as OpName] as Reference)(own, attributes as Attributes<OpName>)
    outputs.forEach((output, i) => {
      if (output && made[i]) values.set(output.name, made[i])
    })
  }
  return values
}
