// Starts a job by a mutation and follows it to its end; what an interrupt says is kept in the session.
import { progressView, type WatchedJob, watchJob } from '../lib/client/watch-job.js'
import type { Session } from './session.js'

export const printJson = (value: unknown) => process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
export const print = (text: string) => process.stdout.write(`${text}\n`)

export async function runJob(
  session: Session,
  document: string,
  input: Record<string, unknown>,
  label: string,
): Promise<WatchedJob> {
  const { job } = await session.client.mutate<{ job: { id: string } }>(document, input)
  return followJob(session, job.id, label)
}

export async function followJob(session: Session, jobId: string, label: string): Promise<WatchedJob> {
  session.job = jobId
  session.view = progressView(label)
  const done = await watchJob(session.client, jobId, label, session.view)
  session.job = undefined
  session.view = undefined
  return done
}
