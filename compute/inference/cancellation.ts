// Cancelling between native runs: a run itself cannot be stopped.
import { DomainError } from '../../lib/errors.js'

/** Throws the signal's own DomainError, or CANCELLED, once it has fired. */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return
  throw signal.reason instanceof DomainError ? signal.reason : new DomainError('CANCELLED', 'The job was cancelled')
}

/** Waits for the value, or throws CANCELLED as soon as the signal fires. */
export async function unlessCancelled<T>(value: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return value
  throwIfCancelled(signal)
  let stop = () => {}
  const aborted = new Promise<void>(resolve => {
    stop = () => resolve()
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    const result = await Promise.race([value.then(made => ({ made })), aborted])
    if (result) return result.made
    throwIfCancelled(signal)
    return await value
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
