import { describe, expect, it } from 'vitest'
import { cancel } from '../../../../compute/pool/job-states/cancel.js'
import { charge } from '../../../../compute/pool/job-states/charge.js'
import { claim, exclusivePatienceMs, mayStart } from '../../../../compute/pool/job-states/claim.js'
import { fail } from '../../../../compute/pool/job-states/fail.js'
import { recover, recoveredSequenceStep } from '../../../../compute/pool/job-states/recover.js'
import { requeue } from '../../../../compute/pool/job-states/requeue.js'
import { retry } from '../../../../compute/pool/job-states/retry.js'
import { succeed } from '../../../../compute/pool/job-states/succeed.js'
import { type JobName, jobTypes } from '../../../../compute/pool/job-types.js'
import type { JobProgress, JobRecord, JobState } from '../../../../compute/pool/queue.js'

const now = new Date('2026-01-01T00:00:10Z')
const before = new Date('2026-01-01T00:00:00Z')
const progress: JobProgress = {
  stage: 'tensors',
  completed: 3,
  total: 9,
  unit: 'tensors',
  ratePerSecond: 2,
  etaSeconds: 3,
  metrics: null,
  sequence: 7,
}
const makeJob = (overrides: Partial<JobRecord> = {}): JobRecord => ({
  id: 'j1',
  tenantId: 't1',
  type: 'model.ingest',
  lane: 'io',
  state: 'RUNNING',
  input: { source: 'x' },
  output: null,
  context: null,
  modelId: null,
  attempts: 1,
  cancelRequested: false,
  error: null,
  progress: null,
  deviceId: 'io',
  createdAt: before,
  startedAt: before,
  finishedAt: null,
  cost: 1,
  flops: 0,
  units: 0,
  ...overrides,
})
const lost = { code: 'WORKER_LOST', message: 'gone', retryable: true }
const bad = { code: 'SHAPE_MISMATCH', message: 'bad', retryable: false }

describe('each transition', () => {
  const transitions: Record<string, { run: (job: JobRecord) => unknown; from: JobState[] }> = {
    claim: { run: job => claim(job, 'cpu-0', now), from: ['QUEUED'] },
    charge: { run: job => charge(job, 1), from: ['RUNNING'] },
    succeed: { run: job => succeed(job, {}, null, 0, now), from: ['RUNNING'] },
    fail: { run: job => fail(job, lost, null, 0, now), from: ['RUNNING'] },
    requeue: { run: job => requeue(job, null, 0, now), from: ['RUNNING'] },
    recover: { run: job => recover(job, now), from: ['RUNNING'] },
    cancel: { run: job => cancel(job, null, 0, now), from: ['QUEUED', 'RUNNING'] },
    retry: { run: job => retry(job), from: ['FAILED', 'CANCELLED'] },
  }
  const states: JobState[] = ['QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED']
  for (const [name, { run, from }] of Object.entries(transitions)) {
    it.each(states)(`${name}: from %s is ${from.join(', ')} only`, state => {
      const attempt = () => run(makeJob({ state }))
      if (from.includes(state)) expect(attempt).not.toThrow()
      else
        expect(attempt).toThrow(expect.objectContaining({ code: 'CONFLICT', message: expect.stringContaining(state) }))
    })
  }
})

describe('claim', () => {
  it('counts an attempt and forgets the last error', () => {
    const job = makeJob({ state: 'QUEUED', attempts: 1, error: { code: 'WORKER_LOST', message: 'gone' } })
    expect(claim(job, 'cpu-0', now)).toMatchObject({
      state: 'RUNNING',
      attempts: 2,
      deviceId: 'cpu-0',
      startedAt: now,
      error: null,
    })
  })
})

describe('fail', () => {
  it.each([
    { error: bad, attempts: 1, state: 'FAILED', code: 'SHAPE_MISMATCH' },
    { error: bad, attempts: 3, state: 'FAILED', code: 'SHAPE_MISMATCH' },
    { error: lost, attempts: 1, state: 'QUEUED', code: 'WORKER_LOST' },
    { error: lost, attempts: 2, state: 'QUEUED', code: 'WORKER_LOST' },
    { error: lost, attempts: 3, state: 'FAILED', code: 'TOO_MANY_ATTEMPTS' },
  ])('$error.code in attempt $attempts: $state with $code', ({ error, attempts, state, code }) => {
    const changes = fail(makeJob({ attempts }), error, null, 0, now)
    expect(changes).toMatchObject({ state, error: { code } })
    expect(changes.finishedAt).toEqual(state === 'FAILED' ? now : undefined)
  })

  it('gives the last reason when attempts are used up', () => {
    const { error } = fail(makeJob({ attempts: 3 }), lost, null, 0, now)
    expect(error?.message).toBe('Tried 3 times; the last attempt ended with WORKER_LOST: gone')
  })

  it('ends a job CANCELLED whose cancellation was asked for', () => {
    expect(fail(makeJob({ cancelRequested: true }), lost, null, 0, now)).toMatchObject({ state: 'CANCELLED' })
  })

  it('adds the device seconds of the attempt', () => {
    expect(fail(makeJob({ cost: 1 }), lost, null, 2.5, now).cost).toBe(3.5)
  })

  it('keeps the last progress that is known', () => {
    expect(fail(makeJob({ progress }), lost, null, 0, now).progress).toEqual(progress)
  })
})

describe('requeue', () => {
  it('takes the attempt back', () => {
    expect(requeue(makeJob({ attempts: 2 }), null, 0, now)).toMatchObject({ state: 'QUEUED', attempts: 1 })
  })
  it('cancels instead where that was asked for', () => {
    expect(requeue(makeJob({ cancelRequested: true }), null, 0, now)).toMatchObject({ state: 'CANCELLED' })
  })
})

describe('recover', () => {
  it('adds no seconds to those that the job was charged while its server lived', () => {
    const charged = { ...makeJob({ cost: 1 }), ...charge(makeJob({ cost: 1 }), 30) }
    expect({ ...charged, ...recover(charged, now) }).toMatchObject({ state: 'QUEUED', cost: 31 })
  })
  it.each([
    { attempts: 1, state: 'QUEUED' },
    { attempts: 2, state: 'QUEUED' },
    { attempts: 3, state: 'FAILED' },
  ])('after attempt $attempts: $state', ({ attempts, state }) => {
    expect(recover(makeJob({ attempts }), now)).toMatchObject({ state })
  })
  it('moves the sequence past all events that a server with newer progress in memory may have sent', () => {
    expect(recover(makeJob({ progress }), now).progress?.sequence).toBe(7 + recoveredSequenceStep)
    expect(recover(makeJob(), now).progress).toMatchObject({ sequence: recoveredSequenceStep, stage: 'interrupted' })
  })
})

describe('retry', () => {
  it('begins anew, and its events stay in sequence', () => {
    const job = makeJob({ state: 'FAILED', attempts: 3, error: bad, finishedAt: now, cancelRequested: true, progress })
    const changes = retry(job)
    expect(changes).toMatchObject({
      state: 'QUEUED',
      attempts: 0,
      error: null,
      finishedAt: null,
      cancelRequested: false,
    })
    expect({ ...job, ...changes }.progress?.sequence).toBe(7)
  })
})

describe('mayStart', () => {
  const job = (type: JobName, createdAt = before) => ({ type, lane: jobTypes[type].lane, createdAt })
  const late = new Date(before.getTime() + exclusivePatienceMs + 1)
  it.each([
    { what: 'any job on an idle pool', candidate: job('model.ingest'), running: [], start: true },
    { what: 'a job beside others', candidate: job('model.ingest'), running: [job('capability.analyze')], start: true },
    { what: 'an exclusive job on an idle pool', candidate: job('storage.collect'), running: [], start: true },
    {
      what: 'an exclusive job beside another',
      candidate: job('storage.collect'),
      running: [job('model.generate')],
      start: false,
    },
    {
      what: 'a job beside an exclusive one',
      candidate: job('model.ingest'),
      running: [job('storage.collect')],
      start: false,
    },
  ])('$what: $start', ({ candidate, running, start }) => {
    expect(mayStart(candidate, running, undefined, now)).toBe(start)
  })

  it('holds newer jobs back for an exclusive one that has waited long', () => {
    expect(mayStart(job('model.ingest', late), [job('model.ingest')], job('storage.collect'), late)).toBe(false)
  })
  it('does not hold them back before that, nor while a device job runs, nor jobs that are older', () => {
    expect(mayStart(job('model.ingest', now), [job('model.ingest')], job('storage.collect'), now)).toBe(true)
    expect(mayStart(job('model.ingest', late), [job('capability.analyze')], job('storage.collect'), late)).toBe(true)
    expect(mayStart(job('model.ingest', before), [], job('storage.collect', now), late)).toBe(true)
  })
})
