// Shows a job's progress live from its subscription: a bar on a terminal, plain lines in a pipe.
import cliProgress from 'cli-progress'
import { quantity } from '../quantity.js'
import { type PlatformClient, PlatformError } from './platform-client.js'

export { quantity }

export interface WatchedJob {
  id: string
  type: string
  state: 'QUEUED' | 'RUNNING' | 'SUCCEEDED' | 'FAILED' | 'CANCELLED'
  progress: {
    stage: string
    completed: number
    total: number | null
    unit: string
    ratePerSecond: number | null
    etaSeconds: number | null
    metrics: Record<string, number | string> | null
    sequence: number
  } | null
  error: { code: string; message: string } | null
  output: unknown
  durationMs: number | null
  model: { id: string; name: string } | null
}

export const jobProgressDocument = `subscription JobProgress($id: ID!) {
  jobProgress(id: $id) {
    id type state output durationMs
    progress { stage completed total unit ratePerSecond etaSeconds metrics sequence }
    error { code message }
    model { id name }
  }
}`

/** 75 -> `1 min 15 s` */
export function duration(seconds: number): string {
  const whole = Math.ceil(seconds)
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`
}

/** How long something took: `12 ms`, `37.1 s`, `1 min 52 s`. */
export function took(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`
  return milliseconds < 59_950 ? `${(milliseconds / 1000).toFixed(1)} s` : duration(Math.round(milliseconds / 1000))
}

function describe(job: WatchedJob): string {
  const p = job.progress
  if (!p) return job.state.toLowerCase()
  // A share of a pass may stand for tokens: what is counted is shown as whole numbers.
  const [completed, total] =
    p.unit === 'seconds' ? [p.completed, p.total] : [Math.round(p.completed), p.total && Math.round(p.total)]
  const parts = [total ? `${quantity(completed)} of ${quantity(total, p.unit)}` : quantity(completed, p.unit)]
  // Seconds of a budget pass as they do.
  if (p.ratePerSecond && p.unit !== 'seconds') parts.push(`${quantity(p.ratePerSecond, p.unit)}/s`)
  if (p.etaSeconds) parts.push(`${duration(p.etaSeconds)} left`)
  parts.push(...lossesOf(p.metrics ?? {}))
  const reused = Number(p.metrics?.samplesReused ?? 0)
  if (reused > 0) parts.push(`${quantity(reused, 'samples')} measured before`)
  return parts.join(', ')
}

/** `loss 2.65, held-out 0.365, learning rate 2e-4, gradient 1.21` of a job that trains. */
function lossesOf(metrics: Record<string, number | string>): string[] {
  const shown = { loss: 'loss', heldOutLoss: 'held-out', learningRate: 'learning rate', gradientNorm: 'gradient' }
  return Object.entries(shown).flatMap(([key, word]) => {
    const value = metrics[key]
    return typeof value === 'number' ? [`${word} ${Number(value.toPrecision(3))}`] : []
  })
}

export interface ProgressView {
  show(job: WatchedJob): void
  /** Leaves the terminal as it was; what is shown afterwards is dropped. May be called again. */
  end(): void
}

/** Said of a job that no worker has taken yet. */
const waiting = 'waiting for a worker'
/** Most jobs are taken at once. */
const patienceMs = 2000

/** A live bar where `stream` is a terminal; otherwise a line per stage and one every two seconds. */
export function progressView(label: string, stream: NodeJS.WriteStream = process.stderr): ProgressView {
  if (!stream.isTTY) {
    let last = { stage: '', at: 0 }
    let patience: NodeJS.Timeout | undefined
    return {
      show(job) {
        const stage = job.progress?.stage ?? ''
        if (job.state === 'QUEUED') patience ??= setTimeout(() => stream.write(`${label}: ${waiting}\n`), patienceMs)
        else {
          clearTimeout(patience)
          patience = undefined
        }
        if (!job.progress || (stage === last.stage && Date.now() - last.at < 2000)) return
        last = { stage, at: Date.now() }
        stream.write(`${label}: ${stage} ${describe(job)}\n`)
      },
      end() {
        clearTimeout(patience)
      },
    }
  }
  const bar = new cliProgress.SingleBar(
    {
      format: '{label} [{bar}] {percentage}% {stage} {text}',
      hideCursor: true,
      clearOnComplete: true,
      // Who interrupts also has something to say, after the bar: the caller ends the view.
      gracefulExit: false,
      stream,
      fps: 12,
    },
    cliProgress.Presets.shades_classic,
  )
  bar.start(1, 0, { label, stage: '', text: '' })
  let ended = false
  const end = () => {
    if (ended) return
    ended = true
    process.off('exit', end)
    bar.stop()
  }
  // The bar hides the cursor and turns line wrapping off.
  process.once('exit', end)
  return {
    show(job) {
      const p = job.progress
      if (ended) return
      if (!p) return bar.update(0, { label, stage: job.state === 'QUEUED' ? waiting : '', text: '' })
      bar.setTotal(p.total ?? Math.max(1, p.completed))
      bar.update(p.completed, { label, stage: p.stage, text: describe(job) })
    },
    end,
  }
}

/**
 * Follows a job to its end.
 * @throws PlatformError with the job's own error code where it FAILED or was CANCELLED
 */
export async function watchJob(
  client: PlatformClient,
  jobId: string,
  label: string,
  view?: ProgressView,
): Promise<WatchedJob> {
  const shown = view ?? progressView(label)
  let last: WatchedJob | undefined
  try {
    for await (const job of client.subscribe<WatchedJob>(jobProgressDocument, { id: jobId })) {
      last = job
      shown.show(job)
    }
  } finally {
    shown.end()
  }
  if (last?.state === 'SUCCEEDED') return last
  if (!last) throw new PlatformError(`No job has the id ${jobId}`, 'NOT_FOUND')
  throw new PlatformError(last.error?.message ?? `The job ended ${last.state}`, last.error?.code ?? last.state)
}
