// Commands about jobs and storage.
import { table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import type { JobSummary } from './results.js'
import { followJob, print, printJson, runJob } from './run-job.js'
import type { Session } from './session.js'

export async function jobs(session: Session, o: { state?: string[]; first: number }) {
  const data = await session.client.query<{ jobs: { nodes: JobSummary[] } }>(documents.jobs, {
    states: o.state?.map(s => s.toUpperCase()),
    first: o.first,
  })
  if (session.json) return printJson(data.jobs.nodes)
  const rows = data.jobs.nodes.map(j => [
    j.createdAt.slice(0, 19).replace('T', ' '),
    j.type,
    j.state,
    j.model?.name ?? '',
    j.durationMs === null ? '' : `${(j.durationMs / 1000).toFixed(1)} s`,
    j.error ? `${j.error.code}: ${j.error.message}`.slice(0, 60) : (j.progress?.stage ?? ''),
    j.id,
  ])
  print(
    rows.length ? table(['created', 'type', 'state', 'model', 'took', 'stage or error', 'id'], rows) : 'No jobs yet.',
  )
}

export async function watch(session: Session, jobId: string) {
  const done = await followJob(session, jobId, 'job')
  session.json
    ? printJson(done)
    : print(`${done.type} ${done.state} in ${((done.durationMs ?? 0) / 1000).toFixed(1)} s`)
}

export async function cancel(session: Session, jobId: string) {
  const { job } = await session.client.mutate<{ job: { state: string } }>(documents.cancelJob, { jobId })
  print(job.state === 'CANCELLED' ? 'Cancelled.' : `Cancelling; the job is ${job.state}.`)
}

export async function retry(session: Session, jobId: string) {
  await session.client.mutate(documents.retryJob, { jobId })
  await watch(session, jobId)
}

export async function verify(session: Session) {
  const job = await runJob(session, documents.verifyStorage, {}, 'verify')
  const output = job.output as { payloads: number; bytes: number; corrupt: string[] }
  if (session.json) return printJson(output)
  print(
    `${output.payloads} payloads, ${quantity(output.bytes, 'bytes')}: ${output.corrupt.length ? `${output.corrupt.length} CORRUPT` : 'all whole'}.`,
  )
  for (const hash of output.corrupt) print(`  ${hash}`)
}

export async function collect(session: Session) {
  const job = await runJob(session, documents.collectGarbage, {}, 'gc')
  const output = job.output as { removed: number; bytes: number }
  session.json
    ? printJson(output)
    : print(`${output.removed} payloads removed, ${quantity(output.bytes, 'bytes')} freed.`)
}

interface Storage {
  modelCount: number
  payloadCount: number
  storedBytes: number
  logicalBytes: number
  savedBytes: number
}

export async function storage(session: Session) {
  const { storage: s } = await session.client.query<{ storage: Storage }>(documents.storage)
  if (session.json) return printJson(s)
  print(
    `${s.modelCount} models of ${quantity(Number(s.logicalBytes), 'bytes')} in ${s.payloadCount} payloads of ${quantity(Number(s.storedBytes), 'bytes')}: sharing saves ${quantity(Number(s.savedBytes), 'bytes')}.`,
  )
}
