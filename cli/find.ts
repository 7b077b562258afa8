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

/** @param candidates newest first, as the API lists them */
function choose<T extends { id: string; name: string }>(kind: string, reference: string, candidates: T[]): T {
  const byId = candidates.find(c => c.id === reference)
  if (byId) return byId
  const newest = candidates.find(c => c.name === reference)
  if (!newest) throw new PlatformError(`No ${kind} has the id or name "${reference}"`, 'NOT_FOUND')
  return newest
}

export async function findModel(session: Session, reference: string): Promise<ModelSummary> {
  return choose('model', reference, await allPages<ModelSummary>(session, documents.models, 'models'))
}

export async function findRecipe(session: Session, reference: string): Promise<RecipeSummary> {
  return choose('recipe', reference, await allPages<RecipeSummary>(session, documents.recipes, 'recipes'))
}
