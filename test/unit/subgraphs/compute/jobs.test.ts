// The compute subgraph on a real database, store and queue (without workers: the test plays them).
import { type ExecutionResult, parse, subscribe } from 'graphql'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { JobProgress } from '../../../../compute/pool/queue.js'
import { Job } from '../../../../db/entities/index.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { newId, toGlobalId } from '../../../../lib/ids.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import { subgraph } from '../../../../subgraphs/compute/subgraph.js'
import { queriesOf } from '../../../testkit/count-queries.js'
import {
  type Answer,
  addModel,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
} from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
beforeEach(async () => {
  kit = await openSubgraphPlatform(subgraph)
})
afterEach(() => kit.close())

const ask = (query: string, variables = {}) => run(subgraph.schema, kit.context(), query, variables)
const gid = (job: { id: string }) => toGlobalId('Job', job.id)
const addJob = (type: 'storage.verify' | 'model.ingest' = 'storage.verify', modelId?: string) =>
  kit.platform.db.tx(em =>
    enqueue(em, kit.platform, {
      tenantId: defaultTenantId,
      type,
      input: type === 'model.ingest' ? { source: '/x' } : {},
      modelId,
    }),
  )
const at = (sequence: number, completed = sequence): JobProgress => ({
  stage: 'hashing',
  completed,
  total: 10,
  unit: 'bytes',
  ratePerSecond: null,
  etaSeconds: null,
  metrics: { loss: 1.5 },
  sequence,
})
/** A worker takes the oldest job. */
const claim = async () => {
  const job = (await kit.store.claim('io', 'io'))!
  kit.platform.queue.announce(job)
  return job
}
const report = async (id: string, sequence: number) =>
  kit.platform.queue.announce({ ...(await kit.store.get(id))!, progress: at(sequence) })
const output = { payloads: 3, bytes: 10, corrupt: [] }
const succeed = async (id: string, sequence: number) =>
  kit.platform.queue.announce(await kit.store.succeed(id, output, at(sequence), 2))

/** Opens a subscription; `next` gives the data of the next event, or undefined at the end. */
async function follow(query: string) {
  const opened = await subscribe({ schema: subgraph.schema, document: parse(query), contextValue: kit.context() })
  if (!(Symbol.asyncIterator in opened)) throw opened.errors?.[0]?.originalError ?? new Error('refused')
  const stream = opened as AsyncGenerator<ExecutionResult>
  return {
    next: async (): Promise<Answer> => (await stream.next()).value?.data ?? undefined,
    stop: () => stream.return(undefined),
  }
}
const progressOf = (id: string, more = '') =>
  `subscription { jobProgress(id: "${id}"${more}) { state attempts progress { sequence completed stage unit total metrics } output } }`
const seen = (data: Answer) => data && [data.jobProgress.state, data.jobProgress.progress?.sequence ?? null]

test('a job shows its state, times, cost, progress, input, output and model', async () => {
  const { id: modelId } = await addModel(kit.platform, 'm')
  const job = await addJob('storage.verify', modelId)
  await claim()
  await succeed(job.id, 7)
  const answer = await ask(
    `query ($id: ID!) { job(id: $id) { id type state attempts durationMs cost deviceSeconds flops createdAt startedAt finishedAt input output error { code }
       progress { stage completed total unit metrics sequence } model { id } device { id } } }`,
    { id: gid(job) },
  )
  expect(answer.job).toMatchObject({
    id: gid(job),
    type: 'STORAGE_VERIFY',
    state: 'SUCCEEDED',
    attempts: 1,
    cost: 0,
    deviceSeconds: 2,
    flops: 0,
    input: {},
    output,
    error: null,
    progress: { stage: 'hashing', completed: 7, total: 10, unit: 'bytes', metrics: { loss: 1.5 }, sequence: 7 },
    model: { id: toGlobalId('Model', modelId) },
    device: null,
  })
  expect(answer.job.durationMs).toBeGreaterThanOrEqual(0)
})

test('jobs are listed newest first, by state, type and model', async () => {
  const { id: modelId } = await addModel(kit.platform, 'm')
  const jobs = [await addJob(), await addJob('model.ingest', modelId), await addJob()]
  await claim()
  const ids = async (args: string) =>
    (await ask(`{ jobs${args} { nodes { id } } }`)).jobs.nodes.map((n: { id: string }) => n.id)
  const [a, b, c] = jobs.map(gid)
  expect(await ids('')).toEqual([c, b, a])
  expect(await ids('(states: [QUEUED])')).toEqual([c, b])
  expect(await ids('(states: [RUNNING, FAILED])')).toEqual([a])
  expect(await ids('(types: [MODEL_INGEST])')).toEqual([b])
  expect(await ids(`(modelId: "${toGlobalId('Model', modelId)}")`)).toEqual([b])
  expect(await ids('(modelId: "nonsense")')).toEqual([])
})

test('a hundred jobs as entities are one query', async () => {
  const jobs = await Promise.all(Array.from({ length: 100 }, () => addJob()))
  const refs = jobs.map(j => ({ __typename: 'Job', id: gid(j) }))
  const query = 'query ($refs: [_Any!]!) { _entities(representations: $refs) { ... on Job { state } } }'
  expect(await queriesOf(kit.platform.db.read, () => ask(query, { refs }))).toHaveLength(1)
})

test('jobProgress: snapshot first, every change, the final state last, then the end', async () => {
  const job = await addJob()
  const stream = await follow(progressOf(gid(job)))
  expect(seen(await stream.next())).toEqual(['QUEUED', null])
  await claim()
  expect(seen(await stream.next())).toEqual(['RUNNING', null])
  await report(job.id, 1)
  expect(seen(await stream.next())).toEqual(['RUNNING', 1])
  await report(job.id, 2)
  await succeed(job.id, 3)
  const rest = [await stream.next(), await stream.next(), await stream.next()].map(seen).filter(Boolean)
  expect(rest.at(-1)).toEqual(['SUCCEEDED', 3])
  expect(await stream.next()).toBeUndefined()
})

test('jobProgress of a job that has ended is one snapshot and the end, also after its last sequence', async () => {
  const job = await addJob()
  await claim()
  await succeed(job.id, 5)
  for (const more of ['', ', afterSequence: 5', ', afterSequence: 99']) {
    const stream = await follow(progressOf(gid(job), more))
    const snapshot = await stream.next()
    expect(snapshot.jobProgress).toMatchObject({ state: 'SUCCEEDED', output, progress: { sequence: 5 } })
    expect(await stream.next()).toBeUndefined()
  }
})

test('jobProgress after a sequence repeats nothing up to it and ends with the final state', async () => {
  const job = await addJob()
  await claim()
  await kit.platform.db.tx(em => em.update(Job, { id: job.id }, { progress: at(4) as never }))
  const stream = await follow(progressOf(gid(job), ', afterSequence: 4'))
  const first = stream.next()
  await report(job.id, 3)
  await report(job.id, 4)
  await report(job.id, 6)
  expect(seen(await first)).toEqual(['RUNNING', 6])
  await succeed(job.id, 6)
  expect(seen(await stream.next())).toEqual(['SUCCEEDED', 6])
  expect(await stream.next()).toBeUndefined()
})

test('jobProgress of an unknown job is refused with NOT_FOUND before anything is sent', async () => {
  for (const id of ['nonsense', toGlobalId('Job', newId()), toGlobalId('Model', newId())])
    await expect(follow(progressOf(id))).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

test('a client that leaves while nothing happens is let go at once', async () => {
  const job = await addJob()
  const stream = await follow(progressOf(gid(job)))
  await stream.next()
  const waiting = stream.next()
  await stream.stop()
  expect(await waiting).toBeUndefined()
})

test('when the server stops, streams of jobs that have not ended end without a false last state', async () => {
  const job = await addJob()
  const stream = await follow(progressOf(gid(job)))
  expect(seen(await stream.next())).toEqual(['QUEUED', null])
  const next = stream.next()
  await kit.platform.queue.stop(0)
  expect(await next).toBeUndefined()
})

test('jobsChanged sends the wanted states and types only', async () => {
  const stream = await follow(
    'subscription { jobsChanged(states: [SUCCEEDED], types: [STORAGE_VERIFY]) { id state type } }',
  )
  const next = stream.next()
  await addJob('model.ingest')
  const job = await addJob()
  await claim()
  const second = (await claim()).id
  expect(second).toBe(job.id)
  await succeed(job.id, 1)
  expect(await next).toEqual({ jobsChanged: { id: gid(job), state: 'SUCCEEDED', type: 'STORAGE_VERIFY' } })
  await stream.stop()
})

const cancel = (id: string) =>
  ask(
    'mutation ($id: ID!) { cancelJob(input: { jobId: $id }) { job { state error { code } } userErrors { code message field } } }',
    { id },
  )
const retry = (id: string) =>
  ask(
    'mutation ($id: ID!) { retryJob(input: { jobId: $id }) { job { state attempts error { code } } userErrors { code field } } }',
    { id },
  )

test('a queued job is cancelled at once; cancelling it again is a CONFLICT that names the state; retrying puts it back', async () => {
  const job = await addJob()
  expect((await cancel(gid(job))).cancelJob).toEqual({
    job: { state: 'CANCELLED', error: { code: 'CANCELLED' } },
    userErrors: [],
  })
  const again = (await cancel(gid(job))).cancelJob
  expect(again).toMatchObject({ job: null, userErrors: [{ code: 'CONFLICT' }] })
  expect(again.userErrors[0].message).toContain('CANCELLED')
  expect((await retry(gid(job))).retryJob).toEqual({
    job: { state: 'QUEUED', attempts: 0, error: null },
    userErrors: [],
  })
  expect((await retry(gid(job))).retryJob).toMatchObject({ job: null, userErrors: [{ code: 'CONFLICT' }] })
  expect((await claim()).id).toBe(job.id)
})

test('cancelling or retrying what is not there is a user error at the input field', async () => {
  for (const id of ['x', toGlobalId('Job', newId())]) {
    expect((await cancel(id)).cancelJob.userErrors).toMatchObject([{ code: 'NOT_FOUND', field: ['input', 'jobId'] }])
    expect((await retry(id)).retryJob.userErrors).toMatchObject([{ code: 'NOT_FOUND', field: ['input', 'jobId'] }])
  }
})
