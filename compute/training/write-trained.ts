// Trained weights as payloads, and the manifest of the model that has them.
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore, PutResult } from '../../payloads/payload-store.js'
import { describeTensor } from '../architectures/registry.js'
import { writeManifest } from '../formats/manifest.js'

/** Bytes handed to the store at once. */
const pieceBytes = 4 * 1024 * 1024

/**
 * Writes a model's trained tensors (by role) as float32 and a manifest with them in the places of the ones they come from.
 * @param further what else the manifest says, given its tensors
 */
export async function writeTrained(
  manifest: Manifest,
  tensors: readonly { name: string; weight: Float32Array }[],
  { payloads, signal }: { payloads: PayloadStore; signal?: AbortSignal },
  further?: (tensors: readonly ManifestTensor[]) => Promise<Partial<Manifest>>,
): Promise<PutResult> {
  const trained = new Map(tensors.map(({ name, weight }) => [name, weight]))
  const entries: Manifest['tensors'] = []
  for (const tensor of manifest.tensors) {
    const role = tensor.role ?? describeTensor(manifest.architecture, manifest.format, tensor.name).role
    const weight = role === undefined ? undefined : trained.get(role)
    if (!weight) {
      entries.push(tensor)
      continue
    }
    const { hash } = await payloads.put(pieces(weight), signal)
    entries.push({
      ...tensor,
      dtype: 'F32',
      bytes: weight.byteLength,
      payload: hash,
      ...(tensor.slice ? { slice: { ...tensor.slice, changed: true } } : {}),
    })
  }
  const {
    sourceFiles: _ofTheOriginal,
    quantisedFrom: _beforeTraining,
    fusedFrom: _before,
    adapter: _ofThoseBefore,
    ...rest
  } = manifest
  return writeManifest(payloads, { ...rest, ...(await further?.(entries)), tensors: entries }, signal)
}

function* pieces(values: Float32Array): Iterable<Uint8Array> {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
}
