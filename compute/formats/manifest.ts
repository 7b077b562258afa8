// Manifests as payloads: canonical JSON, so that equal models have equal hashes.
import { DomainError } from '../../lib/errors.js'
import { type Manifest, manifestSchema } from '../../lib/manifest.js'
import type { PayloadStore, PutResult } from '../../payloads/payload-store.js'

/** Reads and checks a manifest. Throws PAYLOAD_MISSING where it is absent, PAYLOAD_CORRUPT where it is not a manifest. */
export async function readManifest(payloads: Pick<PayloadStore, 'get'>, hash: string): Promise<Manifest> {
  const bytes = await payloads.get(hash)
  try {
    return manifestSchema.parse(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)))
  } catch (cause) {
    throw new DomainError('PAYLOAD_CORRUPT', `Payload ${hash} is not a manifest`, { cause })
  }
}

/** The bytes a manifest is stored as: keys in the schema's order, nothing that the schema does not know. */
export const encodeManifest = (manifest: Manifest): Uint8Array =>
  new TextEncoder().encode(JSON.stringify(manifestSchema.parse(manifest)))

export const writeManifest = (
  payloads: Pick<PayloadStore, 'put'>,
  manifest: Manifest,
  signal?: AbortSignal,
): Promise<PutResult> => payloads.put([encodeManifest(manifest)], signal)
