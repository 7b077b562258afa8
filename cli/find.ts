// Lets people say a name where the API wants an id: the newest model or recipe of that name.
import { PlatformError } from '../lib/client/platform-client.js'
import { parseGlobalId } from '../lib/ids.js'
import { documents } from './documents.js'
import type { ModelSummary, RecipeSummary } from './results.js'
import { note, type Session } from './session.js'

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

/** The end of an id, which differs from thing to thing, where a table has no room: every command takes it for the id. */
export const shortId = (id: string) => parseGlobalId(id)?.id.slice(-8) ?? id

/** An id as tables show it. */
export const idCell = (session: Session, id: string) => (session.ids ? id : shortId(id))

const isCalled = (id: string, reference: string) => id === reference || shortId(id) === reference

/** The id of a job given by its whole id or the short one of a recent job. */
export async function findJobId(session: Session, reference: string): Promise<string> {
  if (parseGlobalId(reference)) return reference
  type Jobs = { jobs: { nodes: { id: string }[] } }
  const { jobs } = await session.client.query<Jobs>(documents.jobs, { first: 100 })
  const found = jobs.nodes.find(j => isCalled(j.id, reference))
  if (!found) throw new PlatformError(`No recent job has the id "${reference}"`, 'NOT_FOUND')
  return found.id
}

interface Named {
  id: string
  name: string
  createdAt: string
}

const listed = (named: Named[]) =>
  named.map(c => `  ${c.id}  of ${c.createdAt.slice(0, 19).replace('T', ' ')}`).join('\n')

/** @param candidates newest first, as the API lists them */
function choose<T extends Named>(kind: string, reference: string, candidates: T[]): T {
  const byId = candidates.find(c => isCalled(c.id, reference))
  if (byId) return byId
  const named = candidates.filter(c => c.name === reference)
  const newest = named[0]
  if (!newest) throw new PlatformError(`No ${kind} has the id or name "${reference}"`, 'NOT_FOUND')
  if (named.length > 1)
    note(
      `${named.length} ${kind}s are called "${reference}": taking the newest; the others by their ids:\n${listed(named)}`,
    )
  return newest
}

/** The newest of several models of one name, which is said on stderr. */
export async function findModel(session: Session, reference: string): Promise<ModelSummary> {
  return choose('model', reference, await allPages<ModelSummary>(session, documents.models, 'models'))
}

/** For what cannot be undone: @throws PlatformError CONFLICT where several models have the name. */
export async function findOneModel(session: Session, reference: string): Promise<ModelSummary> {
  const models = await allPages<ModelSummary>(session, documents.models, 'models')
  const named = models.filter(m => m.name === reference)
  if (named.length > 1 && !models.some(m => isCalled(m.id, reference)))
    throw new PlatformError(
      `${named.length} models are called "${reference}"; give the id of one of them:\n${listed(named)}`,
      'CONFLICT',
    )
  return choose('model', reference, models)
}

export async function findRecipe(session: Session, reference: string): Promise<RecipeSummary> {
  return choose('recipe', reference, await allPages<RecipeSummary>(session, documents.recipes, 'recipes'))
}
