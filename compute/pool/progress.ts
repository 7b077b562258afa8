// Turns a handler's reports into progress events: throttled, with rate and time left, numbered.
import type { JobProgress } from './queue.js'

export interface ProgressReport {
  stage: string
  completed: number
  total?: number
  /** What `completed` counts: `bytes`, `tensors`, `samples`, `tokens` … */
  unit: string
  metrics?: Record<string, number | string>
}

/** At most ten events a second per job. */
export const progressIntervalMs = 100
/** Time constant of the rate's exponential smoothing, in seconds: long enough to be readable, short enough to follow. */
const smoothingSeconds = 3

export interface ProgressMeter {
  /** Cheap: keeps the report, and emits at most every `progressIntervalMs`. */
  report(report: ProgressReport): void
  /** Emits the last report if it has not been emitted yet; nothing is emitted afterwards. */
  finish(): void
}

/**
 * @param sequence number of the job's last event so far (over attempts): the first emitted one is greater by one
 * @param emit receives every event; the last report always becomes one
 * @param clock monotonic milliseconds
 */
export function progressMeter(
  sequence: number,
  emit: (progress: JobProgress) => void,
  clock: () => number = () => performance.now(),
): ProgressMeter {
  let pending: ProgressReport | undefined
  let timer: NodeJS.Timeout | undefined
  let emittedAt = Number.NEGATIVE_INFINITY
  let finished = false
  let rate = rateMeter()

  function flush() {
    clearTimeout(timer)
    timer = undefined
    if (!pending) return
    const { stage, completed, total = null, unit, metrics = null } = pending
    pending = undefined
    emittedAt = clock()
    const ratePerSecond = rate.rate()
    const left = total === null ? null : Math.max(0, total - completed)
    const etaSeconds = left === null ? null : left === 0 ? 0 : ratePerSecond ? left / ratePerSecond : null
    emit({ stage, completed, total, unit, ratePerSecond, etaSeconds, metrics, sequence: ++sequence })
  }

  let stage: string | undefined
  return {
    report(report) {
      if (finished) return
      // A stage counts its own things: its rate says nothing about the next one's. Its last word is not lost to the throttle.
      if (report.stage !== stage) {
        if (pending) flush()
        rate = rateMeter()
        stage = report.stage
      }
      const now = clock()
      rate.add(report.completed, now / 1000)
      pending = report
      const wait = emittedAt + progressIntervalMs - now
      if (wait <= 0) flush()
      else timer ??= setTimeout(flush, wait)
    },
    finish() {
      flush()
      finished = true
    },
  }
}

/** Units per second, smoothed exponentially over time; null until two reports lie apart in time. */
export function rateMeter() {
  let smoothed: number | null = null
  let last: { completed: number; seconds: number } | undefined
  return {
    add(completed: number, seconds: number) {
      if (!last || completed < last.completed) {
        last = { completed, seconds }
        return
      }
      const elapsed = seconds - last.seconds
      // Bursts of reports are taken together: a rate over microseconds is noise.
      if (elapsed < 0.05) return
      const now = (completed - last.completed) / elapsed
      const weight = 1 - Math.exp(-elapsed / smoothingSeconds)
      smoothed = smoothed === null ? now : smoothed + weight * (now - smoothed)
      last = { completed, seconds }
    },
    rate: () => smoothed,
  }
}
