// The first stage of a build: a manifest of the parents' layers over their payloads; milliseconds, no tensor byte is read.
import type { Manifest } from '../../../lib/manifest.js'
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { expandRanges, extractLayers, type LayerSource, type Range } from '../../surgery/extract-layers.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { checkPayloads } from '../check-payloads.js'

export async function extractStage(
  ranges: readonly (Range & { manifest?: string | undefined })[],
  { input, payloads, signal, progress }: StageContext,
): Promise<StageOutcome> {
  const parent = await readManifest(payloads, input.parent)
  const others = new Map<string, Manifest>()
  const layers: LayerSource[] = []
  for (const { manifest, ...range } of ranges) {
    if (manifest !== undefined && manifest !== input.parent && !others.has(manifest))
      others.set(manifest, await readManifest(payloads, manifest))
    const { layerCount } = ((manifest !== undefined && others.get(manifest)) || parent).dimensions
    for (const layer of expandRanges([range], layerCount)) layers.push({ layer, manifest })
  }
  if (layers.length === 0) expandRanges([], parent.dimensions.layerCount)
  const student = extractLayers(parent, layers, input.parent, others)
  const total = student.tensors.length
  progress({ stage: 'extract', completed: 0, total, unit: 'tensors' })
  await checkPayloads(payloads, student, signal)
  progress({ stage: 'extract', completed: total, total, unit: 'tensors' })
  const { hash } = await writeManifest(payloads, student, signal)
  return { manifest: hash }
}
