// A view of the payload store that re-hashes what is read from it: what leaves the platform is what came in.
import { createHash, type Hash } from 'node:crypto'
import { DomainError } from '../../lib/errors.js'
import { type Manifest, manifestParts } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

/**
 * `get` and `open` throw PAYLOAD_CORRUPT naming the part of the model once the last byte of a payload has been read and the hash is
 * another one. Ranges are checked too where they are read one after the other from the start to the end of the payload.
 */
export function checkedPayloads(payloads: PayloadStore, manifest: Manifest): PayloadStore {
  const parts = new Map(manifestParts(manifest).map(part => [part.payload, part]))
  const reading = new Map<string, { digest: Hash; at: number }>()
  const check = (hash: string, digest: Hash) => {
    if (digest.digest('hex') === hash) return
    const part = parts.get(hash)?.part ?? 'a payload'
    throw new DomainError(
      'PAYLOAD_CORRUPT',
      `${part}: the stored bytes no longer have the hash ${hash}; verify the storage and ingest the model's source again`,
    )
  }

  async function* open(hash: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const state = (offset > 0 && reading.get(hash)) || { digest: createHash('sha256'), at: 0 }
    reading.set(hash, state)
    const inOrder = state.at === offset
    for await (const chunk of payloads.open(hash, offset, length)) {
      if (inOrder) {
        state.digest.update(chunk)
        state.at += chunk.length
      }
      yield chunk
    }
    if (!inOrder || (length !== undefined && state.at !== parts.get(hash)?.bytes)) return
    reading.delete(hash)
    check(hash, state.digest)
  }

  async function get(hash: string): Promise<Uint8Array> {
    const bytes = await payloads.get(hash)
    check(hash, createHash('sha256').update(bytes))
    return bytes
  }

  return { ...payloads, open, get }
}
