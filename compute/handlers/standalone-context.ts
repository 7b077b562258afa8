// What a handler is given where no worker runs it: benches, scripts and tests, on a folder of their own.
import { join } from 'node:path'
import { readEnv } from '../../lib/env.js'
import { makeLogger } from '../../lib/log.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import type { HandlerContext, ProgressReport } from './handler.js'

export interface StandaloneOptions {
  jobId?: string
  /** Default: what the process has. */
  env?: NodeJS.ProcessEnv
  progress?: (report: ProgressReport) => void
}

export async function standaloneContext(
  dataFolder: string,
  { jobId = 'standalone', env = process.env, progress = () => {} }: StandaloneOptions = {},
): Promise<HandlerContext> {
  return {
    jobId,
    payloads: await openFilePayloadStore(join(dataFolder, 'payloads')),
    dataFolder,
    env: readEnv({ ...env, HARTONOMOUS_DATA: dataFolder }),
    log: makeLogger(jobId, 'silent'),
    signal: new AbortController().signal,
    progress,
    delta: () => {},
  }
}
