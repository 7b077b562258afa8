// `storage.verify`: every payload is read again; those whose bytes no longer have the hash they are stored under are listed.
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { Handler } from './handler.js'

export const verifyStorage: Handler<'storage.verify'> = async (_input, { payloads, signal, progress }) => {
  const all: { hash: string; bytes: number }[] = []
  for await (const payload of payloads.list()) all.push(payload)
  const total = all.reduce((sum, p) => sum + p.bytes, 0)
  const corrupt: string[] = []
  let bytes = 0
  for (const payload of all) {
    throwIfAborted(signal)
    progress({ stage: 'verify', completed: bytes, total, unit: 'bytes' })
    const found = await payloads.verify(payload.hash, signal)
    if (found.hash !== payload.hash) corrupt.push(payload.hash)
    bytes += payload.bytes
  }
  progress({ stage: 'verify', completed: bytes, total, unit: 'bytes' })
  return { payloads: all.length, bytes, corrupt }
}
