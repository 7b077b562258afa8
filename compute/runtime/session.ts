// The only importer of ONNX Runtime: turns graphs into sessions and runs them. Lives in worker processes, never in the server.
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { DomainError } from '../../lib/errors.js'
import type { ElementType, Graph } from '../graph/ir.js'
import { encodeModel } from '../onnx/encode.js'

export type TensorData = Float32Array | BigInt64Array | Int32Array | Uint8Array

/** Row-major numbers with a shape; what goes into and comes out of a run. */
export interface RuntimeTensor {
  type: ElementType
  data: TensorData
  shape: readonly number[]
}

export interface Session {
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /**
   * Runs the graph once. Only `fetches` are copied out. Blocks this thread while it computes (the binding has no other way),
   * but lets the event loop turn once before it starts.
   */
  run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
    fetches: readonly string[],
  ): Promise<Record<string, RuntimeTensor>>
  dispose(): Promise<void>
}

export interface SessionOptions {
  /** Folder that external constants are relative to; their files must lie inside it. */
  weightsFolder: string
  /** 0: one per core. */
  threads?: number
}

/** A session of the graph on the CPU. Weights stay in their files, mapped and shared with other sessions through the page cache. */
export async function createSession(graph: Graph, { weightsFolder, threads = 0 }: SessionOptions): Promise<Session> {
  const session = await InferenceSession.create(encodeModel(graph), {
    executionProviders: ['cpu'],
    ...(threads > 0 ? { intraOpNumThreads: threads } : {}),
    graphOptimizationLevel: 'all',
    logSeverityLevel: 3, // errors: they come as exceptions anyway, warnings are about the machine
    // A kept memory pattern fits one batch shape only, and lengths vary from run to run.
    enableMemPattern: false,
    extra: {
      session: {
        // Prepacking copies every weight into private memory and costs seconds; without it they are mapped.
        disable_prepacking: '1',
        model_external_initializers_file_folder_path: weightsFolder,
        // Waiting threads sleep rather than spin: the machine also serves.
        intra_op: { allow_spinning: '0' },
      },
    },
  })
  let disposed = false
  return {
    inputs: session.inputNames,
    outputs: session.outputNames,
    async run(feeds, fetches) {
      if (disposed) throw new Error(`session ${graph.name} was disposed`)
      const tensors = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, toOrt(t)]))
      const results = await session.run(tensors, [...fetches])
      return Object.fromEntries(fetches.map(name => [name, fromOrt(results[name]!)]))
    },
    async dispose() {
      if (disposed) return
      disposed = true
      await session.release()
    },
  }
}

const toOrt = ({ type, data, shape }: RuntimeTensor) => new Tensor(type, data as Float32Array, shape)

function fromOrt(tensor: Tensor): RuntimeTensor {
  return { type: tensor.type as ElementType, data: tensor.data as TensorData, shape: tensor.dims }
}

export const floats = (data: Float32Array, shape: readonly number[]): RuntimeTensor => ({
  type: 'float32',
  data,
  shape,
})
export const int64s = (values: readonly number[], shape: readonly number[] = [values.length]): RuntimeTensor => ({
  type: 'int64',
  data: BigInt64Array.from(values, BigInt),
  shape,
})
export const int32s = (values: readonly number[], shape: readonly number[] = [values.length]): RuntimeTensor => ({
  type: 'int32',
  data: Int32Array.from(values),
  shape,
})

/** The float values of a result. Throws NOT_A_NUMBER where one is NaN or infinite, naming the result. */
export function finiteFloats(tensor: RuntimeTensor, name: string): Float32Array {
  const data = tensor.data as Float32Array
  for (let i = 0; i < data.length; i++) {
    if (!Number.isFinite(data[i])) throw new DomainError('NOT_A_NUMBER', `${name} is ${data[i]} at index ${i}`)
  }
  return data
}
