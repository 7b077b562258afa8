// The queue of the embedded platform: claims jobs from the store and runs them in child processes on this machine.
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Env } from '../../lib/env.js'
import { isDomainError } from '../../lib/errors.js'
import type { Logger } from '../../lib/log.js'
import { compiledFile } from '../../lib/project.js'
import { chosenDevices, offeredDevices, type PoolDevice, probeDevices } from './devices.js'
import { jobEvents } from './events.js'
import type { JobName, Lane } from './job-types.js'
import type { FromWorker } from './messages.js'
import type { DeviceRecord, JobQueue, JobRecord, JobStore } from './queue.js'
import { startWorker, type WorkerProcess } from './worker-process.js'

/** Jobs one worker of the lane runs at once: devices are exclusive, generations are one batch on a loaded model, io waits for disks and networks. */
export const laneConcurrency: Record<Lane, number> = { device: 1, interactive: 16, io: 2 }

/** How often the store is looked at for jobs and cancellations of other processes; own ones come by wake() at once. */
const pollMs = 250
/** Time a worker has to let go of a cancelled job before it is killed. */
const cancelGraceMs = 500
/** Jobs whose figures are compared and kept: not on devices whose losses are known to deviate (docs/devices.md). */
const measuringJobs: readonly JobName[] = ['capability.analyze', 'students.propose']
const isNoMeasuring = (type: JobName) => !measuringJobs.includes(type)
/** How often rows are told what their running jobs have used so far: so much of a job is lost with a server that is killed. */
const usualChargeMs = 30_000
/** How long a device that was lost gets no jobs, where there are others. */
const restMs = 60_000
/** Pauses of a lane after its worker failed to start, or after the store failed: doubled each time. */
const backOffMs = { first: 500, last: 30_000 }

export interface EmbeddedQueueOptions {
  store: JobStore
  env: Env
  log: Logger
  /** The worker's compiled entry. */
  workerFile?: string
  /** Milliseconds between two charges of a running job. */
  chargeMs?: number
}

/** A worker and what runs in it. */
interface Slot {
  worker: Promise<WorkerProcess>
  lane: Lane
  deviceId: string
  pid: number | undefined
  jobs: Map<string, Running>
  /** Ends with its only job: see `slotFor`. */
  single: boolean
  /** The job whose cancellation killed the worker: the others in it are innocent. */
  killedFor: string | undefined
}

interface Running {
  job: JobRecord
  slot: Slot
  startedAt: number
  cancelled: boolean
  /** Whether the worker has been told to run it. */
  sent: boolean
  killTimer: NodeJS.Timeout | undefined
  /** Operations in this attempt, as the worker said last. */
  flops: number
  /** What of this attempt the row has already, and the charge that is being written. */
  charged: { seconds: number; flops: number }
  charging: Promise<void> | undefined
  ended: Promise<void>
  end: () => void
}

/** How far an attempt came, and what it used since it was charged last. */
type Spent = [progress: JobRecord['progress'], deviceSeconds: number, flops: number]

interface LaneState {
  lane: Lane
  /** null: jobs that need none. */
  device: PoolDevice | null
  deviceId: string
  /** Which jobs it takes; absent: all of its lane. */
  types: ((type: JobName) => boolean) | undefined
  shared: Slot | undefined
  running: Set<string>
  /** The claim loop under way. */
  pumping: Promise<void> | undefined
  /** Somebody woke the lane meanwhile. */
  again: boolean
  claimFailures: number
  startFailures: number
  pausedUntil: number
}

export function embeddedQueue({
  store,
  env,
  log,
  workerFile = compiledFile('compute/worker.js'),
  chargeMs = usualChargeMs,
}: EmbeddedQueueOptions): JobQueue {
  const events = jobEvents()
  let devices: PoolDevice[] = []
  const running = new Map<string, Running>()
  const slots = new Set<Slot>()
  const makeLane = (lane: Lane, device: PoolDevice | null, types?: LaneState['types']): LaneState => ({
    lane,
    device,
    deviceId: device?.id ?? lane,
    types,
    shared: undefined,
    running: new Set(),
    pumping: undefined,
    again: false,
    claimFailures: 0,
    startFailures: 0,
    pausedUntil: 0,
  })
  const lanes = [makeLane('io', null)]
  let poll: NodeJS.Timeout | undefined
  let charges: NodeJS.Timeout | undefined
  let started = false
  let stopping = false
  let stopped: Promise<void> | undefined

  // ---- claiming

  /** Fills the lane's free places. One claim at a time per lane; a wake during one is not lost. */
  function pump(state: LaneState): Promise<void> {
    state.again = true
    state.pumping ??= claimAll(state).finally(() => {
      state.pumping = undefined
    })
    return state.pumping
  }

  const mayClaim = (state: LaneState) =>
    started && !stopping && state.running.size < laneConcurrency[state.lane] && performance.now() >= state.pausedUntil

  async function claimAll(state: LaneState): Promise<void> {
    try {
      while (state.again) {
        state.again = false
        while (mayClaim(state)) {
          const job = await store.claim(state.lane, state.deviceId, state.types)
          state.claimFailures = 0
          if (!job) break
          if (stopping && job.state === 'RUNNING') {
            await store.requeue(job.id, null, 0)
            return
          }
          events.state(job)
          if (job.state === 'RUNNING') dispatch(state, job)
        }
      }
    } catch (error) {
      backOff(state, state.claimFailures++)
      log.error({ err: error, lane: state.lane }, 'could not claim a job')
    }
  }

  const wake = () => {
    for (const state of lanes) void pump(state)
  }

  function backOff(state: LaneState, failures: number) {
    state.pausedUntil = performance.now() + Math.min(backOffMs.last, backOffMs.first * 2 ** failures)
  }

  // ---- workers

  /**
   * The lane's worker, started when first needed and kept warm. A job that was lost before gets one of its own: if it is
   * what kills workers, it takes nobody with it.
   */
  function slotFor(state: LaneState, job: JobRecord): Slot {
    const single = job.attempts > 1
    if (!single && state.shared) return state.shared
    const slot: Slot = {
      lane: state.lane,
      deviceId: state.deviceId,
      pid: undefined,
      jobs: new Map(),
      single,
      killedFor: undefined,
      worker: startWorker(workerFile, state.lane, state.device, env, message => onMessage(slot, message)),
    }
    slots.add(slot)
    if (!single) state.shared = slot
    slot.worker.then(
      worker => {
        slot.pid = worker.pid
        state.startFailures = 0
        log.info({ lane: state.lane, pid: worker.pid }, 'worker started')
        void worker.exited.then(how => onExit(slot, `The ${state.lane} worker (pid ${worker.pid}) ended: ${how}`))
      },
      (error: Error) => {
        backOff(state, state.startFailures++)
        onExit(slot, error.message)
      },
    )
    return slot
  }

  function dispatch(state: LaneState, job: JobRecord) {
    const slot = slotFor(state, job)
    let end = () => {}
    const ended = new Promise<void>(resolve => {
      end = resolve
    })
    const run: Running = {
      job,
      slot,
      startedAt: performance.now(),
      cancelled: false,
      sent: false,
      killTimer: undefined,
      flops: 0,
      charged: { seconds: 0, flops: 0 },
      charging: undefined,
      ended,
      end,
    }
    running.set(job.id, run)
    state.running.add(job.id)
    slot.jobs.set(job.id, run)
    void ended.then(() => {
      state.running.delete(job.id)
      void pump(state)
    })
    const { id: jobId, type, input } = job
    slot.worker.then(
      worker => {
        run.sent = slot.jobs.has(jobId)
        if (run.sent) worker.send({ kind: 'run', jobId, type, input, sequence: job.progress?.sequence ?? 0 })
      },
      () => {},
    )
    if (job.cancelRequested) stopRun(run)
  }

  function onMessage(slot: Slot, message: FromWorker) {
    const run = 'jobId' in message ? slot.jobs.get(message.jobId) : undefined
    if (!run) return
    const { job } = run
    if ('flops' in message) run.flops = message.flops ?? run.flops
    switch (message.kind) {
      case 'progress':
        run.job = { ...job, progress: message.progress }
        return events.progress(run.job)
      case 'delta':
        return events.delta(message)
      case 'succeeded':
        return void finish(run, (...spent) => store.succeed(job.id, message.output, ...spent))
      case 'failed':
        if (message.error.code === 'DEVICE_LOST' || message.error.code === 'DEVICE_UNAVAILABLE') abandon(slot)
        return void finish(run, (...spent) => store.fail(job.id, message.error, ...spent))
      case 'interrupted':
        retire(slot)
        return void finish(run, (...spent) => store.requeue(job.id, ...spent))
    }
  }

  /**
   * The device of the worker computes no more in this process: what else runs there goes back to the queue, and the device rests, for
   * long where another one can take the jobs meanwhile.
   */
  function abandon(slot: Slot) {
    const lane = lanes.find(state => state.lane === slot.lane && state.deviceId === slot.deviceId)
    retire(slot)
    for (const state of lanes) {
      if (state.deviceId !== slot.deviceId) continue
      if (lanes.filter(own => own.lane === 'interactive').length > 1) state.pausedUntil = performance.now() + restMs
      else backOff(state, (lane ?? state).startFailures++)
    }
    void slot.worker.then(
      worker => worker.send({ kind: 'stop' }),
      () => {},
    )
  }

  /** The worker is about to end: it gets no further jobs. */
  function retire(slot: Slot) {
    for (const state of lanes) if (state.shared === slot) state.shared = undefined
  }

  function onExit(slot: Slot, how: string) {
    slots.delete(slot)
    retire(slot)
    if (slot.jobs.size === 0) return
    log.warn({ jobs: [...slot.jobs.keys()] }, how)
    for (const run of slot.jobs.values()) {
      const error = { code: 'WORKER_LOST', message: how, retryable: true }
      const innocent = stopping || (slot.killedFor !== undefined && slot.killedFor !== run.job.id)
      void finish(run, (...spent) =>
        innocent ? store.requeue(run.job.id, ...spent) : store.fail(run.job.id, error, ...spent),
      )
    }
  }

  // ---- costs

  /** Device seconds and operations that the row does not have yet. */
  const unpaid = ({ slot, startedAt, flops, charged }: Running, now = performance.now()) => ({
    seconds: slot.lane === 'io' ? 0 : (now - startedAt) / 1000 - charged.seconds,
    flops: flops - charged.flops,
  })

  /** Tells the row what the attempt has used so far. What could not be written is in the next charge, or in the last. */
  async function charge(run: Running) {
    const { seconds, flops } = unpaid(run)
    try {
      const { cost, flops: total, units } = await store.charge(run.job.id, seconds, flops)
      run.charged = { seconds: run.charged.seconds + seconds, flops: run.charged.flops + flops }
      run.job = { ...run.job, cost, flops: total, units }
    } catch (error) {
      log.warn({ err: error, jobId: run.job.id }, 'could not record what a job has cost so far')
    }
  }

  function chargeAll() {
    for (const run of running.values()) {
      if (run.slot.lane === 'io' || !run.slot.jobs.has(run.job.id)) continue
      run.charging ??= charge(run).finally(() => {
        run.charging = undefined
      })
    }
  }

  // ---- ends

  /** Writes how the run ended; a store that fails (disk full) is asked again, since a job must end. */
  async function finish(run: Running, write: (...spent: Spent) => Promise<JobRecord>): Promise<void> {
    const { slot, job } = run
    if (!slot.jobs.delete(job.id)) return
    clearTimeout(run.killTimer)
    if (slot.single)
      void slot.worker.then(
        worker => worker.send({ kind: 'stop' }),
        () => {},
      )
    const endedAt = performance.now()
    await run.charging
    const { seconds, flops } = unpaid(run, endedAt)
    for (let pause = backOffMs.first; ; pause = Math.min(backOffMs.last, pause * 2)) {
      try {
        const { progress } = run.job
        const after = await (run.cancelled
          ? store.cancel(job.id, progress, seconds, flops)
          : write(progress, seconds, flops))
        running.delete(job.id)
        events.state(after)
        break
      } catch (error) {
        log.error({ err: error, jobId: job.id }, 'could not record how a job ended')
        // Already ended, or gone: nothing to record. While stopping, the next start recovers it.
        if (isDomainError(error) || stopping) {
          running.delete(job.id)
          break
        }
        await sleep(pause)
      }
    }
    run.end()
  }

  /** Tells the worker to let go of the job, and kills it if it does not. */
  function stopRun(run: Running) {
    const { slot, job } = run
    // Its end is being written already.
    if (run.cancelled || !slot.jobs.has(job.id)) return
    run.cancelled = true
    if (!run.sent) return void finish(run, (...spent) => store.cancel(job.id, ...spent))
    run.killTimer = setTimeout(() => {
      log.warn({ jobId: job.id, pid: slot.pid }, 'worker did not let go of a cancelled job: killed')
      slot.killedFor = job.id
      retire(slot)
      void slot.worker.then(
        worker => worker.kill(),
        () => {},
      )
    }, cancelGraceMs)
    void slot.worker.then(
      worker => worker.send({ kind: 'cancel', jobId: job.id }),
      () => {},
    )
  }

  /** A job that waits, or one that has ended since it was marked. */
  async function cancelWaiting(jobId: string) {
    try {
      const job = await store.requestCancel(jobId)
      if (job.state === 'CANCELLED') events.state(job)
    } catch (error) {
      if (!isDomainError(error)) throw error
    }
  }

  async function stopAll(graceMs: number) {
    stopping = true
    clearInterval(poll)
    clearInterval(charges)
    await Promise.all(lanes.map(state => state.pumping))
    const allEnded = () => Promise.all([...running.values()].map(run => run.ended))
    const grace = new AbortController()
    await Promise.race([allEnded(), sleep(graceMs, undefined, { signal: grace.signal })])
    grace.abort()
    await Promise.all([...slots].map(endWorker))
    await allEnded()
    events.close()
  }

  async function endWorker(slot: Slot) {
    const worker = await slot.worker.catch(() => undefined)
    if (!worker) return
    worker.send({ kind: 'stop' })
    const timer = setTimeout(() => worker.kill(), 2 * cancelGraceMs)
    await worker.exited
    clearTimeout(timer)
  }

  async function onPoll() {
    wake()
    for (const jobId of await store.cancelRequests()) {
      const run = running.get(jobId)
      if (run) stopRun(run)
      else await cancelWaiting(jobId)
    }
  }

  return {
    async start() {
      devices = await chosenDevices(env)
      const exact = (device: PoolDevice) => device.kind !== 'WEBGPU' || env.HARTONOMOUS_WEBGPU_MEASURES
      for (const device of devices)
        lanes.push(
          makeLane('interactive', device),
          makeLane('device', device, exact(device) ? undefined : isNoMeasuring),
        )
      if (!devices.some(exact)) {
        const [processor] = await probeDevices('cpu')
        devices = [...devices, processor!]
        lanes.push(makeLane('device', processor!, type => !isNoMeasuring(type)))
      }
      for (const job of await store.recover()) events.state(job)
      started = true
      charges = setInterval(chargeAll, chargeMs)
      poll = setInterval(() => void onPoll().catch(error => log.error({ err: error }, 'polling failed')), pollMs)
      wake()
    },

    stop(graceMs = 10_000) {
      stopped ??= stopAll(graceMs)
      return stopped
    },

    wake,

    async cancel(jobId) {
      const job = await store.requestCancel(jobId)
      if (job.state !== 'RUNNING') return events.state(job)
      // A job whose claim was under way when the row was marked, or that another process runs, is found by the next poll.
      const run = running.get(jobId)
      if (run) stopRun(run)
      await run?.ended
    },

    announce: job => events.state(job),
    progress: jobId => running.get(jobId)?.job.progress ?? null,
    watch: events.watch,
    watchAll: events.watchAll,

    devices: () => devices.map(record),
    async offeredDevices() {
      const others = (await offeredDevices()).filter(({ id }) => !devices.some(device => device.id === id))
      return [...devices, ...others].map(record)
    },
  }

  function record({ id, name, kind, memoryBytes, problem }: PoolDevice): DeviceRecord {
    const state = lanes.find(l => l.lane === 'device' && l.deviceId === id)
    const [jobId = null] = state?.running ?? []
    const pid = (jobId && running.get(jobId)?.slot.pid) ?? state?.shared?.pid
    const worker = pid ? `${pid}@${hostname()}` : hostname()
    return { id, name, kind, memoryBytes, problem, chosen: state !== undefined, busy: jobId !== null, jobId, worker }
  }
}
