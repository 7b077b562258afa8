// A worker process: runs the jobs its parent sends, reports progress and results. Never opens the database.
import { setPriority } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { DomainError } from '../lib/errors.js'
import { makeLogger } from '../lib/log.js'
import { compiledFile } from '../lib/project.js'
import { openFilePayloadStore } from '../payloads/file-payload-store.js'
import type { Handler, HandlerContext } from './handlers/handler.js'
import { handlers } from './handlers/index.js'
import { toFailure } from './pool/failure.js'
import { type JobName, jobTypes } from './pool/job-types.js'
import type { FromWorker, ToWorker } from './pool/messages.js'
import { progressMeter } from './pool/progress.js'
import { withFlopCounter } from './runtime/count-flops.js'

/** Reasons a job's signal fires with. */
const cancelled = new DomainError('CANCELLED', 'The job was cancelled')
const interrupted = new DomainError('WORKER_LOST', 'The worker was asked to end', { retryable: true })

/** How long an ending worker waits for its jobs to let go, in milliseconds. */
const letGoMs = 500

let log = makeLogger('worker')
const running = new Map<string, AbortController>()

/** Resolves when the parent's end of the pipe has the message; a parent that is gone is noticed by `disconnect`. */
const send = (message: FromWorker) =>
  new Promise<void>(resolve => {
    if (process.connected) process.send?.(message, undefined, undefined, () => resolve())
    else resolve()
  })

process.on('disconnect', () => process.exit(0))
// Ctrl-C reaches the whole terminal group: the parent decides what becomes of running jobs.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => void stop())
for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(event, error => {
    log.fatal({ err: error }, `worker ends: ${event}`)
    process.exit(1)
  })
}
process.on('message', (message: ToWorker) => {
  if (message.kind === 'begin') return void begin(message)
  if (message.kind === 'stop') return void stop()
  if (message.kind === 'cancel') return running.get(message.jobId)?.abort(cancelled)
})

async function begin({ env, lane, device }: Extract<ToWorker, { kind: 'begin' }>) {
  log = makeLogger(`worker ${lane}`, env.LOG_LEVEL)
  // Computation of minutes yields to the API and to answers somebody waits for.
  if (lane !== 'interactive') setPriority(5)
  new Worker(compiledFile('compute/pool/parent-watch.js'), { workerData: Number(process.argv[2]) }).unref()
  if (device) {
    const { useDevice } = await import('./runtime/providers.js')
    useDevice(device)
  }
  if (device && env.HARTONOMOUS_SESSION_BYTES > 0) {
    const { sessionPool } = await import('./runtime/session-pool.js')
    sessionPool.budget = env.HARTONOMOUS_SESSION_BYTES
  }
  const payloads = await openFilePayloadStore(join(env.HARTONOMOUS_DATA, 'payloads'))
  process.on('message', (message: ToWorker) => {
    if (message.kind !== 'run') return
    const { jobId, type, input, sequence } = message
    const context = { jobId, payloads, dataFolder: env.HARTONOMOUS_DATA, env, log: log.child({ jobId, type }) }
    void runJob(type, input, sequence, context)
  })
  setInterval(() => void send({ kind: 'heartbeat' }), 1000)
  await send({ kind: 'ready' })
}

type Given = Omit<HandlerContext, 'signal' | 'progress' | 'delta'>

async function runJob(type: JobName, input: unknown, sequence: number, given: Given) {
  const { jobId } = given
  const abort = new AbortController()
  running.set(jobId, abort)
  const counter = { flops: 0 }
  const meter = progressMeter(
    sequence,
    progress => void send({ kind: 'progress', jobId, progress, flops: counter.flops }),
  )
  const context: HandlerContext = {
    ...given,
    signal: abort.signal,
    progress: report => meter.report(report),
    delta: event => void send({ kind: 'delta', jobId, ...event }),
  }
  const result = await withFlopCounter(counter, () => attempt(type, input, context))
  meter.finish()
  await send({ ...result, flops: counter.flops })
  running.delete(jobId)
}

type Ended = Extract<FromWorker, { kind: 'succeeded' | 'failed' | 'interrupted' }>

async function attempt(type: JobName, input: unknown, context: HandlerContext): Promise<Ended> {
  const { jobId, signal, log } = context
  try {
    const handler = (await handlers[type]()) as Handler<JobName>
    const output = await handler(jobTypes[type].input.parse(input) as never, context)
    return { kind: 'succeeded', jobId, output: jobTypes[type].output.parse(output) }
  } catch (error) {
    if (signal.reason === interrupted) return { kind: 'interrupted', jobId }
    if (signal.reason === cancelled) return { kind: 'failed', jobId, error: toFailure(cancelled) }
    const failure = toFailure(error)
    if (failure.code === 'INTERNAL_SERVER_ERROR') log.error({ err: error }, 'job ended with a bug')
    return { kind: 'failed', jobId, error: failure }
  }
}

/** Lets go of all jobs, reports them and exits. */
async function stop() {
  for (const abort of running.values()) abort.abort(interrupted)
  const deadline = performance.now() + letGoMs
  while (running.size > 0 && performance.now() < deadline) await sleep(10)
  await Promise.all([...running.keys()].map(jobId => send({ kind: 'interrupted', jobId })))
  process.exit(0)
}
