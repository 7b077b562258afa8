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
export const sessionConfig = ({ weightsFolder, prepack = false }: SessionOptions): Record<string, string> => ({
  // Prepacking copies every weight into private memory and costs seconds; without it they are mapped.
  'session.disable_prepacking': prepack ? '0' : '1',
  'session.model_external_initializers_file_folder_path': weightsFolder,
  // Waiting threads sleep rather than spin: the machine also serves.
  'session.intra_op.allow_spinning': '0',
})

/** Fatal only: errors come as exceptions anyway, warnings are about the machine. */
export const logSeverity = 4

/** @throws Error where a name is none of the graph's: both backends say so alike, before native code is asked */
export function checkNames(graph: Graph, feeds: Readonly<Record<string, RuntimeTensor>>, fetches: readonly string[]) {
  const unknown = (names: readonly string[], values: Graph['inputs']) =>
    names.find(name => !values.some(value => value.name === name))
  const input = unknown(Object.keys(feeds), graph.inputs)
  if (input !== undefined) throw new Error(`session ${graph.name} has no input ${input}`)
  const output = unknown(fetches, graph.outputs)
  if (output !== undefined) throw new Error(`session ${graph.name} has no output ${output}`)
}
