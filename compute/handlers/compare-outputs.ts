// Whether two forms of a model say the same: logits of generation, at the end of prompts and token by token after them.
import type { FusionCheck } from '../../lib/fusion.js'
import type { Manifest } from '../../lib/manifest.js'
import { loadTokenizer } from '../formats/tokenizer.js'
import { openModel } from '../inference/model.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { encodeSamples } from '../probing/scoring.js'
import type { HandlerContext } from './handler.js'

/** Samples per capability, and tokens of each that are decoded one at a time. */
const samplesPerCapability = 2
const decoded = 8
const maxTokens = 256

const best = (logits: Float32Array) => logits.reduce((at, value, i) => (value > logits[at]! ? i : at), 0)

/** @throws INVALID_PROBE_DATASET where no sample is left, and what opening models throws */
export async function compareOutputs(
  before: Manifest,
  after: Manifest,
  probeSet: string,
  context: HandlerContext,
): Promise<FusionCheck> {
  const { payloads, signal, progress } = context
  const tokenizer = await loadTokenizer(before, payloads)
  const set = await parseProbeSet(await payloads.get(probeSet))
  const selected = selectSamples(set, { split: 'validation', samplesPerCapability })
  const [first, second] = [await openModel(before, context), await openModel(after, context)]
  try {
    const encoder = {
      encode: (text: string) => tokenizer.encode(text),
      bosTokenId: tokenizer.addBos ? tokenizer.bosTokenId : undefined,
      contextLength: first.dimensions.contextLength,
    }
    const samples = await encodeSamples(encoder, selected, maxTokens, signal)
    const check = { positions: 0, largestDeviation: 0, agreement: 0 }
    for (const [i, { ids }] of samples.entries()) {
      const cut = Math.max(1, ids.length - decoded)
      const sequences = [first.startSequence(), second.startSequence()]
      for (const part of [ids.slice(0, cut), ...[...ids.slice(cut)].map(id => [id])]) {
        const a = (await sequences[0]!.append(part, signal)).slice()
        const b = await sequences[1]!.append(part, signal)
        const scale = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1
        const worst = a.reduce((most, value, j) => Math.max(most, Math.abs(value - b[j]!)), 0)
        check.positions++
        check.largestDeviation = Math.max(check.largestDeviation, worst / scale)
        check.agreement += best(a) === best(b) ? 1 : 0
      }
      progress({ stage: 'compare', completed: i + 1, total: samples.length, unit: 'samples' })
    }
    return { ...check, agreement: check.positions > 0 ? check.agreement / check.positions : 1 }
  } finally {
    await first.dispose()
    await second.dispose()
  }
}
