// Lets people say a name where the API wants an id: the newest model or recipe of that name.
import { PlatformError } from '../lib/client/platform-client.js'
import { parseGlobalId } from '../lib/ids.js'
import { documents } from './documents.js'
import type { ModelSummary, RecipeSummary } from './results.js'
import { note, type Session } from './session.js'
import { idCell, shortId } from './short-id.js'

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

const isCalled = (id: string, reference: string) => id === reference || shortId(id) === reference

/** The id of a job given by its whole id or the short one. */
export async function findJobId(session: Session, reference: string): Promise<string> {
  if (parseGlobalId(reference)) return reference
  type Jobs = { jobs: Page<{ id: string }> }
  for (let after: string | null = null; ; ) {
    const { jobs }: Jobs = await session.client.query<Jobs>(documents.jobIds, { after })
    const found = jobs.nodes.find(j => isCalled(j.id, reference))
    if (found) return found.id
    if (!jobs.pageInfo.hasNextPage) throw new PlatformError(`No job has the id "${reference}"`, 'NOT_FOUND')
    after = jobs.pageInfo.endCursor
  }
}

interface Named {
  id: string
  name: string
  createdAt: string
  status?: string
}

const listed = (session: Pick<Session, 'ids'>, named: Named[]) =>
  named
    .map(
      c =>
        `  ${idCell(session, c.id)}  ${c.status ? `${c.status}  ` : ''}of ${c.createdAt.slice(0, 19).replace('T', ' ')}`,
    )
    .join('\n')

/**
 * The one that has the id, or the newest of those that have the name: of those in the first status of `preferred` that any is in.
 * @param candidates newest first, as the API lists them
 */
export function choose<T extends Named>(
  session: Pick<Session, 'ids'>,
  kind: string,
  reference: string,
  candidates: readonly T[],
  preferred: readonly string[] = [],
): T {
  const byId = candidates.find(c => isCalled(c.id, reference))
  if (byId) return byId
  const named = candidates.filter(c => c.name === reference)
  const status = preferred.find(wanted => named.some(c => c.status === wanted))
  const taken = named.find(c => status === undefined || c.status === status)
  if (!taken) throw new PlatformError(`No ${kind} has the id or name "${reference}"`, 'NOT_FOUND')
  if (named.length > 1) {
    const others = listed(
      session,
      named.filter(c => c !== taken),
    )
    const which = `the newest${status ? ` that is ${status}` : ''}, ${idCell(session, taken.id)}`
    note(`${named.length} ${kind}s are called "${reference}": taking ${which}; the others by their ids:\n${others}`)
  }
  return taken
}

/** The newest of several models of one name, which is said on stderr. */
export async function findModel(session: Session, reference: string): Promise<ModelSummary> {
  return choose(session, 'model', reference, await allPages<ModelSummary>(session, documents.models, 'models'))
}

/** For what cannot be undone: @throws PlatformError CONFLICT where several models have the name. */
export async function findOneModel(session: Session, reference: string): Promise<ModelSummary> {
  const models = await allPages<ModelSummary>(session, documents.models, 'models')
  const named = models.filter(m => m.name === reference)
  if (named.length > 1 && !models.some(m => isCalled(m.id, reference)))
    throw new PlatformError(
      `${named.length} models are called "${reference}"; give the id of one of them:\n${listed(session, named)}`,
      'CONFLICT',
    )
  return choose(session, 'model', reference, models)
}

/** @param preferred statuses that the command can act on, the best first: of several recipes of one name one of these is meant */
export async function findRecipe(
  session: Session,
  reference: string,
  preferred: readonly string[] = [],
): Promise<RecipeSummary> {
  const recipes = await allPages<RecipeSummary>(session, documents.recipes, 'recipes')
  return choose(session, 'recipe', reference, recipes, preferred)
}
