// The first stage of a build: a manifest of the parents' layers over their payloads; milliseconds, no tensor byte is read.
import type { Manifest } from '../../../lib/manifest.js'
import { writeManifest } from '../../formats/manifest.js'
import { expandRanges, extractLayers, type LayerSource, type Range } from '../../surgery/extract-layers.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { checkPayloads } from '../check-payloads.js'
import { withFullPrecision } from '../full-precision.js'

/**
 * @param fullPrecision takes layers of models that were quantised here from the values before, where those are kept
 */
export async function extractStage(
  ranges: readonly (Range & { manifest?: string | undefined })[],
  fullPrecision: boolean,
  { input, payloads, signal, progress }: StageContext,
): Promise<StageOutcome> {
  const open = async (hash: string) => {
    const [own, before] = await withFullPrecision(hash, payloads)
    return (fullPrecision && before) || own!
  }
  const parent = await open(input.parent)
  const others = new Map<string, Manifest>()
  const layers: LayerSource[] = []
  for (const { manifest: hash, ...range } of ranges) {
    const of = hash === undefined || hash === input.parent ? parent : await open(hash)
    if (of.hash !== parent.hash) others.set(of.hash, of.manifest)
    for (const layer of expandRanges([range], of.manifest.dimensions.layerCount))
      layers.push({ layer, manifest: of.hash === parent.hash ? undefined : of.hash })
  }
  if (layers.length === 0) expandRanges([], parent.manifest.dimensions.layerCount)
  const student = extractLayers(parent.manifest, layers, parent.hash, others)
  const total = student.tensors.length
  progress({ stage: 'extract', completed: 0, total, unit: 'tensors' })
  await checkPayloads(payloads, student, signal)
  progress({ stage: 'extract', completed: total, total, unit: 'tensors' })
  const { hash } = await writeManifest(payloads, student, signal)
  return { manifest: hash }
}
