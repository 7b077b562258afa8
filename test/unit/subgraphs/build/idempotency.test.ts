// Idempotency keys on a real database.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { IdempotencyKey } from '../../../../db/entities/index.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { DomainError } from '../../../../lib/errors.js'
import { newId } from '../../../../lib/ids.js'
import { canonicalJson, idempotent } from '../../../../subgraphs/build/idempotency.js'
import { openSubgraphPlatform, type SubgraphPlatform } from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
beforeEach(async () => {
  kit = await openSubgraphPlatform()
})
afterEach(() => kit.close())

let runs = 0
const call = (key: string | null | undefined, input: object, mutation = 'make', tenantId = defaultTenantId) =>
  kit.platform.db.tx(em =>
    idempotent(em, tenantId, mutation, key, input, async () => {
      runs++
      return { id: newId() }
    }),
  )

test('the same key and input give the same result, in any order of fields, also for twenty calls at once', async () => {
  runs = 0
  const results = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      call('k', i % 2 ? { a: 1, b: [2], idempotencyKey: 'k' } : { b: [2], a: 1, c: undefined }),
    ),
  )
  expect(new Set(results.map(r => r.id)).size).toBe(1)
  expect(runs).toBe(1)
})

test('the same key with another input is IDEMPOTENCY_CONFLICT, in any order of arrival exactly one wins', async () => {
  const results = await Promise.allSettled([call('k', { a: 1 }), call('k', { a: 2 })])
  expect(results.map(r => r.status).sort()).toEqual(['fulfilled', 'rejected'])
  expect(results.find(r => r.status === 'rejected')).toMatchObject({
    reason: { code: 'IDEMPOTENCY_CONFLICT', field: ['input', 'idempotencyKey'] },
  })
})

test('another mutation, another tenant and no key are separate', async () => {
  runs = 0
  await call('k', {})
  await call('k', {}, 'other')
  await call('k', {}, 'make', '00000000-0000-7000-8000-000000000002')
  await call(null, {})
  await call(undefined, {})
  expect(runs).toBe(5)
})

test('a failed work leaves the key free', async () => {
  const fail = kit.platform.db.tx(em =>
    idempotent(em, defaultTenantId, 'make', 'k', {}, () => {
      throw new DomainError('CONFLICT', 'not now')
    }),
  )
  await expect(fail).rejects.toMatchObject({ code: 'CONFLICT' })
  expect(await kit.platform.db.read.count(IdempotencyKey)).toBe(0)
  expect(await call('k', { other: true })).toHaveProperty('id')
})

test('a key of no or too many characters is refused with the number', async () => {
  await expect(call('', {})).rejects.toMatchObject({ code: 'BAD_USER_INPUT' })
  await expect(call('x'.repeat(201), {})).rejects.toThrow('201 characters, expected 1 to 200')
})

test('canonical JSON ignores the order of keys and nothing else', () => {
  expect(canonicalJson({ b: { y: 1, x: [2, 1] }, a: 2n ** 60n })).toBe(
    '{"a":"1152921504606846976","b":{"x":[2,1],"y":1}}',
  )
})
