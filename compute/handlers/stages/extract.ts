// The first stage of a build: a manifest of the parent's layers over the parent's payloads; milliseconds, no tensor byte is read.
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { expandRanges, extractLayers, type Range } from '../../surgery/extract-layers.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { checkPayloads } from '../check-payloads.js'

export async function extractStage(
  ranges: readonly Range[],
  { input, payloads, signal, progress }: StageContext,
): Promise<StageOutcome> {
  const parent = await readManifest(payloads, input.parent)
  const layers = expandRanges(ranges, parent.dimensions.layerCount)
  const student = extractLayers(parent, layers, input.parent)
  const total = student.tensors.length
  progress({ stage: 'extract', completed: 0, total, unit: 'tensors' })
  await checkPayloads(payloads, student, signal)
  progress({ stage: 'extract', completed: total, total, unit: 'tensors' })
  const { hash } = await writeManifest(payloads, student, signal)
  return { manifest: hash }
}
