// Whether everything a manifest needs is in the store, by name and size; no byte is read.
import { DomainError, isDomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

/** Open file-system calls at once: enough to hide latency, few enough for any limit on open files. */
const concurrency = 32

/** @throws PAYLOAD_MISSING naming the tensor, PAYLOAD_CORRUPT where a payload has another size than its tensor */
export async function checkPayloads(store: PayloadStore, manifest: Manifest, signal: AbortSignal): Promise<void> {
  const { tokenizer, sourceConfig } = manifest
  const files = [
    { name: 'tokenizer.json', payload: tokenizer?.tokenizerJson },
    { name: 'tokenizer_config.json', payload: tokenizer?.tokenizerConfig },
    { name: 'source configuration', payload: sourceConfig },
  ].flatMap(({ name, payload }) => (payload ? { name, payload } : []))
  const wanted: readonly { name: string; payload: string; bytes?: number }[] = [...manifest.tensors, ...files]
  const queue = wanted.values()
  const check = async () => {
    for (const { name, payload, bytes } of queue) {
      throwIfAborted(signal)
      const stored = await store.size(payload).catch(cause => {
        if (!isDomainError(cause) || cause.code !== 'PAYLOAD_MISSING') throw cause
        throw new DomainError('PAYLOAD_MISSING', `${name}: payload ${payload} is not in the store`, { cause })
      })
      if (bytes !== undefined && stored !== bytes)
        throw new DomainError('PAYLOAD_CORRUPT', `${name}: payload ${payload} has ${stored} bytes, expected ${bytes}`)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, check))
}
