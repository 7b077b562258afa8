// student.build: a depth-cut student is one new manifest over its parent's payloads; milliseconds, no tensor byte is read.
import { DomainError, isDomainError } from '../../lib/errors.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { readManifest, writeManifest } from '../formats/manifest.js'
import { expandRanges, extractLayers } from '../surgery/extract-layers.js'
import type { Handler } from './handler.js'

/** Open file-system calls at once: enough to hide latency, few enough for any limit on open files. */
const concurrency = 32

/** @throws PAYLOAD_MISSING naming the tensor, PAYLOAD_CORRUPT where a payload has another size than its tensor */
async function checkPayloads(
  store: PayloadStore,
  wanted: readonly { name: string; payload: string; bytes?: number }[],
  signal: AbortSignal,
): Promise<void> {
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

export const buildStudent: Handler<'student.build'> = async (input, { payloads, signal, progress }) => {
  const parent = await readManifest(payloads, input.parent)
  const layers = expandRanges(input.layers, parent.dimensions.layerCount)
  const student = extractLayers(parent, layers, input.parent)
  const { tokenizer, sourceConfig } = student
  const files = [
    { name: 'tokenizer.json', payload: tokenizer?.tokenizerJson },
    { name: 'tokenizer_config.json', payload: tokenizer?.tokenizerConfig },
    { name: 'source configuration', payload: sourceConfig },
  ].flatMap(({ name, payload }) => (payload ? { name, payload } : []))
  progress({ stage: 'check', completed: 0, total: student.tensors.length, unit: 'tensors' })
  await checkPayloads(payloads, [...student.tensors, ...files], signal)
  progress({ stage: 'check', completed: student.tensors.length, total: student.tensors.length, unit: 'tensors' })
  const { hash } = await writeManifest(payloads, student, signal)
  return { manifest: hash, parameterCount: student.parameterCount, layerCount: layers.length }
}
