// Commands about jobs and storage.
import { table } from '../lib/client/tables.js'
import { quantity, took } from '../lib/client/watch-job.js'
import { documents } from './documents.js'
import { findJobId } from './find.js'
import { costNote } from './recipe-text.js'
import type { JobSummary } from './results.js'
import { followJob, print, printJson, runJob } from './run-job.js'
import type { Session } from './session.js'
import { idCell } from './short-id.js'
import { jobLabel, showCollected, showResult, showVerified } from './show-result.js'

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
    j.cost > 0 ? j.cost.toFixed(1) : '',
    idCell(session, j.id),
    j.error ? `${j.error.code}: ${j.error.message}`.slice(0, 60) : (j.state === 'RUNNING' && j.progress?.stage) || '',
  ])
  if (rows.length === 0) return print('No jobs yet.')
  print(table(['created', 'type', 'state', 'model', 'took', 'DCU', 'id', 'stage or error'], rows))
  if (data.jobs.nodes.some(j => j.cost > 0)) print(`\n${costNote}`)
}

/** Follows a job to its end and says what the command that started it would have said. */
export async function watch(session: Session, reference: string) {
  const id = await findJobId(session, reference)
  const { job } = await session.client.query<{ job: { type: string } | null }>(documents.jobType, { id })
  const done = await followJob(session, id, jobLabel(job?.type))
  if (session.json) return printJson(done)
  print(`${done.type} ${done.state} in ${took(done.durationMs ?? 0)}`)
  await showResult(session, done)
}

export async function cancel(session: Session, reference: string) {
  const jobId = await findJobId(session, reference)
  const { job } = await session.client.mutate<{ job: { state: string } }>(documents.cancelJob, { jobId })
  print(job.state === 'CANCELLED' ? 'Cancelled.' : `Cancelling; the job is ${job.state}.`)
}

export async function retry(session: Session, reference: string) {
  const jobId = await findJobId(session, reference)
  await session.client.mutate(documents.retryJob, { jobId })
  await watch(session, jobId)
}

/** Fails (exit code 1) where anything is corrupt or missing. */
export async function verify(session: Session) {
  showVerified(session, await runJob(session, documents.verifyStorage, {}, 'verify'))
}

export async function collect(session: Session) {
  showCollected(session, await runJob(session, documents.collectGarbage, {}, 'gc'))
}

interface DeviceSummary {
  id: string
  name: string
  kind: string
  memoryBytes: string | null
  chosen: boolean
  busy: boolean
  problem: string | null
  job: { id: string; type: string } | null
}

export async function devices(session: Session) {
  const { devices: found } = await session.client.query<{ devices: DeviceSummary[] }>(documents.devices)
  if (session.json) return printJson(found)
  const state = (d: DeviceSummary) =>
    d.problem ? 'not there' : d.chosen ? (d.job ? `runs ${d.job.type}` : 'free') : 'not used (HARTONOMOUS_DEVICES)'
  print(
    table(
      ['kind', 'name', 'memory', 'state'],
      found.map(d => [d.kind, d.name, d.memoryBytes ? quantity(Number(d.memoryBytes), 'bytes') : '', state(d)]),
    ),
  )
  for (const { problem } of found) if (problem) print(problem)
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
