// The taxonomy subgraph: capabilities, probe sets, analyses, and what they add to models and jobs.
import { fromGlobalId } from '../../lib/ids.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import {
  AnalysisResolver,
  CapabilityScoreResolver,
  JobResolver,
  LayerAnalysisResolver,
  LayerCapabilityResolver,
  ModelResolver,
} from './analysis.resolver.js'
import { analyzeEffect } from './analysis.service.js'
import { CapabilityResolver } from './capability.resolver.js'
import { ProbeDatasetResolver } from './probe-dataset.resolver.js'
import { loadBuiltInProbes, probeDatasetById, probesImportEffect } from './probe-dataset.service.js'
import { Job, Model } from './stubs.js'
import { capabilityById } from './taxonomy.service.js'

const { schema, sdl } = buildFederatedSchema(
  {
    resolvers: [
      CapabilityResolver,
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
    Capability: async ({ id }, context) => (await capabilityById(context).load(fromGlobalId('Capability', id))) ?? null,
    ProbeDataset: async ({ id }, context) =>
      (await probeDatasetById(context).load(fromGlobalId('ProbeDataset', id))) ?? null,
  },
)

export const subgraph: Subgraph = {
  name: 'taxonomy',
  schema,
  sdl,
  effects: { 'capability.analyze': analyzeEffect, 'probes.import': probesImportEffect },
  start: loadBuiltInProbes,
}
