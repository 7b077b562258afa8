// Lets people say a name where the API wants an id: the newest model or recipe of that name.
import { PlatformError } from '../lib/client/platform-client.js'
import { documents } from './documents.js'
import type { ModelSummary, RecipeSummary } from './results.js'
import type { Session } from './session.js'

interface Page<T> {
  nodes: T[]
  pageInfo: { hasNextPage: boolean; endCursor: string | null }
}

/** Every node of a connection, page by page. */
export async function allPages<T>(
  session: Session,
  document: string,
  field: string,
  variables: Record<string, unknown> = {},
): Promise<T[]> {
  const nodes: T[] = []
  for (let after: string | null = null; ; ) {
    const data: Record<string, Page<T>> = await session.client.query(document, { ...variables, after })
    const page = data[field]
    if (!page) return nodes
    nodes.push(...page.nodes)
    if (!page.pageInfo.hasNextPage) return nodes
    after = page.pageInfo.endCursor
  }
}

function choose<T extends { id: string; name: string }>(kind: string, reference: string, candidates: T[]): T {
  const byId = candidates.find(c => c.id === reference)
  if (byId) return byId
  const named = candidates.filter(c => c.name === reference)
  const newest = named.at(-1)
  if (!newest) throw new PlatformError(`No ${kind} has the id or name "${reference}"`, 'NOT_FOUND')
  return newest
}

export async function findModel(session: Session, reference: string): Promise<ModelSummary> {
  const models = await allPages<ModelSummary>(session, documents.models, 'models')
  return choose('model', reference, byAge(models))
}

export async function findRecipe(session: Session, reference: string): Promise<RecipeSummary> {
  return choose('recipe', reference, await allPages<RecipeSummary>(session, documents.recipes, 'recipes'))
}

const byAge = (models: ModelSummary[]) => [...models].sort((a, b) => a.createdAt.localeCompare(b.createdAt))
