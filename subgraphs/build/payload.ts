// Mutation payloads: expected failures become `userErrors`, everything else throws.
import { expectedFailure } from '../../lib/disk-full.js'
import type { ErrorCode } from '../../lib/errors.js'

export interface UserErrorValue {
  field: string[] | null
  message: string
  code: ErrorCode
}

/**
 * Runs a mutation's work (its transaction included, so that a failure has rolled back). A DomainError (and a full disk) becomes the
 * payload's one user error; the other fields of the payload must be nullable.
 */
export async function withUserErrors<P extends { userErrors: UserErrorValue[] }>(
  work: () => Promise<Omit<P, 'userErrors'>>,
): Promise<P> {
  try {
    return { ...(await work()), userErrors: [] } as unknown as P
  } catch (error) {
    const failure = expectedFailure(error)
    if (!failure) throw error
    const userErrors = [{ field: failure.field ?? null, message: failure.message, code: failure.code }]
    return { userErrors } as unknown as P
  }
}
