import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { progressIntervalMs, progressMeter, rateMeter } from '../../../../compute/pool/progress.js'
import type { JobProgress } from '../../../../compute/pool/queue.js'

describe('progressMeter', () => {
  let events: JobProgress[]
  const emit = (p: JobProgress) => {
    events.push(p)
  }
  beforeEach(() => {
    events = []
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  })
  afterEach(() => vi.useRealTimers())

  it('lets at most ten events a second through', () => {
    const meter = progressMeter(0, emit)
    for (let ms = 0; ms < 2000; ms++) {
      meter.report({ stage: 's', completed: ms, unit: 'bytes' })
      vi.advanceTimersByTime(1)
    }
    expect(events.length).toBeGreaterThanOrEqual(19)
    expect(events.length).toBeLessThanOrEqual(21)
  })

  it('emits the last report by itself after the interval', () => {
    const meter = progressMeter(0, emit)
    meter.report({ stage: 's', completed: 1, unit: 'bytes' })
    meter.report({ stage: 's', completed: 2, unit: 'bytes' })
    expect(events.at(-1)?.completed).toBe(1)
    vi.advanceTimersByTime(progressIntervalMs)
    expect(events.at(-1)?.completed).toBe(2)
  })

  it('never loses the last report, and emits nothing after the end', () => {
    const meter = progressMeter(0, emit)
    for (let i = 1; i <= 50; i++) meter.report({ stage: 's', completed: i, unit: 'bytes' })
    meter.finish()
    meter.report({ stage: 's', completed: 99, unit: 'bytes' })
    vi.advanceTimersByTime(1000)
    expect(events.map(e => e.completed)).toEqual([1, 50])
  })

  it('keeps the last word of a stage that another follows at once', () => {
    const meter = progressMeter(0, emit)
    meter.report({ stage: 'read', completed: 1, total: 2, unit: 'tensors' })
    meter.report({ stage: 'read', completed: 2, total: 2, unit: 'tensors' })
    meter.report({ stage: 'write', completed: 0, unit: 'tensors' })
    meter.finish()
    expect(events.map(e => [e.stage, e.completed])).toEqual([
      ['read', 1],
      ['read', 2],
      ['write', 0],
    ])
  })

  it('goes on from the sequence of the attempt before', () => {
    const meter = progressMeter(41, emit)
    meter.report({ stage: 's', completed: 1, unit: 'bytes' })
    vi.advanceTimersByTime(200)
    meter.report({ stage: 's', completed: 2, unit: 'bytes' })
    expect(events.map(e => e.sequence)).toEqual([42, 43])
  })

  it('gives rate and time left of even work', () => {
    const meter = progressMeter(0, emit)
    for (let i = 0; i <= 40; i++) {
      meter.report({ stage: 's', completed: i * 10, total: 1000, unit: 'bytes' })
      vi.advanceTimersByTime(100)
    }
    expect(events.at(-1)?.ratePerSecond).toBeCloseTo(100, 6)
    expect(events.at(-1)?.etaSeconds).toBeCloseTo(6, 6)
  })

  it('says nothing on rate before it knows, nor on time left without a total', () => {
    const meter = progressMeter(0, emit)
    meter.report({ stage: 's', completed: 5, unit: 'bytes' })
    expect(events[0]).toMatchObject({ ratePerSecond: null, etaSeconds: null, total: null, metrics: null })
  })
})

describe('rateMeter', () => {
  it('follows a change of speed within some seconds: after 3 s, 1 - 1/e of the way', () => {
    const meter = rateMeter()
    for (let i = 0; i <= 100; i++) meter.add(i * 10, i / 10)
    for (let i = 1; i <= 30; i++) meter.add(1000 + i * 20, 10 + i / 10)
    expect(meter.rate()).toBeCloseTo(100 + 100 * (1 - Math.exp(-1)), 6)
  })
  it('starts over when the count goes back', () => {
    const meter = rateMeter()
    meter.add(0, 0)
    meter.add(100, 1)
    meter.add(0, 2)
    meter.add(100, 3)
    expect(meter.rate()).toBeCloseTo(100, 6)
  })
})
