// The evaluation subgraph: text from models, and measurements of how well they do.
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import { EvaluationResolver, ModelResolver } from './evaluation.resolver.js'
import { evaluateEffect } from './evaluation.service.js'
import { GenerateResolver } from './generate.resolver.js'
import { generateEffect } from './generate.service.js'
import { Model } from './references.js'

const { schema, sdl } = buildFederatedSchema(
  { resolvers: [GenerateResolver, EvaluationResolver, ModelResolver], orphanedTypes: [Model] },
  { Model: reference => Object.assign(new Model(), reference) },
)

export const subgraph: Subgraph = {
  name: 'evaluation',
  schema,
  sdl,
  effects: { 'model.generate': generateEffect, 'model.evaluate': evaluateEffect },
}
