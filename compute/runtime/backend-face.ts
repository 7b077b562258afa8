// What a backend is: one way to call ONNX Runtime.
import type { Graph } from '../graph/ir.js'
import type { Session, SessionOptions } from './session.js'
import type { RuntimeTensor } from './tensor.js'

/**
 * `native`: the C API of the library that onnxruntime-node ships, called through koffi: asynchronous, cancellable, without copies.
 * `binding`: onnxruntime-node's own binding, which blocks the event loop while it runs and copies every output.
 */
export type BackendName = 'native' | 'binding'

export interface Backend {
  readonly name: BackendName
  createSession(graph: Graph, options: SessionOptions): Promise<Session>
}

/** Session settings of both backends, as ONNX Runtime names them. */
export const sessionConfig = ({
  weightsFolder,
  prepack = false,
  spin = false,
}: SessionOptions): Record<string, string> => ({
  // Prepacking copies every weight into private memory and costs seconds; without it they are mapped.
  'session.disable_prepacking': prepack ? '0' : '1',
  'session.model_external_initializers_file_folder_path': weightsFolder,
  // Waiting threads sleep rather than spin: the machine also serves. Those that spin do so within a run only.
  'session.intra_op.allow_spinning': spin ? '1' : '0',
  'session.force_spinning_stop': '1',
})

/** Fatal only: errors come as exceptions anyway, warnings are about the machine. */
export const logSeverity = 4

/**
 * Checks names of feeds and fetches; made once per session.
 * @throws Error where a name is none of the graph's: both backends say so alike, before native code is asked
 */
export function nameCheck(graph: Graph) {
  const inputs = new Set(graph.inputs.map(({ name }) => name))
  const outputs = new Set(graph.outputs.map(({ name }) => name))
  return (feeds: Readonly<Record<string, RuntimeTensor>>, fetches: readonly string[]): void => {
    for (const name in feeds) if (!inputs.has(name)) throw new Error(`session ${graph.name} has no input ${name}`)
    for (const name of fetches) if (!outputs.has(name)) throw new Error(`session ${graph.name} has no output ${name}`)
  }
}
