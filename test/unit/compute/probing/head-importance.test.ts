import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { withScoringModel } from '../../../../compute/handlers/scoring-model.js'
import { backwardTokens } from '../../../../compute/inference/head-gradients.js'
import { maskedGroups } from '../../../../compute/probing/head-groups.js'
import { type HeadRecord, type HeadRecordStore, headImportance } from '../../../../compute/probing/head-importance.js'
import { groupKey, measureSamples } from '../../../../compute/probing/sample-records.js'
import { type EncodedSample, encodeSamples } from '../../../../compute/probing/scoring.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { encodeSafetensors, type PicoLlama, writePicoLlama } from '../../../testkit/pico-llama.js'
import { referenceNumbers, referenceProbes } from '../../../testkit/reference-probes.js'
import { sharedFile } from '../../../testkit/shared-files.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext()
})
afterAll(() => context.dispose())

const sample = (capability: string, ids: number[], completionStart: number): EncodedSample => ({
  capability,
  ids,
  completionStart,
  completionTokens: ids.length - completionStart,
})
const samples = [
  sample('a', [1, 5, 17, 40, 40, 3, 22, 63, 9], 4),
  sample('b', [1, 30, 8, 12], 2),
  sample('a', [1, 7, 7, 21, 33], 3),
]

async function ingestPico(name: string, change: (pico: PicoLlama) => void = () => {}) {
  const folder = join(context.dataFolder, name)
  const pico = await writePicoLlama(folder, { heads: 4, keyValueHeads: 2 })
  change(pico)
  await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(pico.tensors))
  return { pico, manifest: (await ingestModel({ source: folder }, context)).manifest }
}

/** |d mean completion loss / d gate of one head| in float64: a gate is a factor of the head's columns in o_proj. */
function referenceGradient(
  pico: PicoLlama,
  { ids, completionStart }: EncodedSample,
  layer: number,
  head: number,
): number {
  const name = `model.layers.${layer}.self_attn.o_proj.weight`
  const original = pico.tensors.get(name)!
  const [headSize, width] = [8, 32]
  const loss = (gate: number) => {
    const data = Float64Array.from(original.data, (value, i) =>
      Math.floor((i % width) / headSize) === head ? value * gate : value,
    )
    const tensors = new Map<string, unknown>(pico.tensors).set(name, { shape: original.shape, data })
    const { logits } = runLlamaFloat64({ config: pico.config, tensors: tensors as PicoLlama['tensors'] }, ids)
    const targets = ids.slice(completionStart)
    const sum = targets.reduce((s, target, i) => s + negativeLogLikelihood(logits[completionStart + i - 1]!, target), 0)
    return sum / targets.length
  }
  const h = 1e-5
  return Math.abs((loss(1 + h) - loss(1 - h)) / (2 * h))
}

describe('head importance of a pico Llama', () => {
  test('is the mean of the absolute finite differences per capability, and groups are sums of their heads', async () => {
    const { pico, manifest } = await ingestPico('pico')
    const found = await withScoringModel(manifest, context, ({ heads }) => headImportance(heads, samples, ['a', 'b']))
    for (const { capability, sampleCount, layers } of found) {
      const own = samples.filter(s => s.capability === capability)
      expect(sampleCount).toBe(own.length)
      expect(layers).toHaveLength(2)
      for (const { layerIndex, heads, keyValueGroups } of layers) {
        heads.forEach((importance, head) => {
          const gradients = own.map(s => referenceGradient(pico, s, layerIndex, head))
          const expected = gradients.reduce((a, b) => a + b, 0) / own.length
          expect(Math.abs(importance - expected)).toBeLessThan(1e-5 * Math.max(1, expected))
        })
        expect(keyValueGroups).toEqual([heads[0]! + heads[1]!, heads[2]! + heads[3]!])
      }
    }
  })

  test('attention entropy is the mean over samples of that of float64 attention at all positions but the first', async () => {
    const { pico, manifest } = await ingestPico('pico')
    const [found] = await withScoringModel(manifest, context, ({ heads }) => headImportance(heads, samples, ['a']))
    const own = samples.filter(s => s.capability === 'a')
    for (const { layerIndex, entropy } of found!.layers) {
      entropy.forEach((value, head) => {
        const means = own.map(({ ids }) => {
          const positions = runLlamaFloat64(pico, ids).entropies[layerIndex]!.slice(1)
          return positions.reduce((sum, heads) => sum + heads[head]!, 0) / positions.length
        })
        expect(value).toBeCloseTo((means[0]! + means[1]!) / 2, 5)
      })
    }
  })

  test('the loss without a key/value group is that of a model whose output projection ignores its heads', async () => {
    const { pico, manifest } = await ingestPico('pico')
    const groups = [
      { layerIndex: 0, keyValueHeadIndex: 1 },
      { layerIndex: 1, keyValueHeadIndex: 0 },
    ]
    const { records, groupLosses } = await withScoringModel(manifest, context, ({ scorer, model }) =>
      measureSamples(scorer, model.layerCount, samples, { groups }),
    )
    for (const group of groups) {
      const name = `model.layers.${group.layerIndex}.self_attn.o_proj.weight`
      const original = pico.tensors.get(name)!
      // Two query heads of size 8 per group.
      const data = original.data.map((value, i) => (Math.floor((i % 32) / 16) === group.keyValueHeadIndex ? 0 : value))
      const masked = { ...pico, tensors: new Map(pico.tensors).set(name, { ...original, data }) }
      samples.forEach(({ ids, completionStart }, i) => {
        const { logits } = runLlamaFloat64(masked, ids)
        const expected = ids
          .slice(completionStart)
          .reduce((sum, id, k) => sum + negativeLogLikelihood(logits[completionStart + k - 1]!, id), 0)
        expect(groupLosses[i]![groupKey(group)]! / expected).toBeCloseTo(1, 5)
        expect(records[i]!.nll).not.toBeCloseTo(expected, 3)
      })
    }
    await expect(
      withScoringModel(manifest, context, ({ scorer, model }) =>
        measureSamples(scorer, model.layerCount, samples, { groups: [{ layerIndex: 0, keyValueHeadIndex: 2 }] }),
      ),
    ).rejects.toThrow('group 2 of 2')
  })

  test('samples that were measured before are taken over, and new ones are recorded', async () => {
    const { manifest } = await ingestPico('pico')
    const known = new Map<EncodedSample, HeadRecord>()
    const records: HeadRecordStore = {
      get: one => known.get(one),
      add: async entries => {
        for (const [one, record] of entries) known.set(one, record)
      },
    }
    const steps: unknown[] = []
    const options = { records, progress: (step: unknown) => steps.push(step) }
    const [first, second] = await withScoringModel(manifest, context, async ({ heads }) => [
      await headImportance(heads, samples.slice(0, 2), ['a'], options),
      await headImportance(heads, samples, ['a'], options),
    ])
    expect(steps).toEqual([
      { measured: 0, reused: 0, total: 1 },
      { measured: 1, reused: 0, total: 1 },
      { measured: 0, reused: 1, total: 2 },
      { measured: 1, reused: 1, total: 2 },
    ])
    expect([...known.keys()]).toEqual([samples[0], samples[2]])
    expect([first![0]!.sampleCount, second![0]!.sampleCount]).toEqual([1, 2])
  })

  test('a sample without completion tokens has no loss and no gradients', async () => {
    const { manifest } = await ingestPico('pico')
    const [found] = await withScoringModel(manifest, context, ({ heads }) =>
      heads.gradients([sample('a', [1, 2, 3], 3)], {}),
    )
    expect(found).toEqual({ loss: 0, gradients: new Array(8).fill(0), entropies: new Array(8).fill(0) })
  })

  test('a capability without samples, a cancelled signal and a weight that is not a number are refused', async () => {
    const { manifest } = await ingestPico('pico')
    await withScoringModel(manifest, context, async ({ heads }) => {
      await expect(headImportance(heads, samples, ['c'])).rejects.toMatchObject({
        code: 'INVALID_PROBE_DATASET',
        message: 'c: no sample to measure heads with',
      })
      const signal = AbortSignal.abort()
      await expect(headImportance(heads, samples, ['a'], { signal })).rejects.toMatchObject({ code: 'CANCELLED' })
      await expect(headImportance(heads, [sample('a', [1, 64], 1)], ['a'])).rejects.toThrow('Token id 64 is outside')
    })
    const broken = await ingestPico('broken', pico => {
      pico.tensors.get('model.layers.1.self_attn.v_proj.weight')!.data[3] = Number.NaN
    })
    await withScoringModel(broken.manifest, context, async ({ heads }) => {
      await expect(headImportance(heads, samples, ['a'])).rejects.toMatchObject({
        code: 'NOT_A_NUMBER',
        message: expect.stringMatching(/^model \w+: loss is NaN/),
      })
    })
  })

  test('fewer tokens fit a backward pass the deeper and the longer it is', () => {
    const small = { layerCount: 30, hiddenSize: 576, attentionHeadCount: 9 } as Parameters<typeof backwardTokens>[0]
    expect(backwardTokens(small, 192)).toBe(298)
    expect(backwardTokens(small, 8192)).toBeLessThan(backwardTokens(small, 192))
    expect(backwardTokens({ ...small, layerCount: 1e6 }, 192)).toBe(1)
  })
})

const present = existsSync(sharedFile('reference', 'head_importance.json'))
if (!present) console.warn(`Head importance references skipped: ${sharedFile('reference')} is not there`)

interface Reference {
  lines: number[]
  meanExampleNll: number
  importance: number[][]
  leastKvGroupPerLayer: number[]
  maskedGroups: { layer: number; kvHead: number; deltaNll: number; importanceSum: number }[]
}

test.runIf(present)(
  'SmolLM2: importance within 1e-3 of the reference, the same least group in every layer, and the loss of masked groups',
  async () => {
    const { perTask, maxTokens } = await referenceNumbers<{ perTask: Record<string, Reference>; maxTokens: number }>(
      'head_importance.json',
    )
    // The task of the fewest tokens; `npm run bench -- heads` compares all.
    const reference = perTask.question_answering!
    const probes = await referenceProbes('probe')
    const source = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest } = await ingestModel({ source }, context)
    const groups = reference.maskedGroups.map(g => ({ layerIndex: g.layer, keyValueHeadIndex: g.kvHead }))
    const { found, masked } = await withScoringModel(manifest, context, async ({ model, heads, scorer }) => {
      const chosen = reference.lines.map(line => probes[line]!)
      const encoded = await encodeSamples(model, chosen, maxTokens)
      const measured = await headImportance(heads, encoded, ['question_answering'])
      const { records, groupLosses } = await measureSamples(scorer, model.layerCount, encoded, { only: [], groups })
      return { found: measured[0], masked: maskedGroups(encoded, records, groupLosses, groups, measured) }
    })
    masked.forEach(({ capabilities: [own] }, g) => {
      const { deltaNll, importanceSum } = reference.maskedGroups[g]!
      expect(Math.abs(own!.sampleLossIncrease - deltaNll)).toBeLessThan(1e-3 * Math.abs(deltaNll) + 1e-4)
      expect(own!.importance / importanceSum).toBeCloseTo(1, 3)
    })
    expect(Math.abs(found!.meanSampleLoss / reference.meanExampleNll - 1)).toBeLessThan(1e-4)
    found!.layers.forEach(({ heads, keyValueGroups }, layer) => {
      heads.forEach((importance, head) => {
        const expected = reference.importance[layer]![head]!
        expect(Math.abs(importance - expected)).toBeLessThan(1e-3 * expected + 1e-6)
      })
      expect(keyValueGroups.indexOf(Math.min(...keyValueGroups))).toBe(reference.leastKvGroupPerLayer[layer])
    })
  },
  120_000,
)
