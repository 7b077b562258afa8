// onnxruntime-node's own binding: the backend of graphics processors, and the CPU's where the C API does not load.
import type { InferenceSession, Tensor } from 'onnxruntime-node'
import type { ElementType } from '../graph/ir.js'
import { encodeModel } from '../onnx/encode.js'
import { type Backend, logSeverity, nameCheck, sessionConfig } from './backend-face.js'
import { throwIfCancelled } from './cancellation.js'
import { providerOf } from './providers.js'
import type { RuntimeTensor, TensorData } from './tensor.js'

type ExecutionProviders = NonNullable<InferenceSession.SessionOptions['executionProviders']>

export const bindingBackend: Backend = {
  name: 'binding',
  async createSession(graph, options) {
    const { threads = 0, arena = true } = options
    const ort = await import('onnxruntime-node')
    const session = await ort.InferenceSession.create(encodeModel(graph), {
      executionProviders: [...providerOf(options.device).chain(options.device?.index ?? 0)] as ExecutionProviders,
      ...(threads > 0 ? { intraOpNumThreads: threads } : {}),
      graphOptimizationLevel: 'all',
      logSeverityLevel: logSeverity,
      // A kept memory pattern fits one batch shape only, and lengths vary from run to run.
      enableMemPattern: false,
      enableCpuMemArena: arena,
      extra: sessionConfig(options),
    })
    const toOrt = ({ type, data, shape }: RuntimeTensor) => new ort.Tensor(type, data as Float32Array, shape)
    const checkNames = nameCheck(graph)
    let disposed = false
    return {
      backend: 'binding',
      inputs: session.inputNames,
      outputs: session.outputNames,
      async run(feeds, fetches, { signal, into = {} } = {}) {
        if (disposed) throw new Error(`session ${graph.name} was disposed`)
        throwIfCancelled(signal)
        checkNames(feeds, fetches)
        const tensors = Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)]))
        const wanted = Object.fromEntries(fetches.map(name => [name, into[name] ? toOrt(into[name]) : null]))
        const results = await session.run(tensors, wanted)
        throwIfCancelled(signal)
        return Object.fromEntries(fetches.map(name => [name, into[name] ?? fromOrt(results[name]!)]))
      },
      async dispose() {
        if (disposed) return
        disposed = true
        await session.release()
      },
    }
  },
}

const fromOrt = (tensor: Tensor): RuntimeTensor => ({
  type: tensor.type as ElementType,
  data: tensor.data as TensorData,
  shape: tensor.dims,
})
