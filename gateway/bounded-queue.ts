// A queue between something that pushes and one reader that pulls; it never grows beyond its capacity.

export interface BoundedQueue<T> {
  /** False where the queue is full: the value was not taken. */
  push(value: T): boolean
  /** The reader gets what is queued, then the end. */
  end(): void
  /** The reader gets what is queued, then the error, then the end. */
  fail(error: unknown): void
  stream: AsyncIterableIterator<T>
}

/** @param cancelled called once when the reader returns before the end */
export function boundedQueue<T>(capacity: number, cancelled: () => void): BoundedQueue<T> {
  const values: T[] = []
  const waiting: { resolve(result: IteratorResult<T>): void; reject(error: unknown): void }[] = []
  let ended = false
  let failure: { error: unknown } | undefined
  const done: IteratorResult<T> = { done: true, value: undefined }

  function finish(): void {
    ended = true
    const first = failure && waiting.shift()
    if (first && failure) first.reject(failure.error)
    if (first) failure = undefined
    for (const reader of waiting.splice(0)) reader.resolve(done)
  }

  const stream: AsyncIterableIterator<T> = {
    [Symbol.asyncIterator]: () => stream,
    async next() {
      if (values.length) return { done: false, value: values.shift() as T }
      if (failure) {
        const { error } = failure
        failure = undefined
        throw error
      }
      if (ended) return done
      return new Promise((resolve, reject) => waiting.push({ resolve, reject }))
    },
    async return() {
      const early = !ended
      values.length = 0
      failure = undefined
      finish()
      if (early) cancelled()
      return done
    },
  }
  return {
    stream,
    push(value) {
      if (ended) return true
      const reader = waiting.shift()
      if (reader) reader.resolve({ done: false, value })
      else if (values.length < capacity) values.push(value)
      else return false
      return true
    },
    end() {
      if (!ended) finish()
    },
    fail(error) {
      if (ended) return
      failure = { error }
      finish()
    },
  }
}
