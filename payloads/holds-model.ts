// Whether a model can still be worked with: a manifest that is kept as lineage only has lost its tensors to the garbage collection.
import { type Manifest, manifestPayloads } from '../lib/manifest.js'
import type { PayloadStore } from './payload-store.js'

/** Whether all payloads of the manifest are in the store; headers of the files it came in aside, which only the model itself is given back with. */
export async function holdsModel(
  payloads: Pick<PayloadStore, 'has'>,
  { sourceFiles: _ofItself, ...model }: Manifest,
): Promise<boolean> {
  const present = await Promise.all([...manifestPayloads(model)].map(hash => payloads.has(hash)))
  return present.every(Boolean)
}
