// Runs what a foreign file programs (chat templates, regular expressions of tokenizers) under a time limit, on this thread.
import { createContext, Script } from 'node:vm'

const context = createContext({ work: (): unknown => undefined })
const script = new Script('work()')

/** The work went on for longer than it may. */
export class TookTooLong extends Error {
  constructor(readonly milliseconds: number) {
    super(`still running after ${milliseconds} ms`)
  }
}

/**
 * Calls `work` and gives its result; synchronous code that loops or backtracks for ever is ended by the engine itself.
 * Not to be nested.
 * @throws TookTooLong, and what `work` throws
 */
export function runBounded<T>(work: () => T, milliseconds: number): T {
  context.work = work
  try {
    return script.runInContext(context, { timeout: milliseconds }) as T
  } catch (error) {
    // Only this code: a stack overflow or a string beyond V8's limit is the work's own error.
    if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw new TookTooLong(milliseconds)
    throw error
  } finally {
    context.work = () => undefined
  }
}
