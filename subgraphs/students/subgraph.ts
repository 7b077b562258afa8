// The students subgraph: recipes, approval, building, and what they add to models and jobs.
import { parseGlobalId } from '../../lib/ids.js'
import { buildFederatedSchema } from '../build/schema.js'
import type { Subgraph } from '../build/subgraph.js'
import { buildEffect } from './build.service.js'
import { proposeEffect } from './proposal.service.js'
import { recipeById } from './recipe.loaders.js'
import { JobResolver, ModelResolver, RecipeResolver } from './recipe.resolver.js'
import { Job, Model } from './references.js'

const { schema, sdl } = buildFederatedSchema(
  { resolvers: [RecipeResolver, ModelResolver, JobResolver], orphanedTypes: [Model, Job] },
  {
    Model: reference => Object.assign(new Model(), reference),
    Job: reference => Object.assign(new Job(), reference),
    async Recipe({ id }, context) {
      const parsed = parseGlobalId(id)
      return (parsed?.type === 'Recipe' && (await recipeById(context).load(parsed.id))) || null
    },
  },
)

export const subgraph: Subgraph = {
  name: 'students',
  schema,
  sdl,
  effects: { 'students.propose': proposeEffect, 'student.build': buildEffect },
}
