// What the pictures show, read through the graph's own operations, never from the database.
import type { GraphQLFormattedError } from 'graphql'

export interface LayerLosses {
  layerIndex: number
  /** Nats per completion token that skipping the layer adds, per capability of `PictureAnalysis.capabilities`; null: not measured. */
  lossIncrease: (number | null)[]
}

export interface PictureAnalysis {
  modelName: string
  parameterCount: number
  probeSet: string
  /** Slugs, in the probe set's order. */
  capabilities: string[]
  layers: LayerLosses[]
}

export interface PlottedRecipe {
  name: string
  capability: string | null
  parameterCount: number
  /** exp(-(student loss - parent loss)); 1 is the parent. */
  quality: number
  /** Of the built student; otherwise estimated by the search. */
  measured: boolean
}

export interface PictureRecipes {
  modelName: string
  /** Parameters of the parent. */
  parameterCount: number
  recipes: PlottedRecipe[]
  /** Recipes that nothing was measured for. */
  unmeasured: number
}

/** `undefined`: no such model. `null`: nothing to draw. */
export type Found<T> = T | null | undefined

/** Runs a query of the whole graph; `signal` fires when the client has gone. */
export type RunQuery = (
  query: string,
  variables: Record<string, unknown>,
  signal: AbortSignal,
) => Promise<{ data?: Record<string, unknown> | null; errors?: readonly GraphQLFormattedError[] }>

/** More points than these make no picture. */
const maximumRecipes = 500

const analysisQuery = `query PictureAnalysis($id: ID!) {
  model(id: $id) { name parameterCount analysis {
    probeDataset { name version }
    baseline { capability { slug } }
    layers { layerIndex capabilities { capability { slug } lossIncrease } }
  } }
}`

interface AnalysisAnswer {
  name: string
  parameterCount: number | string
  analysis: {
    probeDataset: { name: string; version: number }
    baseline: { capability: { slug: string } }[]
    layers: { layerIndex: number; capabilities: { capability: { slug: string }; lossIncrease: number }[] }[]
  } | null
}

const recipesQuery = `query PictureRecipes($id: ID!, $after: String) {
  model(id: $id) { name parameterCount recipes(first: 100, after: $after) {
    nodes { name capability { slug } estimatedParameterCount estimatedQuality measuredQuality student { parameterCount } }
    pageInfo { hasNextPage endCursor }
  } }
}`

interface RecipesAnswer {
  name: string
  parameterCount: number | string
  recipes: {
    nodes: {
      name: string
      capability: { slug: string } | null
      estimatedParameterCount: number | string
      estimatedQuality: number | null
      measuredQuality: number | null
      student: { parameterCount: number | string } | null
    }[]
    pageInfo: { hasNextPage: boolean; endCursor: string | null }
  }
}

/** The queries of one request. */
export type Query = (query: string, variables: Record<string, unknown>) => ReturnType<RunQuery>

async function modelOf<T>(run: Query, query: string, variables: Record<string, unknown>): Promise<T | null> {
  const { data, errors } = await run(query, variables)
  const [error] = errors ?? []
  if (error && error.extensions?.code !== 'NOT_FOUND') throw new Error(`picture: ${error.message}`)
  return (data?.model as T | null | undefined) ?? null
}

/** The newest analysis of a model. */
export async function findPictureAnalysis(run: Query, id: string): Promise<Found<PictureAnalysis>> {
  const model = await modelOf<AnalysisAnswer>(run, analysisQuery, { id })
  if (!model) return undefined
  const { analysis } = model
  if (!analysis?.layers.length || !analysis.baseline.length) return null
  const capabilities = analysis.baseline.map(b => b.capability.slug)
  return {
    modelName: model.name,
    parameterCount: Number(model.parameterCount),
    probeSet: `${analysis.probeDataset.name} version ${analysis.probeDataset.version}`,
    capabilities,
    layers: analysis.layers.map(({ layerIndex, capabilities: measured }) => {
      const bySlug = new Map(measured.map(c => [c.capability.slug, c.lossIncrease]))
      return { layerIndex, lossIncrease: capabilities.map(slug => bySlug.get(slug) ?? null) }
    }),
  }
}

/** A model's recipes whose quality is known, at most 500 of them, the ones first in the graph's own order. */
export async function findPictureRecipes(run: Query, id: string): Promise<Found<PictureRecipes>> {
  const found: PictureRecipes = { modelName: '', parameterCount: 0, recipes: [], unmeasured: 0 }
  let after: string | null = null
  do {
    const model: RecipesAnswer | null = await modelOf<RecipesAnswer>(run, recipesQuery, { id, after })
    if (!model) return undefined
    found.modelName = model.name
    found.parameterCount = Number(model.parameterCount)
    for (const recipe of model.recipes.nodes) {
      const quality = recipe.measuredQuality ?? recipe.estimatedQuality
      if (quality === null) found.unmeasured++
      else
        found.recipes.push({
          name: recipe.name,
          capability: recipe.capability?.slug ?? null,
          parameterCount: Number(recipe.student?.parameterCount ?? recipe.estimatedParameterCount),
          quality,
          measured: recipe.measuredQuality !== null,
        })
    }
    after = model.recipes.pageInfo.hasNextPage ? model.recipes.pageInfo.endCursor : null
  } while (after && found.recipes.length + found.unmeasured < maximumRecipes)
  return found.recipes.length > 0 ? found : null
}
