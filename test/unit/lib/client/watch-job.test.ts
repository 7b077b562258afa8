// Quantities as people read them.
import { PassThrough } from 'node:stream'
import { afterEach, expect, test, vi } from 'vitest'
import { duration, progressView, quantity, took, type WatchedJob } from '../../../../lib/client/watch-job.js'

afterEach(() => vi.useRealTimers())

test.each([
  [0, 'bytes', '0 B'],
  [999, 'bytes', '999 B'],
  [1000, 'bytes', '1.00 kB'],
  [98_362_432, 'bytes', '98.4 MB'],
  [134_515_008, '', '135 M'],
  [1_234_567, 'tokens', '1.23 M tokens'],
  [12.34, 'samples', '12.3 samples'],
  [2e15, 'bytes', '2000 TB'],
])('%d %s is written %s', (value, unit, text) => {
  expect(quantity(value, unit)).toBe(text)
})

test.each([
  [0.2, '1 s'],
  [59.4, '1 min 0 s'],
  [779.7, '13 min 0 s'],
  [75, '1 min 15 s'],
])('%d s are written %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text)
})

test.each([
  [12.3, '12 ms'],
  [3400, '3.4 s'],
  [59_960, '1 min 0 s'],
  [112_081, '1 min 52 s'],
])('what took %d ms took %s', (milliseconds, text) => {
  expect(took(milliseconds)).toBe(text)
})

test('what is counted is shown as whole numbers', () => {
  const stream = Object.assign(new PassThrough(), { isTTY: false })
  const progress = { stage: 'search', completed: 2.3, total: 80.4, unit: 'tokens', ratePerSecond: null }
  const job = { id: 'j', type: 'STUDENTS_PROPOSE', state: 'RUNNING', error: null, output: null, durationMs: null }
  const view = progressView('a', stream as unknown as NodeJS.WriteStream)
  view.show({
    ...job,
    progress: { ...progress, etaSeconds: null, metrics: null, sequence: 1 },
    model: null,
  } as WatchedJob)
  view.end()
  expect(String(stream.read())).toBe('a: search 2 of 80 tokens\n')
})

test.each([
  ['seconds', 'a: search 2 of 20 seconds, 18 s left\n'],
  ['steps', 'a: search 2 of 20 steps, 1 steps/s, 18 s left\n'],
])('a budget of seconds has no rate: %s', (unit, expected) => {
  const stream = Object.assign(new PassThrough(), { isTTY: false })
  const progress = { stage: 'search', completed: 2, total: 20, unit, ratePerSecond: 1, etaSeconds: 18, metrics: null }
  const job = { id: 'j', type: 'STUDENT_PROPOSAL', state: 'RUNNING', progress: { ...progress, sequence: 1 } }
  const view = progressView('a', stream as unknown as NodeJS.WriteStream)
  view.show({ ...job, error: null, output: null, durationMs: null, model: null } as WatchedJob)
  view.end()
  expect(String(stream.read())).toBe(expected)
})

test('what an analysis found measured already is said', () => {
  const stream = Object.assign(new PassThrough(), { isTTY: false })
  const view = progressView('a', stream as unknown as NodeJS.WriteStream)
  const show = (stage: string, metrics: Record<string, number>) => {
    const progress = { stage, completed: 8, total: 20, unit: 'samples', ratePerSecond: 2, etaSeconds: 6, metrics }
    view.show({
      id: 'j',
      type: 'CAPABILITY_ANALYSIS',
      state: 'RUNNING',
      progress: { ...progress, sequence: 1 },
    } as never)
    return String(stream.read())
  }
  expect(show('heads', { samplesReused: 7 })).toMatch(/6 s left, 7 samples measured before\n$/)
  expect(show('layers', { samplesReused: 0 })).toMatch(/6 s left\n$/)
})

test('training says its losses, its learning rate and the length of its gradient', () => {
  const stream = Object.assign(new PassThrough(), { isTTY: false })
  const view = progressView('a', stream as unknown as NodeJS.WriteStream)
  const metrics = { loss: 2.6543, heldOutLoss: 0.36512, learningRate: 0.0002, gradientNorm: 12.345, tokensPerSecond: 9 }
  const progress = { stage: 'heal', completed: 8, total: 20, unit: 'steps', ratePerSecond: 2, etaSeconds: 6, metrics }
  view.show({ id: 'j', type: 'STUDENT_BUILD', state: 'RUNNING', progress: { ...progress, sequence: 1 } } as never)
  expect(String(stream.read())).toBe(
    'a: heal 8 of 20 steps, 2 steps/s, 6 s left, loss 2.65, held-out 0.365, learning rate 0.0002, gradient 12.3\n',
  )
})

test('a job that no worker takes is said to wait, one that is taken at once is not', () => {
  vi.useFakeTimers()
  const stream = Object.assign(new PassThrough(), { isTTY: false })
  const said = () => String(stream.read() ?? '')
  const job = (state: WatchedJob['state']): WatchedJob => ({
    ...{
      id: 'j',
      type: 'MODEL_EXPORT',
      state,
      progress: null,
      error: null,
      output: null,
      durationMs: null,
      model: null,
    },
  })
  const taken = progressView('taken', stream as unknown as NodeJS.WriteStream)
  taken.show(job('QUEUED'))
  taken.show(job('RUNNING'))
  const queued = progressView('queued', stream as unknown as NodeJS.WriteStream)
  queued.show(job('QUEUED'))
  vi.advanceTimersByTime(5000)
  expect(said()).toBe('queued: waiting for a worker\n')
  queued.end()
})
