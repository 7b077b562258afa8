// The taxonomy subgraph: capabilities, probe sets, analyses, and what they add to models and jobs.
import { type NodeType, parseGlobalId } from '../../lib/ids.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import { analyzeEffect } from './analysis.effects.js'
import {
  AnalysisResolver,
  CapabilityScoreResolver,
  JobResolver,
  LayerAnalysisResolver,
  LayerCapabilityResolver,
  ModelResolver,
} from './analysis.resolver.js'
import { CapabilityResolver } from './capability.resolver.js'
import { DiscoveryResolver } from './discovery.resolver.js'
import {
  DroppedSamplesResolver,
  LayerClusterResolver,
  MaskedGroupResolver,
  ModelCapabilityScoreResolver,
} from './insight.resolver.js'
import { ProbeDatasetResolver } from './probe-dataset.resolver.js'
import { loadBuiltInProbes, probeDatasetById, probesImportEffect } from './probe-dataset.service.js'
import { Job, Model } from './references.js'
import { capabilityById } from './taxonomy.service.js'

const rowId = (type: NodeType, globalId: string) => {
  const parsed = parseGlobalId(globalId)
  return parsed?.type === type ? parsed.id : undefined
}

const { schema, sdl } = buildFederatedSchema(
  {
    resolvers: [
      CapabilityResolver,
      DiscoveryResolver,
      LayerClusterResolver,
      MaskedGroupResolver,
      DroppedSamplesResolver,
      ModelCapabilityScoreResolver,
      ProbeDatasetResolver,
      AnalysisResolver,
      LayerAnalysisResolver,
      LayerCapabilityResolver,
      CapabilityScoreResolver,
      ModelResolver,
      JobResolver,
    ],
    orphanedTypes: [Model, Job],
  },
  {
    Model: reference => Object.assign(new Model(), reference),
    Job: reference => Object.assign(new Job(), reference),
    async Capability({ id }, context) {
      const row = rowId('Capability', id)
      return (row && (await capabilityById(context).load(row))) || null
    },
    async ProbeDataset({ id }, context) {
      const row = rowId('ProbeDataset', id)
      return (row && (await probeDatasetById(context).load(row))) || null
    },
  },
)

export const subgraph: Subgraph = {
  name: 'taxonomy',
  schema,
  sdl,
  effects: { 'capability.analyze': analyzeEffect, 'probes.import': probesImportEffect },
  start: loadBuiltInProbes,
}
