// A model's manifest as the control plane reads it, from the payload store.
import { type Manifest, manifestSchema } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

export const readManifest = async (payloads: Pick<PayloadStore, 'get'>, hash: string): Promise<Manifest> =>
  manifestSchema.parse(JSON.parse(Buffer.from(await payloads.get(hash)).toString('utf8')))
