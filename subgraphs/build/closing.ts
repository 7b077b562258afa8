// Streams whose readers may leave at any time.

/**
 * A generator waits for its `await` before it sees a `return()`: a client that leaves while nothing happens would leave what the
 * generator reads open. This one calls `close` first, which must end that wait; it is called at most once.
 */
export function closing<T>(generator: AsyncGenerator<T>, close: () => unknown): AsyncGenerator<T> {
  const end = generator.return.bind(generator)
  let closed = false
  generator.return = async value => {
    if (!closed) {
      closed = true
      await close()
    }
    return end(value)
  }
  return generator
}
