// Options that are checked by a schema of lib/, with the one at fault named.
import { DomainError } from '../../lib/errors.js'

interface Parser<T> {
  safeParse(
    value: unknown,
  ): { success: true; data: T } | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } }
}

/**
 * The options, defaults filled in; what is null is left out.
 * @throws `code` naming the option
 */
export function checkOptions<T>(
  schema: Parser<T>,
  given: Record<string, unknown>,
  code: 'BAD_USER_INPUT' | 'INVALID_RECIPE',
  path: readonly string[],
): T {
  const stated = Object.fromEntries(
    Object.entries(given).flatMap(([name, value]) =>
      value === null || value === undefined ? [] : [[name, typeof value === 'bigint' ? Number(value) : value]],
    ),
  )
  const parsed = schema.safeParse(stated)
  if (parsed.success) return parsed.data
  const { path: at, message } = parsed.error.issues[0]!
  const field = String(at[0])
  const why = field === 'blockSize' ? `${String(given.blockSize)}, expected 32, 64 or 128` : message
  throw new DomainError(code, `${[...path, field].join('.')}: ${why}`, { field: ['input', ...path, field] })
}
