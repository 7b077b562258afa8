// The samples that stages of a build measure on: a part to fit and choose with, and one held out that decides whether what was fitted is kept.
import type { Calibration } from '../../../lib/build-stages.js'
import { DomainError } from '../../../lib/errors.js'
import type { Manifest } from '../../../lib/manifest.js'
import { loadTokenizer } from '../../formats/tokenizer.js'
import { parseProbeSet, selectSamples } from '../../probing/probe-set.js'
import { type EncodedSample, encodeSamples } from '../../probing/scoring.js'
import type { StageContext } from '../build-stages.js'

export interface CalibrationSamples {
  /** All of them. */
  all: EncodedSample[]
  /** Every second sample of each capability, and the others. */
  fit: EncodedSample[]
  heldOut: EncodedSample[]
}

/** @throws INVALID_RECIPE where the recipe names none, INVALID_PROBE_DATASET where none is left, NO_TOKENIZER */
export async function calibrationSamples(
  calibration: Calibration | undefined,
  manifest: Manifest,
  { payloads, signal }: StageContext,
): Promise<CalibrationSamples> {
  if (!calibration)
    throw new DomainError('INVALID_RECIPE', 'The recipe measures, but names no probe set to measure on', {
      field: ['input', 'probeDatasetId'],
    })
  const { probeSet, capabilities, samplesPerCapability, maxTokens } = calibration
  const tokenizer = await loadTokenizer(manifest, payloads)
  const samples = selectSamples(await parseProbeSet(await payloads.get(probeSet)), {
    split: 'probe',
    capabilities,
    samplesPerCapability,
  })
  const model = {
    encode: (text: string) => [...tokenizer.encode(text)],
    bosTokenId: tokenizer.addBos ? tokenizer.bosTokenId : undefined,
    contextLength: manifest.dimensions.contextLength ?? maxTokens,
  }
  const all = await encodeSamples(model, samples, maxTokens, signal)
  const counts = new Map<string, number>()
  const [fit, heldOut]: [EncodedSample[], EncodedSample[]] = [[], []]
  for (const sample of all) {
    const count = counts.get(sample.capability) ?? 0
    counts.set(sample.capability, count + 1)
    ;(count % 2 === 0 ? fit : heldOut).push(sample)
  }
  if (all.length === 0)
    throw new DomainError(
      'INVALID_PROBE_DATASET',
      'No sample has completion tokens left after cutting; raise maxTokens',
    )
  return { all, fit, heldOut }
}
