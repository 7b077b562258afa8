// Where the time of a decoding step goes, from the times that ONNX Runtime wrote of a session's nodes.
import { readdir, readFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

interface ProfileEvent {
  cat?: string
  name: string
  /** Microseconds. */
  dur?: number
  args?: { op_name?: string; input_type_shape?: Shapes; output_type_shape?: Shapes }
}

/** One entry per tensor: its type and shape. */
type Shapes = readonly Record<string, readonly number[]>[]

export interface OpTime {
  op: string
  nodes: number
  /** Per run, all its nodes together: the sum of each node's lower quartile, which other work on the machine disturbs least. */
  microseconds: number
  /** Of products of matrices, per run; 0 for other ops. */
  flops: number
}

const shapeOf = (tensor: Shapes[number] | undefined) => Object.values(tensor ?? {})[0] ?? []

/** Two for each multiplication; the inner dimension is what the first factor has beside what the product has of it. */
function productFlops(op: string, inputs: Shapes, outputs: Shapes): number {
  if (!/MatMul|Gemm/.test(op)) return 0
  const [a, b, y] = [shapeOf(inputs[0]), shapeOf(inputs[1]), shapeOf(outputs[0])]
  const [sizeA, sizeB, sizeY] = [a, b, y].map(shape => shape.reduce((x, d) => x * d, 1)) as [number, number, number]
  const batch = b.slice(0, -2).reduce((x, d) => x * d, 1)
  // (m k)(k n) / (m n) = k², per matrix of the batch.
  return 2 * sizeY * Math.round(Math.sqrt((sizeA * sizeB) / sizeY / batch))
}

export interface StepTimes {
  /** The dearest first. */
  ops: OpTime[]
  /** Of a whole run, from outside its kernels. */
  runMicroseconds: number
}

export const lowerQuartile = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 4)]!

/** Times of the session whose profile's file begins with `prefix`, most of whose runs were steps; by op, or by op and shapes. */
export async function stepTimes(prefix: string, byShape = false): Promise<StepTimes> {
  const folder = dirname(prefix)
  const files = (await readdir(folder)).filter(name => name.startsWith(basename(prefix)) && name.endsWith('.json'))
  const nodes = new Map<string, { op: string; flops: number; times: number[] }>()
  const runs: number[] = []
  for (const file of files) {
    const events = JSON.parse(await readFile(join(folder, file), 'utf8')) as ProfileEvent[]
    for (const { cat, name, dur, args } of events) {
      if (dur === undefined) continue
      if (name === 'model_run') runs.push(dur)
      if (cat !== 'Node' || !name.endsWith('_kernel_time')) continue
      const [op, inputs, outputs] = [args?.op_name ?? name, args?.input_type_shape ?? [], args?.output_type_shape ?? []]
      const shapes = byShape ? ` ${inputs.map(tensor => `[${shapeOf(tensor).join(' ')}]`).join(' ')}` : ''
      const node = nodes.get(name) ?? { op: op + shapes, flops: productFlops(op, inputs, outputs), times: [] }
      node.times.push(dur)
      nodes.set(name, node)
    }
  }
  const ops = new Map<string, OpTime>()
  for (const { op, flops, times } of nodes.values()) {
    const total = ops.get(op) ?? { op, nodes: 0, microseconds: 0, flops: 0 }
    total.flops += flops
    total.nodes++
    total.microseconds += lowerQuartile(times)
    ops.set(op, total)
  }
  return {
    ops: [...ops.values()].sort((a, b) => b.microseconds - a.microseconds),
    runMicroseconds: lowerQuartile(runs),
  }
}
