// What a search may cost and how large its students may be, as people give it.
import { DomainError } from '../../lib/errors.js'

/** A day, in seconds; and more tokens than a fast machine runs in it. */
export const longestSearch = 86_400
export const mostTokens = 1e12

/** @throws BAD_USER_INPUT: a search that may cost nothing finds nothing */
export function checkBudget(name: string, value: number | bigint | null | undefined, most: number): number | null {
  if (value == null) return null
  if (!(value >= 1 && value <= most))
    throw new DomainError('BAD_USER_INPUT', `${name}: ${value}, expected 1 to ${most}`, { field: ['input', name] })
  return Number(value)
}

/**
 * A largest number of parameters as people give it.
 * @throws BAD_USER_INPUT where it is below 1 or beyond 2^53
 */
export function checkParameterLimit(value: number | bigint | null | undefined): number | null {
  if (value == null) return null
  if (value < 1 || value > Number.MAX_SAFE_INTEGER)
    throw new DomainError('BAD_USER_INPUT', `maximumParameters: ${value}, expected 1 to ${Number.MAX_SAFE_INTEGER}`, {
      field: ['input', 'maximumParameters'],
    })
  return Number(value)
}
