// What a loss changes by per change of a value, kept in the form in which it costs least until somebody needs the whole tensor.
import type { GraphBuilder } from '../graph/builder.js'
import type { Dimension, Value } from '../graph/ir.js'
import { apply, reshape, reshapeTo } from './apply.js'
import { axisFrom0 } from './table.js'

export type Cotangent =
  | { form: 'dense'; value: Value }
  /** `value` [n, m] times `scale` [n, 1]: matrix products scale their small side instead of a whole [rows, vocabulary]. */
  | { form: 'rows'; value: Value; scale: Value }
  /** Zeros shaped like `like`, with `updates` at `indices` along `axis`. */
  | { form: 'entries'; axis: number; indices: Value; updates: Value; like: Value }

export const dense = (value: Value): Cotangent => ({ form: 'dense', value })

/** The cotangent as a tensor of its value's shape. */
export function densify(g: GraphBuilder, cotangent: Cotangent): Value {
  switch (cotangent.form) {
    case 'dense':
      return cotangent.value
    case 'rows':
      return apply(g, 'Mul', [cotangent.value, cotangent.scale])
    case 'entries': {
      const { axis, indices, updates, like } = cotangent
      return apply(g, 'ScatterElements', [zerosLike(g, like), indices, updates], { axis, reduction: 'add' })
    }
  }
}

const isStatic = (shape: readonly Dimension[]): shape is number[] => shape.every(size => typeof size === 'number')

/** The sizes of x as an int64 tensor: a constant where all are known. */
export const shapeOf = (g: GraphBuilder, x: Value): Value =>
  isStatic(x.shape) ? g.int64s(x.shape) : apply(g, 'Shape', [x], {}, { name: `shape_of_${x.name}` })

export const zerosLike = (g: GraphBuilder, x: Value): Value =>
  apply(g, 'Expand', [g.float32(0), shapeOf(g, x)], {}, { shape: x.shape })

export const expandLike = (g: GraphBuilder, value: Value, x: Value): Value =>
  apply(g, 'Expand', [value, shapeOf(g, x)], {}, { shape: x.shape })

/** x with the shape of `like`. Reads `like` only where two sizes are unknown: that would keep its memory until here. */
export function reshapeLike(g: GraphBuilder, x: Value, like: Value): Value {
  if (like.shape.join() === x.shape.join()) return x
  const sizes = like.shape.map((size, i) => (typeof size === 'number' ? size : size === x.shape[i] ? 0 : -1))
  if (sizes.filter(size => size === -1).length <= 1) return reshape(g, x, sizes, like.shape)
  return reshapeTo(g, x, shapeOf(g, like), like.shape)
}

/** The gradient of a broadcast: `dy` summed over the axes that `x` did not have, or had as 1. */
export function sumTo(g: GraphBuilder, dy: Value, x: Value): Value {
  const added = dy.shape.length - x.shape.length
  const axes = dy.shape.flatMap((size, axis) =>
    axis < added || (x.shape[axis - added] === 1 && size !== 1) ? [axis] : [],
  )
  if (axes.length === 0) return dy
  const summed = apply(g, 'ReduceSum', [dy, g.int64s(axes)], { keepdims: 1 })
  return added === 0 ? summed : reshapeLike(g, summed, x)
}

export function transpose(g: GraphBuilder, x: Value, perm: readonly number[]): Value {
  return perm.every((axis, i) => axis === i) ? x : apply(g, 'Transpose', [x], { perm })
}

/** Axes in an order that puts `axis` first, and the order that puts it back. */
export function axisFirst(rank: number, axis: number): { perm: number[]; inverse: number[] } {
  const first = axisFrom0(axis, rank)
  const perm = [first, ...Array.from({ length: rank }, (_, i) => i).filter(i => i !== first)]
  return { perm, inverse: invert(perm) }
}

export const invert = (perm: readonly number[]): number[] => perm.map((_, i) => perm.indexOf(i))
