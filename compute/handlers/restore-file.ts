// An original source file from its header and tensors, byte for byte.
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { invalid } from '../formats/tensor-file.js'

type SourceFile = NonNullable<Manifest['sourceFiles']>[number]

/** Chunks of the file in order. @throws DomainError PAYLOAD_MISSING, PAYLOAD_CORRUPT */
export async function* restoreFile(
  payloads: PayloadStore,
  manifest: Manifest,
  file: SourceFile,
): AsyncIterable<Uint8Array> {
  const byName = new Map(manifest.tensors.map(t => [t.name, t]))
  const parts = file.tensors.map(({ name, offset }) => {
    const tensor = byName.get(name)
    if (!tensor) throw invalid(`${file.name}: the manifest holds no tensor ${name}`)
    return { offset, payload: tensor.payload }
  })
  parts.push({ offset: 0, payload: file.header }, ...(file.gaps ?? []))
  // Empty tensors may share their offset with the tensor that follows; any order of those gives the same bytes.
  parts.sort((a, b) => a.offset - b.offset)
  let at = 0
  for (const { offset, payload } of parts) {
    if (offset > at) yield Buffer.alloc(offset - at)
    at = Math.max(at, offset)
    for await (const chunk of payloads.open(payload)) {
      at += chunk.length
      yield chunk
    }
  }
  if (file.bytes > at) yield Buffer.alloc(file.bytes - at)
}
