// The part of ONNX Runtime's C API that is used here (onnxruntime_c_api.h), called through koffi on the library that onnxruntime-node ships.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import koffi, { type LibraryHandle } from 'koffi'
import { libraryFolder } from './providers.js'

/** An address, or 0 for none. Handles of ONNX Runtime and data of buffers alike. */
export type Pointer = bigint
type Argument = Pointer | number | string

/** Resolves with the call's result; the call itself runs on a thread of libuv's pool. */
type AsyncCall = (...args: [...Argument[], (error: Error | null, result: Pointer | null) => void]) => void
type NativeFunction = ((...args: Argument[]) => Pointer | number | string | null) & { async: AsyncCall }

/** The first version with everything below; a library offers all versions up to its own. */
const apiVersion = 17
/** ONNX Runtime's kernels and graph passes expect an ordinary thread's stack; koffi's for asynchronous calls is 128 KB unless told. */
const asyncStackBytes = 8 * 1024 * 1024

/**
 * Position in struct OrtApi, which only ever grows at its end, result and arguments. `p` pointer, `i` int, `z` size_t, `s` string,
 * `v` nothing. Functions of result `p` return a status, 0 for success.
 */
const functions = {
  GetErrorMessage: [2, 's', 'p'],
  CreateEnv: [3, 'p', 'isp'],
  CreateSessionFromArray: [8, 'p', 'ppzpp'],
  Run: [9, 'p', 'ppppzpzp'],
  CreateSessionOptions: [10, 'p', 'p'],
  EnableProfiling: [14, 'p', 'ps'],
  DisableMemPattern: [17, 'p', 'p'],
  DisableCpuMemArena: [19, 'p', 'p'],
  SetSessionLogSeverityLevel: [22, 'p', 'pi'],
  SetSessionGraphOptimizationLevel: [23, 'p', 'pi'],
  SetIntraOpNumThreads: [24, 'p', 'pi'],
  CreateRunOptions: [39, 'p', 'p'],
  RunOptionsSetTerminate: [46, 'p', 'p'],
  CreateTensorWithDataAsOrtValue: [49, 'p', 'ppzpzip'],
  GetTensorMutableData: [51, 'p', 'pp'],
  GetTensorElementType: [60, 'p', 'pp'],
  GetDimensionsCount: [61, 'p', 'pp'],
  GetDimensions: [62, 'p', 'ppz'],
  GetTensorTypeAndShape: [65, 'p', 'pp'],
  CreateCpuMemoryInfo: [69, 'p', 'iip'],
  ReleaseStatus: [93, 'v', 'p'],
  ReleaseSession: [95, 'v', 'p'],
  ReleaseValue: [96, 'v', 'p'],
  ReleaseRunOptions: [97, 'v', 'p'],
  ReleaseTensorTypeAndShapeInfo: [99, 'v', 'p'],
  ReleaseSessionOptions: [100, 'v', 'p'],
  AddSessionConfigEntry: [130, 'p', 'pss'],
} as const satisfies Record<string, readonly [position: number, result: string, parameters: string]>

type FunctionName = keyof typeof functions
const typeNames: Record<string, string> = { p: 'void *', i: 'int', z: 'size_t', s: 'const char *', v: 'void' }

export interface OrtApi {
  /** Calls a function that returns a status; throws with ONNX Runtime's message where it is not success. */
  check(name: FunctionName, ...args: Argument[]): void
  /** Like `check`, for functions that give a handle through their last parameter. */
  create(name: FunctionName, ...args: Argument[]): Pointer
  /** Like `check`, on another thread. Whatever the arguments point to must be kept alive until it settles. */
  checkAsync(name: FunctionName, ...args: Argument[]): Promise<void>
  /** Calls a function that returns nothing. */
  release(name: FunctionName, handle: Pointer): void
  env: Pointer
  /** Describes memory of this process. */
  cpuMemory: Pointer
}

/** Address of a buffer's bytes. The buffer must be kept alive as long as the address is used. 0 for an empty one. */
export const addressOf = (buffer: ArrayBufferView | ArrayBuffer): Pointer => koffi.address(buffer)

/** Memory at an address as an ArrayBuffer, without a copy. Whoever asks keeps the memory alive longer than the buffer. */
export const viewOf = (address: Pointer, bytes: number): ArrayBuffer => koffi.view(address, bytes)

function libraryFile(): string {
  const names: Partial<Record<NodeJS.Platform, string>> = {
    linux: 'libonnxruntime.so.1',
    darwin: 'libonnxruntime.1.dylib',
    win32: 'onnxruntime.dll',
  }
  const name = names[process.platform]
  const file = name && join(libraryFolder(), name)
  if (!file || !existsSync(file)) {
    throw new Error(`onnxruntime-node ships no library for ${process.platform} ${process.arch} (${file ?? 'no name'})`)
  }
  return file
}

/** Held for as long as the process lives: koffi unloads a library that is collected, whatever functions were taken from it. */
let library: LibraryHandle | undefined

/** Loads the library. Throws where it is missing, does not load or is too old. */
export function loadOrtApi(): OrtApi {
  koffi.config({ async_stack_size: asyncStackBytes, resident_async_pools: 1 })
  library ??= koffi.load(libraryFile())
  // struct OrtApiBase { const OrtApi* (*GetApi)(uint32_t); const char* (*GetVersionString)(); }
  const base: Pointer = library.func('OrtGetApiBase', 'void *', [])()
  const getApi = koffi.decode(koffi.decode(base, 'void *'), koffi.proto('void *', ['uint32_t']))
  const api: Pointer | null = getApi(apiVersion)
  if (!api) throw new Error(`The ONNX Runtime library does not offer API version ${apiVersion}`)

  const loaded = {} as Record<FunctionName, NativeFunction>
  for (const name of Object.keys(functions) as FunctionName[]) {
    const [position, result, parameters] = functions[name]
    const type = koffi.proto(
      typeNames[result]!,
      [...parameters].map(p => typeNames[p]!),
    )
    loaded[name] = koffi.decode(koffi.decode(api, position * koffi.sizeof('void *'), 'void *'), type)
  }

  const throwStatus = (name: FunctionName, status: Pointer) => {
    const message = String(loaded.GetErrorMessage(status))
    loaded.ReleaseStatus(status)
    throw new Error(`ONNX Runtime, ${name}: ${message}`)
  }
  const check: OrtApi['check'] = (name, ...args) => {
    const status = loaded[name](...args) as Pointer | null
    if (status) throwStatus(name, status)
  }
  const cell = new BigUint64Array(1)
  const cellAddress = addressOf(cell)
  const create: OrtApi['create'] = (name, ...args) => {
    check(name, ...args, cellAddress)
    return cell[0]!
  }
  return {
    check,
    create,
    checkAsync: (name, ...args) =>
      new Promise((resolve, reject) => {
        loaded[name].async(...args, (error, status) => {
          if (error) return reject(error)
          if (!status) return resolve()
          try {
            throwStatus(name, status)
          } catch (thrown) {
            reject(thrown as Error)
          }
        })
      }),
    release: (name, handle) => void loaded[name](handle),
    // ORT_LOGGING_LEVEL_FATAL; one environment per process, shared with the binding where that is loaded too, never given back.
    env: create('CreateEnv', 4, 'hartonomous'),
    // OrtArenaAllocator, OrtMemTypeDefault
    cpuMemory: create('CreateCpuMemoryInfo', 1, 0),
  }
}
