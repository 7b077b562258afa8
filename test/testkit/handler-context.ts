// What a job handler is given, on a fresh folder: a real payload store, and lists of what the handler reported.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { HandlerContext, ProgressReport } from '../../compute/handlers/handler.js'
import { standaloneContext } from '../../compute/handlers/standalone-context.js'

export interface TestHandlerContext extends HandlerContext {
  reports: ProgressReport[]
  /** The same context with another signal. */
  withSignal(signal: AbortSignal): HandlerContext
  dispose(): Promise<void>
}

export async function handlerContext(env: Record<string, string> = {}): Promise<TestHandlerContext> {
  const dataFolder = await mkdtemp(join(tmpdir(), 'handler-'))
  const reports: ProgressReport[] = []
  const context = await standaloneContext(dataFolder, { jobId: 'job', env, progress: report => reports.push(report) })
  return {
    ...context,
    reports,
    withSignal: signal => ({ ...context, signal }),
    dispose: () => rm(dataFolder, { recursive: true, force: true }),
  }
}
