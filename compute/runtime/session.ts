// Turns graphs into sessions and runs them: the face of ONNX Runtime to everything else. Lives in worker processes, never in the server.
import type { Graph } from '../graph/ir.js'
import { chooseBackend } from './backend.js'
import type { BackendName } from './backend-face.js'
import { counted } from './count-flops.js'
import { currentDevice, type DeviceChoice, explainDeviceError, providerOf } from './providers.js'
import { sessionPool } from './session-pool.js'
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
  /** Waits for a run at work, then gives everything back. Results stay valid; another run throws. */
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
  /**
   * Whether threads that wait for each other within a run do so busily: faster where a graph is many small kernels and cores are free.
   * Absent: false.
   */
  spin?: boolean
  /**
   * Times every node of every run and writes them as JSON to a file of this name, with the time of day added, when the session is
   * disposed. The `binding` backend does not.
   */
  profile?: string | undefined
  /** Absent: the device's best, which is `native` on a CPU where it loads. */
  backend?: BackendName | undefined
  /** Absent: this process's device. */
  device?: DeviceChoice | undefined
  /**
   * Called before the session is opened, the first time and whenever it was closed for others: sees to it that its files are there. What
   * it gives is called once the session was closed and the files are free.
   */
  prepare?: (() => Promise<() => void>) | undefined
}

/**
 * A session of the graph. On a CPU weights stay in their files, mapped and shared with other sessions through the page cache. The pool
 * of this process owns it (`session-pool.ts`): it is closed while idle where memory is short, and opened again by its next run.
 * Errors carry ONNX Runtime's own words.
 * @throws DEVICE_UNAVAILABLE, DEVICE_LOST where it is the device's trouble
 */
export async function createSession(graph: Graph, options: SessionOptions): Promise<Session> {
  const device = options.device ?? currentDevice()
  const provider = providerOf(device)
  provider.check()
  const backend = await chooseBackend(options.backend, provider.backends)
  return sessionPool.add(graph, options, async () => {
    const closed = await options.prepare?.()
    const opened = await backend.createSession(graph, { ...options, device }).catch(error => {
      closed?.()
      throw explainDeviceError(error, device)
    })
    const session = counted(opened, graph)
    return {
      ...session,
      run: (feeds, fetches, runOptions) =>
        session.run(feeds, fetches, runOptions).catch(error => {
          throw explainDeviceError(error, device)
        }),
      async dispose() {
        await session.dispose()
        closed?.()
      },
    }
  })
}
