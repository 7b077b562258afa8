// capability.analyze: the baseline of every capability, what each layer, head and key/value group does for it, and what samples have in common.
import { DomainError } from '../../lib/errors.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { writeSafetensorsHeader } from '../formats/safetensors.js'
import type { JobOutput } from '../pool/job-types.js'
import { capabilitiesOf, summariseWithIntervals } from '../probing/evaluate.js'
import { doubtfulGroups, maskedGroups } from '../probing/head-groups.js'
import { type CapabilityHeads, headImportance } from '../probing/head-importance.js'
import { layerClusters, layerVectors } from '../probing/layer-clusters.js'
import { layerInfluence } from '../probing/layer-influence.js'
import { parseProbeSet, selectSamples } from '../probing/probe-set.js'
import { discoverSubcapabilities } from '../probing/sample-clusters.js'
import { groupKey, type SampleRecord } from '../probing/sample-records.js'
import { encodeSamples, type ProbedSample } from '../probing/scoring.js'
import { openAnalysisRecords, openGroupRecords, openHeadRecords } from './analysis-records.js'
import type { Handler } from './handler.js'
import { withScoringModel } from './scoring-model.js'

/** Each costs about half a pass over the samples. */
const defaultMaskedGroups = 4

export const analyzeCapabilities: Handler<'capability.analyze'> = (input, context) =>
  withScoringModel(input.manifest, context, async ({ model, scorer, heads }) => {
    const { signal, dataFolder } = context
    const { layerCount } = model
    const { hiddenSize } = model.layerwise
    const set = await parseProbeSet(await context.payloads.get(input.probeSet))
    const samples = selectSamples(set, { split: 'probe', samplesPerCapability: input.samplesPerCapability })
    const encoded = await encodeSamples(model, samples, input.maxTokens, signal)
    const capabilities = capabilitiesOf(samples)
    const dropped = droppedSamples(samples, encoded)
    checkSomethingLeft(encoded, dropped, Math.min(input.maxTokens, model.contextLength))

    const importance = await headImportance(heads, encoded, capabilities, {
      signal,
      records: await openHeadRecords(dataFolder, input.manifest, heads.layerCount * heads.headCount),
      progress: ({ measured, reused, total }) => {
        const metrics = { samplesDone: measured, samplesReused: reused }
        context.progress({ stage: 'heads', completed: measured + reused, total, unit: 'samples', metrics })
      },
    })
    const groupRecords = await openGroupRecords(dataFolder, input.manifest)
    const groups = doubtfulGroups(
      importance,
      input.maskedGroups ?? defaultMaskedGroups,
      group => encoded.filter(sample => groupRecords.get(sample)?.[groupKey(group)] !== undefined).length,
    )
    const { records, groupLosses, ...influence } = await layerInfluence(scorer, layerCount, encoded, capabilities, {
      groups,
      groupRecords,
      records: await openAnalysisRecords(dataFolder, input.manifest, layerCount, hiddenSize),
      progress: ({ completed, total, samplesDone, samplesReused }) => {
        const metrics = { tokensPerSecond: Math.round(scorer.tokensPerSecond), samplesDone, samplesReused }
        context.progress({ stage: 'layers', completed, total, unit: 'tokens', metrics })
      },
    })

    const seed = input.seed ?? 0
    const vectors = new Map(
      capabilities.map(capability => {
        const own = encoded.flatMap((sample, i) => (sample.capability === capability ? [i] : []))
        const subtasks = own.map(i => encoded[i]!.probe.subtask)
        const measured = own.map(i => records[i]!)
        return [capability, layerVectors(measured, subtasks, layerCount, hiddenSize)] as const
      }),
    )
    return {
      ...influence,
      heads: headsOutput(importance, heads.keyValueHeadCount),
      groups: maskedGroups(encoded, records, groupLosses, groups, importance).map(({ capabilities, ...group }) => ({
        ...group,
        capabilities: capabilities.map(({ sampleLossIncrease: _, ...measured }) => measured),
      })),
      subcapabilities: subcapabilityScores(encoded, records),
      clusters: layerClusters(influence.layers, vectors, seed),
      discoveries: discoverSubcapabilities(encoded, records, capabilities, layerCount, hiddenSize, seed),
      centroids: await storeCentroids(
        context.payloads,
        new Map([...vectors].map(([name, { all }]) => [name, all])),
        layerCount,
        hiddenSize,
      ),
      dropped,
    }
  })

const headsOutput = (importance: readonly CapabilityHeads[], keyValueHeadCount: number) =>
  importance.map(({ capability, layers }) => ({
    capability,
    keyValueHeadCount,
    keyValueHeadCounts: layers.map(layer => layer.keyValueGroups.length),
    layers: layers.map(layer => layer.heads),
    entropy: layers.map(layer => layer.entropy),
  }))

/** Scores of the sub-capabilities that the probe set names. */
function subcapabilityScores(samples: readonly ProbedSample[], records: readonly SampleRecord[]) {
  const named = samples.map(sample => ({ ...sample, capability: `${sample.capability}/${sample.probe.subtask}` }))
  return summariseWithIntervals(named, records, capabilitiesOf(named))
}

function droppedSamples(
  samples: readonly { capability: string }[],
  encoded: readonly { capability: string }[],
): NonNullable<JobOutput<'capability.analyze'>['dropped']> {
  const of = (list: readonly { capability: string }[], slug: string) => list.filter(s => s.capability === slug).length
  return capabilitiesOf(samples)
    .map(capability => ({ capability, count: of(samples, capability) - of(encoded, capability) }))
    .filter(({ count }) => count > 0)
}

/** @throws INVALID_PROBE_DATASET where all samples of a capability were dropped */
function checkSomethingLeft(
  encoded: readonly { capability: string }[],
  dropped: readonly { capability: string; count: number }[],
  limit: number,
) {
  const empty = dropped.find(({ capability }) => !encoded.some(sample => sample.capability === capability))
  if (!empty) return
  const { capability, count } = empty
  throw new DomainError(
    'INVALID_PROBE_DATASET',
    `${capability}: ${count === 1 ? 'the prompt of its only sample fills' : `the prompts of all its ${count} samples fill`} the ${limit} tokens that are read, with no room for a completion; raise maxTokens (as far as the model’s context goes) or shorten the prompts`,
  )
}

/** The mean vectors as a SafeTensors payload: a tensor per capability, [layers, hidden]. */
async function storeCentroids(
  payloads: PayloadStore,
  centroids: ReadonlyMap<string, Float32Array>,
  layerCount: number,
  hiddenSize: number,
): Promise<string> {
  const shape = [layerCount, hiddenSize]
  const tensors = [...centroids].map(([name, { byteLength }]) => ({ name, dtype: 'F32', shape, bytes: byteLength }))
  const bytes = [...centroids.values()].map(v => new Uint8Array(v.buffer, v.byteOffset, v.byteLength))
  const { hash } = await payloads.put([writeSafetensorsHeader(tensors), ...bytes])
  return hash
}
