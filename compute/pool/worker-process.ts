// One worker process as its parent sees it: start, talk, notice that it is silent or gone.
import { type ChildProcess, fork } from 'node:child_process'
import { type Env, fileWorkEnvironment } from '../../lib/env.js'
import type { WorkerDevice } from './devices.js'
import type { Lane } from './job-types.js'
import type { FromWorker, ToWorker } from './messages.js'

/**
 * Seconds without a heartbeat after which a worker counts as hung and is killed. A native run blocks the worker's event loop
 * and with it the heartbeat: a prompt of some thousand tokens through a large model on a CPU takes minutes, so device
 * workers get ten of them. An io worker yields after every chunk; two minutes cover a disk that stalls.
 */
export const silenceLimitSeconds: Record<Lane, number> = { io: 120, device: 600, interactive: 600 }

/** Longest time from fork to `ready`. */
const startLimitMs = 60_000

export interface WorkerProcess {
  readonly pid: number
  send(message: ToWorker): void
  kill(): void
  /** Resolves once the process is gone, with a sentence on how it ended. */
  readonly exited: Promise<string>
}

/**
 * Forks a worker and waits until it is ready.
 * @param onMessage everything it says afterwards, heartbeats excepted
 * @throws Error with the reason where it ends or stays silent before that
 */
export function startWorker(
  file: string,
  lane: Lane,
  device: WorkerDevice | null,
  env: Env,
  onMessage: (message: FromWorker) => void,
): Promise<WorkerProcess> {
  // Standard output belongs to the program that runs the platform (the CLI's --json); workers log on standard error.
  // The parent's pid lets the worker notice a parent that was killed, even one killed before the worker could look;
  // device and lane are for people who read the process list.
  const child = fork(file, [String(process.pid), ...(device ? [`${device.provider}-${device.index}`] : []), lane], {
    execArgv: [],
    serialization: 'advanced',
    ...(lane === 'io' ? { env: fileWorkEnvironment() } : {}),
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  let silentSeconds = 0
  // Counted in ticks, not by the clock: after a suspended machine or a busy parent the messages that came meanwhile are read first.
  const watch = setInterval(() => {
    if (++silentSeconds > silenceLimitSeconds[lane]) child.kill('SIGKILL')
  }, 1000)
  watch.unref()

  const exited = new Promise<string>(resolve => {
    child.once('error', error => resolve(`it could not be started: ${error.message}`))
    child.once('exit', (code, signal) => resolve(howItEnded(code, signal, silentSeconds, lane)))
  })
  void exited.then(() => clearInterval(watch))

  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => child.kill('SIGKILL'), startLimitMs)
    void exited.then(how => {
      clearTimeout(limit)
      reject(new Error(`The ${lane} worker did not start: ${how}`))
    })
    child.on('message', (message: FromWorker) => {
      silentSeconds = 0
      if (message.kind === 'heartbeat') return
      if (message.kind !== 'ready') return onMessage(message)
      clearTimeout(limit)
      resolve({
        pid: child.pid as number,
        send: m => trySend(child, m),
        kill: () => child.kill('SIGKILL'),
        exited,
      })
    })
    trySend(child, { kind: 'begin', env, lane, device })
  })
}

/** A message to a worker that is just ending is lost; its exit is what counts then. */
function trySend(child: ChildProcess, message: ToWorker) {
  if (child.connected) child.send(message, () => {})
}

function howItEnded(code: number | null, signal: NodeJS.Signals | null, silentSeconds: number, lane: Lane): string {
  if (signal === 'SIGKILL' && silentSeconds > silenceLimitSeconds[lane])
    return `it was killed after ${silenceLimitSeconds[lane]} s without a heartbeat`
  return signal ? `it was ended by ${signal}` : `it exited with code ${code}`
}
