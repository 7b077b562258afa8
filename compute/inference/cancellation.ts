// Waiting no longer than the job's signal allows.
import { throwIfCancelled } from '../runtime/cancellation.js'

export { throwIfCancelled } from '../runtime/cancellation.js'

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
