// What jobs cost, in DCUs (device cost units): docs/cost.md has the formula and its reasons.
import type { DeviceRecord } from './queue.js'

/** DCUs per second that a device is held: one for a CPU, others by what renting one costs beside it. */
export const unitsPerSecond: Record<DeviceRecord['kind'], number> = { CPU: 1, WEBGPU: 4, CUDA: 20 }

/** By the device's id: `cpu-0`, `cuda-1`. Jobs of the io lane hold no device. */
export const unitsOf = (deviceId: string | null, deviceSeconds: number): number => {
  const kind = (deviceId ?? '').split('-')[0]!.toUpperCase()
  return deviceSeconds * (unitsPerSecond[kind as DeviceRecord['kind']] ?? 0)
}

/** Floating-point operations per second of a CPU of two cores, where this platform has not measured its own yet. */
export const usualFlopsPerSecond = 3e10
