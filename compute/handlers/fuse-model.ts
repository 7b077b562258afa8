// model.fuse: what of a model's graph is worth computing at once on this device.
import { fuseManifest } from './fuse-manifest.js'
import type { Handler } from './handler.js'

export const fuseModel: Handler<'model.fuse'> = async ({ manifest, options, probeSet }, context) => {
  const begin = performance.now()
  const fused = await fuseManifest(manifest, options, probeSet, context)
  return { ...fused, seconds: (performance.now() - begin) / 1000 }
}
