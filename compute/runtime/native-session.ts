// The native backend: sessions and runs through ONNX Runtime's C API.
import type { ElementType, Graph, Value } from '../graph/ir.js'
import { encodeModel } from '../onnx/encode.js'
import { type Backend, logSeverity, nameCheck, sessionConfig } from './backend-face.js'
import { cancellationOf, throwIfCancelled } from './cancellation.js'
import { trimAllocations, watchAllocations } from './huge-pages.js'
import { addressOf, loadOrtApi, type OrtApi, type Pointer, viewOf } from './ort-api.js'
import type { RunOptions, Session, SessionOptions } from './session.js'
import { elementsOf, type RuntimeTensor, type TensorData } from './tensor.js'
import { takingTurns } from './turns.js'

/** ONNXTensorElementDataType and the array that holds such elements. */
const elementTypes = {
  float32: { code: 1, array: Float32Array },
  uint8: { code: 2, array: Uint8Array },
  int32: { code: 6, array: Int32Array },
  int64: { code: 7, array: BigInt64Array },
  bool: { code: 9, array: Uint8Array },
  float16: { code: 10, array: Uint16Array },
} as const satisfies Record<ElementType, { code: number; array: unknown }>
/** GraphOptimizationLevel ORT_ENABLE_ALL */
const optimizeAll = 99
const mostDimensions = 16

/** A C string or array that must outlive the calls it is given to. */
const cString = (text: string) => Buffer.from(`${text}\0`, 'utf8')
const pointers = (list: readonly Pointer[]) => BigUint64Array.from(list)

/** Loads the library. Throws where this platform has none. */
export function nativeBackend(): Backend {
  const api = loadOrtApi()
  const tensors = tensorHandles(api)
  const takeTurn = takingTurns()

  /** What native code works on is named here, so that it is not collected meanwhile. */
  const inUse = new Set<unknown>()
  const keeping = async <T>(kept: unknown, work: () => Promise<T>): Promise<T> => {
    const entry = { kept }
    inUse.add(entry)
    try {
      return await work()
    } finally {
      inUse.delete(entry)
    }
  }

  /** The session, and what is to be awaited before it is released. */
  const createHandle = async (graph: Graph, sessionOptions: SessionOptions) => {
    const { threads = 0, arena = true, prepack = false, profile } = sessionOptions
    const model = encodeModel(graph)
    const options = api.create('CreateSessionOptions')
    try {
      api.check('SetSessionLogSeverityLevel', options, logSeverity)
      api.check('SetSessionGraphOptimizationLevel', options, optimizeAll)
      // A kept memory pattern fits one batch shape only, and lengths vary from run to run.
      api.check('DisableMemPattern', options)
      if (!arena) api.check('DisableCpuMemArena', options)
      if (profile) api.check('EnableProfiling', options, profile)
      if (threads > 0) api.check('SetIntraOpNumThreads', options, threads)
      for (const [key, value] of Object.entries(sessionConfig(sessionOptions))) {
        api.check('AddSessionConfigEntry', options, key, value)
      }
      const handle = new BigUint64Array(1)
      // Only prepacked weights are memory of the session's own.
      const allocated = prepack ? await watchAllocations() : undefined
      await keeping([model, handle], () =>
        api.checkAsync(
          'CreateSessionFromArray',
          api.env,
          addressOf(model),
          model.byteLength,
          options,
          addressOf(handle),
        ),
      )
      return { handle: handle[0]!, moving: allocated?.() }
    } finally {
      api.release('ReleaseSessionOptions', options)
    }
  }

  return {
    name: 'native',
    async createSession(graph, options): Promise<Session> {
      const { handle, moving } = await createHandle(graph, options)
      const outputs = new Map(graph.outputs.map(output => [output.name, output]))
      const names = new Map([...graph.inputs, ...graph.outputs].map(({ name }) => [name, cString(name)]))
      const addresses = new Map([...names].map(([name, text]) => [name, addressOf(text)]))
      const nameAddresses = (list: readonly string[]) => pointers(list.map(name => addresses.get(name)!))
      const checkNames = nameCheck(graph)
      const atWork = new Set<Promise<void>>()
      let disposed = false

      /** Calls Run; the results of outputs without a tensor come as handles that the caller owns. */
      const execute = async (
        feeds: Readonly<Record<string, RuntimeTensor>>,
        fetches: readonly string[],
        targets: readonly (RuntimeTensor | undefined)[],
        runOptions: Pointer,
      ): Promise<readonly Pointer[]> => {
        const given: Pointer[] = []
        const hold = (tensor: RuntimeTensor) => {
          const known = tensors.kept(tensor)
          if (known !== undefined) return known
          const made = tensors.make(tensor)
          given.push(made)
          return made
        }
        try {
          const feedNames = Object.keys(feeds)
          const inputNames = nameAddresses(feedNames)
          const outputNames = nameAddresses(fetches)
          const inputs = pointers(feedNames.map(name => hold(feeds[name]!)))
          const results = pointers(targets.map(target => (target ? hold(target) : 0n)))
          await keeping([Object.values(feeds), targets, names, inputNames, outputNames, inputs, results], () =>
            api.checkAsync(
              'Run',
              handle,
              runOptions,
              addressOf(inputNames),
              addressOf(inputs),
              inputs.length,
              addressOf(outputNames),
              results.length,
              addressOf(results),
            ),
          )
          return [...results]
        } finally {
          for (const value of given) api.release('ReleaseValue', value)
        }
      }

      const start = (
        feeds: Readonly<Record<string, RuntimeTensor>>,
        fetches: readonly string[],
        { signal, into = {} }: RunOptions,
        endTurn: () => void,
      ): Promise<Record<string, RuntimeTensor>> => {
        const sizes = symbolSizes(graph, feeds)
        const targets = fetches.map(name => {
          const given = into[name]
          if (given) {
            tensors.keep(given)
            return given
          }
          return roomFor(outputs.get(name), sizes)
        })
        const runOptions = api.create('CreateRunOptions')
        const running = execute(feeds, fetches, targets, runOptions)
        const finished = running.then(
          () => {},
          () => {},
        )
        atWork.add(finished)
        let stop = () => {}
        const stopped = new Promise<never>((_, reject) => {
          stop = () => {
            api.check('RunOptionsSetTerminate', runOptions)
            reject(cancellationOf(signal!))
          }
        })
        signal?.addEventListener('abort', stop, { once: true })
        const results = running
          .then(handles =>
            Object.fromEntries(fetches.map((name, i) => [name, targets[i] ?? tensors.adopt(handles[i]!)])),
          )
          .finally(() => {
            signal?.removeEventListener('abort', stop)
            api.release('ReleaseRunOptions', runOptions)
            atWork.delete(finished)
            endTurn()
          })
        return signal ? Promise.race([results, stopped]) : results
      }

      return {
        backend: 'native',
        inputs: graph.inputs.map(input => input.name),
        outputs: graph.outputs.map(output => output.name),
        async run(feeds, fetches, options = {}) {
          const check = () => {
            throwIfCancelled(options.signal)
            if (disposed) throw new Error(`session ${graph.name} was disposed`)
          }
          check()
          checkNames(feeds, fetches)
          const endTurn = await takeTurn(options.signal, () => cancellationOf(options.signal!))
          try {
            check()
            return await start(feeds, fetches, options, endTurn)
          } catch (error) {
            // An abandoned run still has its turn, and ends it itself.
            if (atWork.size === 0) endTurn()
            throw error
          }
        },
        async dispose() {
          if (disposed) return
          disposed = true
          await Promise.all([...atWork, moving?.stop()])
          api.release('ReleaseSession', handle)
          if (moving) await trimAllocations()
        },
      }
    },
  }
}

/** Makes, keeps and gives back OrtValues. */
function tensorHandles(api: OrtApi) {
  const release = (value: Pointer) => api.release('ReleaseValue', value)
  const forgotten = new FinalizationRegistry<Pointer>(release)
  const known = new WeakMap<RuntimeTensor, Pointer>()
  /** ONNX Runtime refuses an address of 0, also where there is nothing at it. */
  const nothing = new Uint8Array(8)
  const dimensions = new BigInt64Array(mostDimensions)

  const make = ({ type, data, shape }: RuntimeTensor): Pointer => {
    shape.forEach((size, axis) => {
      dimensions[axis] = BigInt(size)
    })
    return api.create(
      'CreateTensorWithDataAsOrtValue',
      api.cpuMemory,
      addressOf(data.byteLength > 0 ? data : nothing),
      data.byteLength,
      addressOf(dimensions),
      shape.length,
      elementTypes[type].code,
    )
  }
  return {
    make,
    kept: (tensor: RuntimeTensor) => known.get(tensor),
    /** Makes a handle once for as long as the tensor lives: for buffers that are used run after run. */
    keep(tensor: RuntimeTensor) {
      if (known.has(tensor)) return
      const value = make(tensor)
      known.set(tensor, value)
      forgotten.register(tensor, value)
    },
    /** A result in ONNX Runtime's memory as a tensor over that memory, given back when nobody holds its data any more. */
    adopt(value: Pointer): RuntimeTensor {
      const { type, shape } = describe(api, value)
      const { array } = elementTypes[type]
      const elements = elementsOf(shape)
      if (elements === 0) {
        release(value)
        return { type, shape, data: new array(0) as TensorData }
      }
      const memory = viewOf(api.create('GetTensorMutableData', value), elements * array.BYTES_PER_ELEMENT)
      forgotten.register(memory, value)
      return { type, shape, data: new array(memory) as TensorData }
    },
  }
}

function describe(api: OrtApi, value: Pointer): { type: ElementType; shape: number[] } {
  const info = api.create('GetTensorTypeAndShape', value)
  try {
    const count = Number(api.create('GetDimensionsCount', info))
    const dimensions = new BigInt64Array(Math.max(1, count))
    api.check('GetDimensions', info, addressOf(dimensions), count)
    // The enum fills the lower half of the cell it is written to.
    const code = Number(BigInt.asUintN(32, api.create('GetTensorElementType', info)))
    const type = (Object.keys(elementTypes) as ElementType[]).find(name => elementTypes[name].code === code)
    if (!type) throw new Error(`A result has the element type ${code}, which is not read here`)
    return { type, shape: [...dimensions.subarray(0, count)].map(Number) }
  } finally {
    api.release('ReleaseTensorTypeAndShapeInfo', info)
  }
}

/** What each named size of the graph's inputs is in this run. */
function symbolSizes(graph: Graph, feeds: Readonly<Record<string, RuntimeTensor>>): Map<string, number> {
  const sizes = new Map<string, number>()
  for (const { name, shape } of graph.inputs) {
    shape.forEach((size, axis) => {
      const given = feeds[name]?.shape[axis]
      if (typeof size === 'string' && given !== undefined) sizes.set(size, given)
    })
  }
  return sizes
}

/**
 * Memory of JavaScript's own for an output whose size the inputs tell: it is collected, and counted, like any other. Undefined where they
 * do not, so that ONNX Runtime provides it.
 */
function roomFor(output: Value | undefined, sizes: ReadonlyMap<string, number>): RuntimeTensor | undefined {
  if (!output) return undefined
  const shape = output.shape.map(size => (typeof size === 'number' ? size : sizes.get(size)))
  if (!shape.every(size => size !== undefined)) return undefined
  // Some kernels (ArgMax) give results without elements another shape than the operator's definition says.
  if (elementsOf(shape) === 0) return undefined
  const { array } = elementTypes[output.type]
  return { type: output.type, shape, data: new array(elementsOf(shape)) as TensorData }
}
