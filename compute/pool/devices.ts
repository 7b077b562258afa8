// The devices of this machine that jobs can run on.
import { cpus, totalmem } from 'node:os'
import type { DeviceRecord } from './queue.js'

/** ONNX Runtime's CPU provider uses all cores of one session, so the machine's processors are one device. */
export function localDevices(): Pick<DeviceRecord, 'id' | 'name' | 'kind' | 'memoryBytes'>[] {
  const processors = cpus()
  const name = `${processors[0]?.model.trim() || process.arch}, ${processors.length} threads`
  return [{ id: 'cpu-0', name, kind: 'CPU', memoryBytes: totalmem() }]
}
