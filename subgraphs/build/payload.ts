// Mutation payloads: expected failures become `userErrors`, everything else throws.
import { type ErrorCode, isDomainError } from '../../lib/errors.js'

export interface UserErrorValue {
  field: string[] | null
  message: string
  code: ErrorCode
}

/**
 * Runs a mutation's work (its transaction included, so that a failure has rolled back). A DomainError becomes the payload's
 * one user error; the other fields of the payload must be nullable.
 */
export async function withUserErrors<P extends { userErrors: UserErrorValue[] }>(
  work: () => Promise<Omit<P, 'userErrors'>>,
): Promise<P> {
  try {
    return { ...(await work()), userErrors: [] } as unknown as P
  } catch (error) {
    if (!isDomainError(error)) throw error
    const userErrors = [{ field: error.field ?? null, message: error.message, code: error.code }]
    return { userErrors } as unknown as P
  }
}
