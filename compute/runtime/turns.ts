// Lets one thing at a time happen, in the order asked for.

/** Waits for its turn and resolves with a function that ends it. Where the signal fires first, it rejects with `cancelled()`. */
export type TakeTurn = (signal: AbortSignal | undefined, cancelled: () => Error) => Promise<() => void>

export function takingTurns(): TakeTurn {
  let busy = false
  const waiting: (() => void)[] = []
  const end = () => {
    const next = waiting.shift()
    if (next) next()
    else busy = false
  }
  const turn = () => {
    let ended = false
    return () => {
      if (!ended) end()
      ended = true
    }
  }
  return (signal, cancelled) => {
    if (!busy) {
      busy = true
      return Promise.resolve(turn())
    }
    return new Promise((resolve, reject) => {
      const begin = () => {
        signal?.removeEventListener('abort', leave)
        resolve(turn())
      }
      const leave = () => {
        waiting.splice(waiting.indexOf(begin), 1)
        reject(cancelled())
      }
      waiting.push(begin)
      signal?.addEventListener('abort', leave, { once: true })
    })
  }
}
