// Loaders batch per request; payloads turn expected failures, and only those, into user errors.
import { expect, test } from 'vitest'
import { DomainError } from '../../../../lib/errors.js'
import { groupBy, loader } from '../../../../subgraphs/build/loader.js'
import { withUserErrors } from '../../../../subgraphs/build/payload.js'
import type { RequestContext } from '../../../../subgraphs/build/platform.js'

const context = () => ({ tenantId: 't', loaders: new Map() }) as unknown as RequestContext

test('what is asked for in one tick is one batch with distinct keys; a key without a value is undefined', async () => {
  const batches: (readonly string[])[] = []
  const request = context()
  const lengths = () =>
    loader(request, 'lengths', async (keys: readonly string[]) => {
      batches.push(keys)
      return new Map(keys.filter(k => k !== 'none').map(k => [k, k.length]))
    })
  expect(await Promise.all(['a', 'bb', 'a', 'none'].map(k => lengths().load(k)))).toEqual([1, 2, 1, undefined])
  expect(batches).toEqual([['a', 'bb', 'none']])
  expect(await loader(context(), 'lengths', async () => new Map([['a', 9]])).load('a')).toBe(9)
})

test('groups keep the order of their values', () => {
  expect(groupBy([1, 2, 3, 4], n => n % 2)).toEqual(
    new Map([
      [1, [1, 3]],
      [0, [2, 4]],
    ]),
  )
})

test('a DomainError becomes a user error; anything else is thrown', async () => {
  const refused = await withUserErrors(async () => {
    throw new DomainError('NOT_FOUND', 'No model has this id', { field: ['input', 'modelId'] })
  })
  expect(refused).toEqual({
    userErrors: [{ field: ['input', 'modelId'], message: 'No model has this id', code: 'NOT_FOUND' }],
  })
  expect(await withUserErrors(async () => ({ job: 1 }))).toEqual({ job: 1, userErrors: [] })
  await expect(withUserErrors(() => Promise.reject(new TypeError('bug')))).rejects.toThrow('bug')
})
