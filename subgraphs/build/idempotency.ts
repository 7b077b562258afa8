// Idempotency keys of creating mutations: same key and input, same result; same key, other input, a conflict.
import { createHash } from 'node:crypto'
import type { EntityManager } from 'typeorm'
import { IdempotencyKey } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { newId } from '../../lib/ids.js'

/** JSON with sorted keys, undefined left out: equal inputs have equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, v: unknown) => {
    if (typeof v === 'bigint') return v.toString()
    if (v === null || typeof v !== 'object' || Array.isArray(v)) return v
    return Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}

/**
 * Runs `work` once per (tenant, mutation, key); later calls get the first one's result. Call it within the transaction that
 * the work belongs to: key and work are committed together, and a failed work leaves the key free.
 * @param key absent: the work just runs
 * @param input what the key stands for; `idempotencyKey` within it is left out of the comparison
 * @param work returns ids (JSON), not entities: they are what a later call gets
 * @throws IDEMPOTENCY_CONFLICT where the key was used with another input
 */
export async function idempotent<R>(
  em: EntityManager,
  tenantId: string,
  mutation: string,
  key: string | null | undefined,
  input: object,
  work: () => Promise<R>,
): Promise<R> {
  if (key == null) return work()
  const field = ['input', 'idempotencyKey']
  if (key.length < 1 || key.length > 200)
    throw new DomainError('BAD_USER_INPUT', `idempotencyKey: ${key.length} characters, expected 1 to 200`, { field })
  if (key.includes('\0')) throw new DomainError('BAD_USER_INPUT', 'idempotencyKey: contains a NUL character', { field })
  const inputHash = createHash('sha256')
    .update(canonicalJson({ ...input, idempotencyKey: undefined }))
    .digest('hex')
  const known = await em.findOneBy(IdempotencyKey, { ...scoped(tenantId), mutation, key })
  if (known && known.inputHash !== inputHash)
    throw new DomainError('IDEMPOTENCY_CONFLICT', `The key "${key}" was used for ${mutation} with another input`, {
      field,
    })
  if (known) return known.result as R
  // Written before the work: where transactions run side by side, the unique index holds the second one back here.
  const id = newId()
  await em.insert(IdempotencyKey, { id, tenantId, mutation, key, inputHash, result: {}, createdAt: new Date() })
  const result = await work()
  await em.update(IdempotencyKey, { id, ...scoped(tenantId) }, { result: result as object })
  return result
}
