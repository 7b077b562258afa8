// The one place where it is decided how ONNX Runtime is called: through its C API where that loads, else through onnxruntime-node.

import type { Backend, BackendName } from './backend-face.js'
import { bindingBackend } from './binding-session.js'

let native: Promise<Backend | Error> | undefined

/** The native backend, or why there is none: koffi has no binary for this platform, or the library is not where it should be. */
const loadNative = () => {
  native ??= import('./native-session.js').then(
    module => module.nativeBackend(),
    (cause: Error) => cause,
  )
  return native.catch((cause: Error) => cause)
}

/**
 * The backend asked for, or the best one there is of those the device is offered through.
 * @throws Error with the reason where `native` is asked for and does not load here
 */
export async function chooseBackend(
  wanted?: BackendName,
  offered: readonly BackendName[] = ['native', 'binding'],
): Promise<Backend> {
  if (wanted && !offered.includes(wanted)) throw new Error(`This device is not offered through the ${wanted} backend`)
  if (wanted === 'binding' || !offered.includes('native')) return bindingBackend
  const loaded = await loadNative()
  if (!(loaded instanceof Error)) return loaded
  if (wanted === 'native') throw new Error(`The native backend does not load: ${loaded.message}`, { cause: loaded })
  return bindingBackend
}
