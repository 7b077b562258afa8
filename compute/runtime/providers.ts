// The devices this machine can compute on.
import { availableParallelism, cpus, totalmem } from 'node:os'

export interface ComputeDevice {
  /** Stable name within this machine. */
  name: string
  kind: 'CPU'
  /** What a person calls it. */
  description: string
  memoryBytes: number
  cores: number
}

/** Devices that sessions can be created on: the processor; other kinds join when graphs run on them. */
export function listDevices(): ComputeDevice[] {
  const model = cpus()[0]?.model.trim() || 'processor'
  return [{ name: 'cpu', kind: 'CPU', description: model, memoryBytes: totalmem(), cores: availableParallelism() }]
}
