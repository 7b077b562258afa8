// The taxonomy's rows: made for every capability that a probe set brings, found again by slug and id.
import type { EntityManager } from 'typeorm'
import { StudentModelTaxonomy } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { newId } from '../../lib/ids.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { type Capability, type CapabilityStatus, toCapability } from './capability.type.js'

export interface CapabilityNode {
  slug: string
  /** Default: made from the last part of the slug. */
  name?: string
  description?: string
}

/** "customer_support" becomes "Customer Support". */
export const nameOfSlug = (slug: string): string =>
  (slug.split('/').at(-1) ?? slug)
    .split(/[_-]/)
    .map(word => word.charAt(0).toUpperCase() + word.slice(1))
    .join(' ')

export const parentSlug = (slug: string): string | null =>
  slug.includes('/') ? slug.slice(0, slug.lastIndexOf('/')) : null

/** The nodes with the ancestors that are not among them, each once, ancestors first. */
export function withAncestors(nodes: readonly CapabilityNode[]): CapabilityNode[] {
  const result = new Map<string, CapabilityNode>()
  const named = new Map<string, CapabilityNode>()
  for (const node of nodes) named.set(node.slug, { ...node, ...named.get(node.slug) })
  const add = (slug: string) => {
    if (result.has(slug)) return
    const parent = parentSlug(slug)
    if (parent !== null) add(parent)
    result.set(slug, named.get(slug) ?? { slug })
  }
  for (const { slug } of nodes) add(slug)
  return [...result.values()]
}

/**
 * Makes the rows that are missing, with their ancestors; names and descriptions given here replace other ones.
 * Returns the row id of every slug given.
 */
export async function ensureCapabilities(
  em: EntityManager,
  tenantId: string,
  nodes: readonly CapabilityNode[],
): Promise<Map<string, string>> {
  const wanted = withAncestors(nodes)
  const rows = await em.findBy(StudentModelTaxonomy, { ...scoped(tenantId), slug: anyOf(wanted.map(n => n.slug)) })
  const known = new Map(rows.map(r => [r.slug, r]))
  for (const { slug, name, description } of wanted) {
    const row = known.get(slug)
    if (!row) {
      const parent = parentSlug(slug)
      const made: StudentModelTaxonomy = {
        id: newId(),
        tenantId,
        parentTaxonomyId: parent === null ? null : known.get(parent)!.id,
        capabilityName: name ?? nameOfSlug(slug),
        slug,
        capabilityLevel: slug.split('/').length - 1,
        description: description ?? null,
        status: 'ESTABLISHED',
        discovery: null,
        mergedIntoId: null,
        createdAt: new Date(),
      }
      await em.insert(StudentModelTaxonomy, made)
      known.set(slug, made)
    } else if ((name && name !== row.capabilityName) || (description && description !== row.description)) {
      const changes = { capabilityName: name ?? row.capabilityName, description: description ?? row.description }
      await em.update(StudentModelTaxonomy, { ...scoped(tenantId), id: row.id }, changes)
    }
  }
  return new Map([...known].map(([slug, row]) => [slug, row.id]))
}

export const capabilityById = (context: RequestContext) =>
  loader<string, Capability>(context, 'taxonomy.capabilityById', async ids => {
    const rows = await context.platform.db.read.findBy(StudentModelTaxonomy, {
      ...scoped(context.tenantId),
      id: anyOf(ids),
    })
    return new Map(rows.map(r => [r.id, toCapability(r)]))
  })

export const capabilityBySlug = (context: RequestContext) =>
  loader<string, Capability>(context, 'taxonomy.capabilityBySlug', async slugs => {
    const rows = await context.platform.db.read.findBy(StudentModelTaxonomy, {
      ...scoped(context.tenantId),
      slug: anyOf(slugs),
    })
    return new Map(rows.map(r => [r.slug, toCapability(r)]))
  })

export const capabilityChildren = (context: RequestContext) =>
  loader<string, Capability[]>(context, 'taxonomy.children', async parents => {
    const rows = await context.platform.db.read.find(StudentModelTaxonomy, {
      where: { ...scoped(context.tenantId), parentTaxonomyId: anyOf(parents), status: anyOf(shownStatuses) },
      order: { id: 'ASC' },
    })
    return new Map(
      [...groupBy(rows, r => r.parentTaxonomyId!)].map(([parent, children]) => [parent, children.map(toCapability)]),
    )
  })

/** The capability of a slug that measured rows name; a missing row is a bug, since effects make rows for all they write. */
export async function capabilityOfSlug(context: RequestContext, slug: string): Promise<Capability> {
  const found = await capabilityBySlug(context).load(slug)
  if (!found) throw new Error(`No capability row has the slug "${slug}"`)
  return found
}

/** What the tree shows unless one asks for more: what people set aside is not shown. */
const shownStatuses: CapabilityStatus[] = ['ESTABLISHED', 'PROPOSED']

/** The capabilities of a tenant, or those of one level or status, in the order in which probe sets and analyses brought them. */
export async function listCapabilities(
  context: RequestContext,
  level: number | null | undefined,
  status: CapabilityStatus | null | undefined,
) {
  const rows = await context.platform.db.read.find(StudentModelTaxonomy, {
    where: {
      ...scoped(context.tenantId),
      ...(level == null ? {} : { capabilityLevel: level }),
      status: anyOf(status ? [status] : shownStatuses),
    },
    order: { id: 'ASC' },
  })
  return rows.map(toCapability)
}
