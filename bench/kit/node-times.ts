// Where the time of a decoding step goes, from the times that ONNX Runtime wrote of a session's nodes.
import { readdir, readFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

interface ProfileEvent {
  cat?: string
  name: string
  /** Microseconds. */
  dur?: number
  args?: { op_name?: string }
}

export interface OpTime {
  op: string
  nodes: number
  /** Per run, all its nodes together: the sum of each node's lower quartile, which other work on the machine disturbs least. */
  microseconds: number
}

export interface StepTimes {
  /** The dearest first. */
  ops: OpTime[]
  /** Of a whole run, from outside its kernels. */
  runMicroseconds: number
}

export const lowerQuartile = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 4)]!

/** Times of the session whose profile's file begins with `prefix`, most of whose runs were steps. */
export async function stepTimes(prefix: string): Promise<StepTimes> {
  const folder = dirname(prefix)
  const files = (await readdir(folder)).filter(name => name.startsWith(basename(prefix)) && name.endsWith('.json'))
  const nodes = new Map<string, { op: string; times: number[] }>()
  const runs: number[] = []
  for (const file of files) {
    const events = JSON.parse(await readFile(join(folder, file), 'utf8')) as ProfileEvent[]
    for (const { cat, name, dur, args } of events) {
      if (dur === undefined) continue
      if (name === 'model_run') runs.push(dur)
      if (cat !== 'Node' || !name.endsWith('_kernel_time')) continue
      const node = nodes.get(name) ?? { op: args?.op_name ?? name, times: [] }
      node.times.push(dur)
      nodes.set(name, node)
    }
  }
  const ops = new Map<string, OpTime>()
  for (const { op, times } of nodes.values()) {
    const total = ops.get(op) ?? { op, nodes: 0, microseconds: 0 }
    total.nodes++
    total.microseconds += lowerQuartile(times)
    ops.set(op, total)
  }
  return {
    ops: [...ops.values()].sort((a, b) => b.microseconds - a.microseconds),
    runMicroseconds: lowerQuartile(runs),
  }
}
