// Turns graphs into sessions and runs them: the face of ONNX Runtime to everything else. Lives in worker processes, never in the server.
import type { Graph } from '../graph/ir.js'
import { chooseBackend } from './backend.js'
import type { BackendName } from './backend-face.js'
import { counted } from './count-flops.js'
import type { RuntimeTensor } from './tensor.js'

export { finiteFloats, floats, int32s, int64s, type RuntimeTensor, type TensorData } from './tensor.js'

export interface RunOptions {
  /**
   * Ends the run: it rejects at once with the signal's DomainError, or CANCELLED. The kernel that is at work finishes behind the
   * scenes, so feeds and `into` tensors of such a run must not be used again. The `binding` backend hears it only between runs.
   */
  signal?: AbortSignal | undefined
  /**
   * Outputs written into memory of the caller, whose shapes must be the results'. An input given here again is written in place
   * where its kernel can (attention caches).
   */
  into?: Readonly<Record<string, RuntimeTensor>>
}

export interface Session {
  /** Which backend runs it. */
  readonly backend: BackendName
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /**
   * Runs the graph once and gives the outputs named by `fetches`. Runs of one process take turns, in the order they were asked for:
   * one already uses every thread. On the `native` backend the event loop stays free and nothing is copied.
   */
  run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
    fetches: readonly string[],
    options?: RunOptions,
  ): Promise<Record<string, RuntimeTensor>>
  /** Waits for a run at work, then gives everything back. Results stay valid. */
  dispose(): Promise<void>
}

export interface SessionOptions {
  /** Folder that external constants are relative to; their files must lie inside it. */
  weightsFolder: string
  /** 0: one per core. */
  threads?: number
  /** Whether memory of activations is kept for the next run: faster where runs follow each other, dearer where sessions are many. Absent: true. */
  arena?: boolean
  /**
   * Whether weights are copied into the layout their kernels like best, in private memory. Absent: false, they stay mapped. Quantised
   * kernels are slow by an order of magnitude without.
   */
  prepack?: boolean
  /** Absent: `native` where it works. */
  backend?: BackendName | undefined
}

/**
 * A session of the graph on the CPU. Weights stay in their files, mapped and shared with other sessions through the page cache.
 * Errors carry ONNX Runtime's own words.
 */
export async function createSession(graph: Graph, options: SessionOptions): Promise<Session> {
  const backend = await chooseBackend(options.backend)
  return counted(await backend.createSession(graph, options), graph)
}
