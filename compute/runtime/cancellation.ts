// What a run that was told to stop throws.
import { DomainError } from '../../lib/errors.js'

/** The signal's own DomainError, or CANCELLED. */
export const cancellationOf = (signal: AbortSignal): DomainError =>
  signal.reason instanceof DomainError ? signal.reason : new DomainError('CANCELLED', 'The job was cancelled')

/** Throws the signal's own DomainError, or CANCELLED, once it has fired. */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancellationOf(signal)
}
