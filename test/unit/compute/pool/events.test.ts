import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { jobEvents, watchAllCapacity } from '../../../../compute/pool/events.js'
import type { JobEvent, JobRecord, JobState } from '../../../../compute/pool/queue.js'

const makeJob = (state: JobState, sequence = 0, id = 'j1', tenantId = 't1') =>
  ({
    id,
    tenantId,
    type: 'model.generate',
    state,
    progress: sequence === 0 ? null : { stage: 's', completed: sequence, sequence },
  }) as JobRecord
const delta = (index: number, textDelta = `${index} `) => ({
  kind: 'delta' as const,
  jobId: 'j1',
  textDelta,
  tokenId: index,
  index,
  offset: 0,
  tokenIds: [index],
})

const short = (event: JobEvent) =>
  event.kind === 'delta' ? event.textDelta : `${event.job.state} ${event.job.progress?.sequence ?? 0}`

async function drain<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const event of stream) all.push(event)
  return all
}

setFlagsFromString('--expose-gc')
/** What is still referenced is measured, not what happens to be uncollected. */
const collectGarbage = runInNewContext('gc') as () => void

describe('watch', () => {
  it('gives a reader who keeps up every event in order and ends after the final state', async () => {
    const events = jobEvents()
    const seen: string[] = []
    const reading = (async () => {
      for await (const event of events.watch('j1')) seen.push(short(event))
    })()
    const step = () => new Promise(r => setImmediate(r))
    events.state(makeJob('RUNNING'))
    await step()
    events.progress(makeJob('RUNNING', 1))
    await step()
    events.progress(makeJob('RUNNING', 2))
    await step()
    events.delta(delta(0))
    await step()
    events.state(makeJob('SUCCEEDED', 3))
    await reading
    expect(seen).toEqual(['RUNNING 0', 'RUNNING 1', 'RUNNING 2', '0 ', 'SUCCEEDED 3'])
    expect(events.readerCount()).toBe(0)
  })

  it('supersedes progress and joins deltas for a slow reader, and loses no state', async () => {
    const events = jobEvents()
    const stream = events.watch('j1')
    events.state(makeJob('RUNNING'))
    for (let i = 1; i <= 100; i++) events.progress(makeJob('RUNNING', i))
    for (let i = 0; i < 5; i++) events.delta(delta(i))
    events.state(makeJob('QUEUED', 100))
    events.state(makeJob('RUNNING', 100))
    for (let i = 5; i < 8; i++) events.delta(delta(i))
    events.progress(makeJob('RUNNING', 101))
    events.progress(makeJob('RUNNING', 102))
    const next = async () => short((await stream.next()).value)
    expect([await next(), await next(), await next(), await next(), await next(), await next()]).toEqual([
      'RUNNING 0',
      '0 1 2 3 4 ',
      'QUEUED 100',
      'RUNNING 100',
      '5 6 7 ',
      'RUNNING 102',
    ])
  })

  it('never sends a progress again or an older one after a newer', async () => {
    const events = jobEvents()
    const stream = events.watch('j1')
    events.progress(makeJob('RUNNING', 5))
    events.state(makeJob('QUEUED', 9))
    events.state(makeJob('FAILED', 9))
    expect((await drain(stream)).map(short)).toEqual(['QUEUED 9', 'FAILED 9'])
  })

  it('gives the last index and token of joined deltas', async () => {
    const events = jobEvents()
    const stream = events.watch('j1')
    for (let i = 0; i < 3; i++) events.delta(delta(i))
    expect((await stream.next()).value).toMatchObject({
      index: 2,
      tokenId: 2,
      textDelta: '0 1 2 ',
      tokenIds: [0, 1, 2],
    })
  })

  it('starts from now for a reader who comes later', async () => {
    const events = jobEvents()
    const first = events.watch('j1')
    events.delta(delta(0))
    events.progress(makeJob('RUNNING', 1))
    const second = events.watch('j1')
    events.state(makeJob('SUCCEEDED', 2))
    expect((await drain(second)).map(short)).toEqual(['SUCCEEDED 2'])
    expect((await drain(first)).map(short)).toEqual(['0 ', 'SUCCEEDED 2'])
  })

  it('ends a waiting next() on return(), and forgets the reader', async () => {
    const events = jobEvents()
    const stream = events.watch('j1')
    const waiting = stream.next()
    await stream.return?.()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(await stream.next()).toEqual({ done: true, value: undefined })
    expect(events.readerCount()).toBe(0)
  })

  it('ends all streams when the server stops', async () => {
    const events = jobEvents()
    const reading = [drain(events.watch('j1')), drain(events.watchAll('t1'))]
    events.close()
    expect(await Promise.all(reading)).toEqual([[], []])
    expect(await drain(events.watch('j2'))).toEqual([])
  })

  it('keeps a thousand readers that never read in bounded memory', () => {
    const events = jobEvents()
    const streams = Array.from({ length: 1000 }, () => events.watch('j1'))
    const lists = Array.from({ length: 1000 }, () => events.watchAll('t1'))
    collectGarbage()
    const before = process.memoryUsage().heapUsed
    for (let i = 1; i <= 20_000; i++) events.progress(makeJob('RUNNING', i))
    for (let i = 0; i < 5_000; i++) events.delta(delta(i, 'a token'))
    for (let i = 0; i < 2_000; i++) events.state(makeJob('RUNNING', 0, `other ${i}`))
    collectGarbage()
    const grown = process.memoryUsage().heapUsed - before
    // One shared log of 5,000 deltas, and 1,000 lists of at most 256 references.
    expect(grown).toBeLessThan(100e6)
    expect(streams.length + lists.length).toBe(events.readerCount())
  })

  it('gives readers who come later all from the start, in joined pieces of bounded size, until the job ends', async () => {
    const events = jobEvents()
    // Nobody watches yet.
    for (let i = 0; i < 1200; i++) events.delta(delta(i))
    const first = events.watch('j1', 'start')
    await first.return?.()
    const late = events.watch('j1', 'start')
    const pieces: number[][] = []
    for (let i = 0; i < 3; i++) pieces.push((await late.next()).value.tokenIds)
    expect(pieces.flat()).toEqual(Array.from({ length: 1200 }, (_, i) => i))
    expect(Math.max(...pieces.map(p => p.length))).toBe(512)
    events.state(makeJob('SUCCEEDED', 1))
    expect((await drain(late)).map(short)).toEqual(['SUCCEEDED 1'])
    const gone = events.watch('j1', 'start')
    const next = gone.next()
    await gone.return?.()
    expect((await next).done).toBe(true)
    expect(events.readerCount()).toBe(0)
  })
})

describe('watchAll', () => {
  it('gives the changes of one tenant, the newest of each job', async () => {
    const events = jobEvents()
    const stream = events.watchAll('t1')
    events.state(makeJob('RUNNING', 0, 'a'))
    events.state(makeJob('RUNNING', 0, 'b'))
    events.state(makeJob('RUNNING', 0, 'foreign', 't2'))
    events.state(makeJob('SUCCEEDED', 0, 'a'))
    const ids = [(await stream.next()).value, (await stream.next()).value].map(j => `${j.id} ${j.state}`)
    expect(ids).toEqual(['b RUNNING', 'a SUCCEEDED'])
  })

  it('loses the oldest for a reader that is too far behind', async () => {
    const events = jobEvents()
    const stream = events.watchAll('t1')
    for (let i = 0; i < watchAllCapacity + 10; i++) events.state(makeJob('RUNNING', 0, `job ${i}`))
    expect((await stream.next()).value.id).toBe('job 10')
  })
})
