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
  /** How many each capability was measured on. */
  samples: number[]
  layers: LayerLosses[]
}

export interface PictureHeads {
  modelName: string
  probeSet: string
  /** How many each capability was measured on. */
  samples: number[]
  /** [layer][query head] |d loss / d gate|, nats per completion token. */
  importance: number[][]
  /** [layer] key/value head of each query head. */
  groups: number[][]
  /** Key/value heads whose loss was measured without them; mean over the capabilities, nats per completion token. */
  masked: { layerIndex: number; keyValueHeadIndex: number; lossIncrease: number }[]
}

export interface PlottedRecipe {
  name: string
  /** Or the name of its mixture of several. */
  capability: string | null
  /** Layers that it keeps. */
  layerCount: number
  /** Whether its cuts are fitted. */
  fitted: boolean
  /** Whether heads or units go, not only layers. */
  pruned: boolean
  parameterCount: number
  /** exp(-(student loss - parent loss)); 1 is the parent. */
  quality: number
  /** 95 % interval of an estimated quality; null where there is none. */
  interval: [number, number] | null
  /** Of the built student; otherwise estimated by the search. */
  measured: boolean
  /** What the estimate rests on; null where there is none. */
  validationSamples: number | null
}

export interface PictureRecipes {
  modelName: string
  /** Parameters and layers of the parent. */
  parameterCount: number
  layerCount: number
  /** Slugs that its newest analysis measured, in the probe set's order. */
  capabilities: string[]
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
    baseline { capability { slug } sampleCount }
    layers { layerIndex capabilities { capability { slug } lossIncrease } }
  } }
}`

interface AnalysisAnswer {
  name: string
  parameterCount: number | string
  analysis: {
    probeDataset: { name: string; version: number }
    baseline: { capability: { slug: string }; sampleCount: number }[]
    layers: { layerIndex: number; capabilities: { capability: { slug: string }; lossIncrease: number }[] }[]
  } | null
}

const headsQuery = `query PictureHeads($id: ID!) {
  model(id: $id) { name analysis {
    probeDataset { name version }
    baseline { sampleCount }
    layers { layerIndex heads { headIndex keyValueHeadIndex importance } }
    maskedGroups { layerIndex keyValueHeadIndex lossIncrease }
  } }
}`

interface HeadsAnswer {
  name: string
  analysis: {
    probeDataset: { name: string; version: number }
    baseline: { sampleCount: number }[]
    layers: { layerIndex: number; heads: { headIndex: number; keyValueHeadIndex: number; importance: number }[] }[]
    maskedGroups: { layerIndex: number; keyValueHeadIndex: number; lossIncrease: number }[]
  } | null
}

const recipesQuery = `query PictureRecipes($id: ID!, $after: String) {
  model(id: $id) { name parameterCount layerCount analysis { baseline { capability { slug } } } recipes(first: 100, after: $after) {
    nodes {
      name capability { slug } mixture { name } layerCount correctCuts headPruning { unit } feedForwardPruning { metric }
      estimatedParameterCount estimatedQuality estimatedQualityInterval validationSamples measuredQuality measuredAgainst { id } student { parameterCount }
    }
    pageInfo { hasNextPage endCursor }
  } }
}`

interface RecipesAnswer {
  name: string
  parameterCount: number | string
  layerCount: number
  analysis: { baseline: { capability: { slug: string } }[] } | null
  recipes: {
    nodes: {
      name: string
      capability: { slug: string } | null
      mixture: { name: string } | null
      layerCount: number
      correctCuts: boolean
      headPruning: object | null
      feedForwardPruning: object | null
      estimatedParameterCount: number | string
      estimatedQuality: number | null
      estimatedQualityInterval: [number, number] | null
      validationSamples: number | null
      measuredQuality: number | null
      measuredAgainst: { id: string } | null
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

const namesQuery = `query PictureNames($name: String!, $after: String) {
  models(nameContains: $name, first: 100, after: $after) { nodes { id name } pageInfo { hasNextPage endCursor } }
}`

interface NamesAnswer {
  models: { nodes: { id: string; name: string }[]; pageInfo: { hasNextPage: boolean; endCursor: string | null } }
}

/** Id of the newest model of exactly this name. */
export async function findModelNamed(run: Query, name: string): Promise<string | undefined> {
  let after: string | null = null
  do {
    const { data, errors } = await run(namesQuery, { name, after })
    if (errors?.[0]) throw new Error(`picture: ${errors[0].message}`)
    const { nodes, pageInfo } = (data as unknown as NamesAnswer).models
    const found = nodes.find(model => model.name === name)
    if (found) return found.id
    after = pageInfo.hasNextPage ? pageInfo.endCursor : null
  } while (after)
  return undefined
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
    samples: analysis.baseline.map(b => b.sampleCount),
    layers: analysis.layers.map(({ layerIndex, capabilities: measured }) => {
      const bySlug = new Map(measured.map(c => [c.capability.slug, c.lossIncrease]))
      return { layerIndex, lossIncrease: capabilities.map(slug => bySlug.get(slug) ?? null) }
    }),
  }
}

/** The attention heads in a model's newest analysis, mean over its capabilities. */
export async function findPictureHeads(run: Query, id: string): Promise<Found<PictureHeads>> {
  const model = await modelOf<HeadsAnswer>(run, headsQuery, { id })
  if (!model) return undefined
  const { analysis } = model
  if (!analysis?.layers.some(layer => layer.heads.length > 0)) return null
  const masked = new Map<string, { layerIndex: number; keyValueHeadIndex: number; lossIncreases: number[] }>()
  for (const { layerIndex, keyValueHeadIndex, lossIncrease } of analysis.maskedGroups) {
    const key = `${layerIndex}/${keyValueHeadIndex}`
    const group = masked.get(key) ?? { layerIndex, keyValueHeadIndex, lossIncreases: [] }
    group.lossIncreases.push(lossIncrease)
    masked.set(key, group)
  }
  return {
    modelName: model.name,
    probeSet: `${analysis.probeDataset.name} version ${analysis.probeDataset.version}`,
    samples: analysis.baseline.map(b => b.sampleCount),
    importance: analysis.layers.map(layer => layer.heads.map(head => head.importance)),
    groups: analysis.layers.map(layer => layer.heads.map(head => head.keyValueHeadIndex)),
    masked: [...masked.values()].map(({ lossIncreases, ...group }) => ({
      ...group,
      lossIncrease: lossIncreases.reduce((sum, loss) => sum + loss, 0) / lossIncreases.length,
    })),
  }
}

/** A model's recipes whose quality is known, at most 500 of them, the ones first in the graph's own order. */
export async function findPictureRecipes(run: Query, id: string): Promise<Found<PictureRecipes>> {
  const found: PictureRecipes = {
    modelName: '',
    parameterCount: 0,
    layerCount: 0,
    capabilities: [],
    recipes: [],
    unmeasured: 0,
  }
  let after: string | null = null
  do {
    const model: RecipesAnswer | null = await modelOf<RecipesAnswer>(run, recipesQuery, { id, after })
    if (!model) return undefined
    found.modelName = model.name
    found.parameterCount = Number(model.parameterCount)
    found.layerCount = model.layerCount
    found.capabilities = model.analysis?.baseline.map(b => b.capability.slug) ?? []
    for (const recipe of model.recipes.nodes) {
      // What was trained after a teacher is measured beside that, and has no place where 1 is another model.
      const measured = recipe.measuredAgainst?.id === id ? recipe.measuredQuality : null
      const quality = measured ?? recipe.estimatedQuality
      if (quality === null) found.unmeasured++
      else
        found.recipes.push({
          name: recipe.name,
          capability: recipe.capability?.slug ?? recipe.mixture?.name ?? null,
          layerCount: recipe.layerCount,
          fitted: recipe.correctCuts,
          pruned: recipe.headPruning !== null || recipe.feedForwardPruning !== null,
          parameterCount: Number(recipe.student?.parameterCount ?? recipe.estimatedParameterCount),
          quality,
          interval: measured === null ? recipe.estimatedQualityInterval : null,
          measured: measured !== null,
          validationSamples: recipe.validationSamples,
        })
    }
    after = model.recipes.pageInfo.hasNextPage ? model.recipes.pageInfo.endCursor : null
  } while (after && found.recipes.length + found.unmeasured < maximumRecipes)
  return found.recipes.length > 0 ? found : null
}
