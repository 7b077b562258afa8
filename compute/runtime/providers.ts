// Which execution provider of ONNX Runtime computes on which device: the one place that knows their names, limits and installs.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import type { BackendName } from './backend-face.js'

export type ProviderName = 'cpu' | 'webgpu' | 'cuda'

/** A device as sessions are asked for one. */
export interface DeviceChoice {
  provider: ProviderName
  /** Which of several devices of the provider. */
  index: number
}

/** What one device is, as far as the machine tells without opening it. */
export interface DeviceDescription {
  name: string
  memoryBytes: number | null
}

interface Provider {
  /** Ways to call ONNX Runtime that it is offered through, the best first. */
  backends: readonly BackendName[]
  /** Whether weights stay in their files, mapped; else each session copies them into the device's memory. */
  mapsWeights: boolean
  /** The providers of a session, in ONNX Runtime's order: what the first has no kernel for falls to the next. */
  chain(index: number): readonly ({ name: string; deviceId?: number } | string)[]
  /** Devices that there may be; whether one computes is found out by opening it (`compute/discover-devices.ts`). */
  list(): DeviceDescription[]
  /** Throws DEVICE_UNAVAILABLE, saying what to install, where its library is not here. */
  check(): void
}

/** Folder of the libraries that onnxruntime-node ships for this platform. */
export const libraryFolder = () =>
  join(
    dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json')),
    'bin',
    'napi-v6',
    process.platform,
    process.arch,
  )

const cudaLibrary = () =>
  join(
    libraryFolder(),
    process.platform === 'win32' ? 'onnxruntime_providers_cuda.dll' : 'libonnxruntime_providers_cuda.so',
  )
/** The command that fetches the CUDA provider, which is not in the package (docs/devices.md). */
export const cudaInstall = 'ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node --ignore-scripts=false'

/** NVIDIA's driver lists its devices here. */
const nvidiaFolder = '/proc/driver/nvidia/gpus'

function nvidiaDevices(): DeviceDescription[] {
  if (!existsSync(nvidiaFolder)) return []
  return readdirSync(nvidiaFolder)
    .sort()
    .map(address => {
      const text = readFileSync(join(nvidiaFolder, address, 'information'), 'utf8')
      return { name: /^Model:\s*(.+)$/m.exec(text)?.[1]?.trim() ?? 'NVIDIA GPU', memoryBytes: null }
    })
}

export const providers: Record<ProviderName, Provider> = {
  cpu: {
    backends: ['native', 'binding'],
    mapsWeights: true,
    chain: () => ['cpu'],
    list() {
      const processors = cpus()
      const name = `${processors[0]?.model.trim() || process.arch}, ${processors.length} threads`
      // One session uses all cores, so the machine's processors are one device.
      return [{ name, memoryBytes: totalmem() }]
    },
    check() {},
  },
  webgpu: {
    // Dawn lives in the binding's process-wide context, and its buffers are the binding's tensors.
    backends: ['binding'],
    mapsWeights: false,
    chain: () => [{ name: 'webgpu' }, 'cpu'],
    // Dawn offers its first adapter only.
    list: () => [{ name: 'WebGPU adapter', memoryBytes: null }],
    check() {},
  },
  cuda: {
    backends: ['binding'],
    mapsWeights: false,
    chain: index => [{ name: 'cuda', deviceId: index }, 'cpu'],
    list: nvidiaDevices,
    check() {
      if (existsSync(cudaLibrary())) return
      throw new DomainError(
        'DEVICE_UNAVAILABLE',
        `cuda: ONNX Runtime's CUDA provider is not installed (${cudaLibrary()}). It is an opt-in: ${cudaInstall}`,
      )
    },
  },
}
export const providerNames = Object.keys(providers) as ProviderName[]

const firstCpu: DeviceChoice = { provider: 'cpu', index: 0 }
/** A worker process has one device for life. */
let ownDevice = firstCpu

/** Sessions that name no device run on this one from now on. */
export function useDevice(device: DeviceChoice): void {
  ownDevice = device
}

/** The device that sessions run on which name none. */
export const currentDevice = (): DeviceChoice => ownDevice

export const providerOf = (device: DeviceChoice = ownDevice): Provider => providers[device.provider]

/** ONNX Runtime's own words where a device is gone for good, as long as the process lives. */
const lossWords =
  /device (was |is |has been )?lost|DXGI_ERROR_DEVICE|CUDA_ERROR_(DEVICE|ECC|ILLEGAL|LAUNCH)|CUDA failure/i
/** Where a session does not even begin: no driver, no adapter. */
const absenceWords =
  /Failed to get a WebGPU (adapter|device)|No supported adapters|no CUDA-capable device|Failed to load shared library/i

/**
 * What a device's own trouble is called: retryable, since another device may run the job. Other errors stay as they are.
 */
export function explainDeviceError(error: unknown, { provider, index }: DeviceChoice = ownDevice): unknown {
  if (provider === 'cpu' || !(error instanceof Error)) return error
  const where = `${provider}-${index}`
  const options = { retryable: true, cause: error }
  if (absenceWords.test(error.message))
    return new DomainError('DEVICE_UNAVAILABLE', `${where} does not start: ${firstLine(error)}`, options)
  if (lossWords.test(error.message))
    return new DomainError('DEVICE_LOST', `${where} was lost: ${firstLine(error)}`, options)
  return error
}

/** Without ONNX Runtime's source position, which tells a user nothing. */
const firstLine = ({ message }: Error) =>
  message
    .split('\n')[0]!
    .replace(/^\/\S+\.cc:\d+ .*?(?=Failed|WebGPU device|CUDA)/, '')
    .trim()
