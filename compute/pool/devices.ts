// The devices of this machine that jobs can run on: the processor, and what opening a session on the others finds.
import { execFile } from 'node:child_process'
import { cpus, totalmem } from 'node:os'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import { compiledFile } from '../../lib/project.js'
import type { DeviceRecord } from './queue.js'

/** What a worker is told to compute on; `provider` as in `compute/runtime/providers.ts`. */
export interface WorkerDevice {
  provider: 'cpu' | 'webgpu' | 'cuda'
  /** Which of several of the provider. */
  index: number
}

export type PoolDevice = Pick<DeviceRecord, 'id' | 'name' | 'kind' | 'memoryBytes' | 'problem'> & WorkerDevice

/** Longest time that opening a device may take: drivers compile their first shaders then. */
const probeLimitMs = 30_000

const kinds = { cpu: 'CPU', webgpu: 'WEBGPU', cuda: 'CUDA' } as const satisfies Record<string, DeviceRecord['kind']>

const poolDevice = (
  provider: WorkerDevice['provider'],
  index: number,
  found: { name: string; memoryBytes: number | null; problem: string | null },
): PoolDevice => ({ id: `${provider}-${index}`, kind: kinds[provider], provider, index, ...found })

/** ONNX Runtime's CPU provider uses all cores of one session, so the machine's processors are one device. */
function processor(): PoolDevice {
  const processors = cpus()
  const name = `${processors[0]?.model.trim() || process.arch}, ${processors.length} threads`
  return poolDevice('cpu', 0, { name, memoryBytes: totalmem(), problem: null })
}

/**
 * The devices of a provider, each opened once in a process of its own: a driver that crashes takes nobody with it. Where there is none,
 * one with the reason as its `problem`.
 */
export function probeDevices(provider: WorkerDevice['provider']): Promise<PoolDevice[]> {
  if (provider === 'cpu') return Promise.resolve([processor()])
  const file = compiledFile('compute/discover-devices.js')
  return new Promise(resolve => {
    const options = { timeout: probeLimitMs, killSignal: 'SIGKILL', encoding: 'utf8' } as const
    execFile(process.execPath, [file, provider], options, (error, stdout) => {
      const line = stdout.trim().split('\n').at(-1)
      if (!error && line) {
        const found = JSON.parse(line) as Pick<PoolDevice, 'name' | 'memoryBytes' | 'problem'>[]
        return resolve(found.map((device, index) => poolDevice(provider, index, device)))
      }
      const problem = `${provider}: looking for it ended with ${error?.signal ?? `exit code ${error?.code}`}`
      resolve([poolDevice(provider, 0, { name: provider, memoryBytes: null, problem })])
    })
  })
}

/**
 * The devices that HARTONOMOUS_DEVICES names, in its order.
 * @throws DEVICE_UNAVAILABLE where one of them does not compute, with its reason
 */
export async function chosenDevices({
  HARTONOMOUS_DEVICES: names,
}: Pick<Env, 'HARTONOMOUS_DEVICES'>): Promise<PoolDevice[]> {
  const chosen: PoolDevice[] = []
  for (const { provider, index } of names) {
    const found = await probeDevices(provider)
    const wanted = index === undefined ? found : found.filter(device => device.index === index)
    if (wanted.length === 0)
      throw new DomainError(
        'DEVICE_UNAVAILABLE',
        `HARTONOMOUS_DEVICES names ${provider}:${index}; this machine has ${found.length} such device(s), counted from 0`,
      )
    for (const device of wanted) {
      if (device.problem) throw new DomainError('DEVICE_UNAVAILABLE', `HARTONOMOUS_DEVICES: ${device.problem}`)
      if (!chosen.some(({ id }) => id === device.id)) chosen.push(device)
    }
  }
  return chosen
}

let offered: Promise<PoolDevice[]> | undefined
/** All devices of this machine, those that do not compute with the reason; looked for once per process. */
export function offeredDevices(): Promise<PoolDevice[]> {
  offered ??= Promise.all((Object.keys(kinds) as WorkerDevice['provider'][]).map(probeDevices)).then(all => all.flat())
  return offered
}
