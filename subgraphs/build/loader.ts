// DataLoaders of one request: rows asked for in one tick become one query.
import DataLoader from 'dataloader'
import type { RequestContext } from './platform.js'

/**
 * The request's loader of that name, made on first use.
 * @param batch values by key; a key without one loads as undefined. It is called once per tick with distinct keys.
 */
export function loader<K extends string | number, V>(
  context: RequestContext,
  name: string,
  batch: (keys: readonly K[], context: RequestContext) => Promise<ReadonlyMap<K, V>>,
): DataLoader<K, V | undefined> {
  const known = context.loaders.get(name)
  if (known) return known as DataLoader<K, V | undefined>
  const made = new DataLoader<K, V | undefined>(
    async keys => {
      const found = await batch(keys, context)
      return keys.map(key => found.get(key))
    },
    { maxBatchSize: 1000 },
  )
  context.loaders.set(name, made)
  return made
}

/** Values grouped by key, in their order: for loaders of lists. */
export function groupBy<K, V>(values: readonly V[], key: (value: V) => K): Map<K, V[]> {
  const groups = new Map<K, V[]>()
  for (const value of values) {
    const group = groups.get(key(value))
    if (group) group.push(value)
    else groups.set(key(value), [value])
  }
  return groups
}
