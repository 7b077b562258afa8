import { elementCount } from './float-weights.js'

/** The type that most weights have; undefined where there are none. */
export function commonType(tensors: Iterable<{ dtype: string; shape: readonly number[] }>): string | undefined {
  const counts = new Map<string, number>()
  for (const { dtype, shape } of tensors) counts.set(dtype, (counts.get(dtype) ?? 0) + elementCount(shape))
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0]
}
