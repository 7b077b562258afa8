// Capabilities that nobody named: nodes proposed by analyses, found again by their samples, and what people make of them.
import { createHash } from 'node:crypto'
import { type EntityManager, IsNull, Not } from 'typeorm'
import type { DiscoveryOutput } from '../../compute/pool/job-types.js'
import { type CapabilityDiscovery, StudentModelTaxonomy } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId, newId } from '../../lib/ids.js'
import { checkText } from '../build/check-text.js'
import type { RequestContext } from '../build/platform.js'
import { type Capability, type CapabilityStatus, toCapability } from './capability.type.js'
import { ensureCapabilities } from './taxonomy.service.js'

/** Two sets of samples are one kind from this share of the smaller one on that both hold. */
const sameKind = 0.6
const most = { examples: 6, samples: 2000 }

const topOf = (slug: string) => slug.split('/')[0]!

/** |a ∩ b| / min(|a|, |b|): an analysis with fewer samples shows a part of what one with more shows. */
export function overlap(a: readonly string[], b: readonly string[]): number {
  const known = new Set(a)
  const shared = new Set(b.filter(sample => known.has(sample)))
  return shared.size / Math.max(1, Math.min(known.size, new Set(b).size))
}

const union = (a: readonly string[], b: readonly string[], limit: number) => [...new Set([...a, ...b])].slice(0, limit)

/**
 * Writes what an analysis found. What a node stands for already (whatever people made of it) makes no second one: a proposed one is
 * brought up to date, the others only learn its samples.
 * @returns the slug of the node for each discovery; undefined where people set it aside
 */
export async function recordDiscoveries(
  em: EntityManager,
  tenantId: string,
  modelId: string,
  discoveries: readonly DiscoveryOutput[],
): Promise<(string | undefined)[]> {
  if (discoveries.length === 0) return []
  const parents = await ensureCapabilities(
    em,
    tenantId,
    discoveries.map(({ parent }) => ({ slug: parent })),
  )
  const known = await em.findBy(StudentModelTaxonomy, { ...scoped(tenantId), discovery: Not(IsNull()) })
  const taken = new Set<string>()
  const slugs: (string | undefined)[] = []
  for (const found of discoveries) {
    const [node] = known
      .filter(row => topOf(row.slug) === topOf(found.parent) && !taken.has(row.id))
      .map(row => ({ row, shared: overlap(row.discovery!.samples, found.samples) }))
      .filter(({ shared }) => shared >= sameKind)
      .sort((a, b) => b.shared - a.shared)
    if (node) {
      taken.add(node.row.id)
      await seeAgain(em, node.row, found, modelId)
      const status = node.row.status as CapabilityStatus
      slugs.push(status === 'PROPOSED' || status === 'ESTABLISHED' ? node.row.slug : undefined)
      continue
    }
    const row = newNode(tenantId, parents.get(found.parent)!, found, modelId)
    await em.insert(StudentModelTaxonomy, row)
    taken.add(row.id)
    known.push(row)
    slugs.push(row.slug)
  }
  return slugs
}

const discoveryOf = (
  { words, examples, samples, silhouette }: DiscoveryOutput,
  modelId: string,
): CapabilityDiscovery => ({
  words,
  examples,
  samples,
  silhouette,
  modelId,
})

function newNode(tenantId: string, parentId: string, found: DiscoveryOutput, modelId: string): StudentModelTaxonomy {
  const id = createHash('sha256').update(found.samples.join()).digest('hex').slice(0, 10)
  const slug = `${found.parent}/found_${id}`
  return {
    id: newId(),
    tenantId,
    parentTaxonomyId: parentId,
    capabilityName: found.name.slice(0, 100),
    slug,
    capabilityLevel: slug.split('/').length - 1,
    description: `${found.samples.length} samples that the middle layer of a model puts together (silhouette ${found.silhouette.toFixed(2)})`,
    status: 'PROPOSED',
    discovery: discoveryOf(found, modelId),
    mergedIntoId: null,
    createdAt: new Date(),
  }
}

async function seeAgain(em: EntityManager, row: StudentModelTaxonomy, found: DiscoveryOutput, modelId: string) {
  const before = row.discovery!
  const samples = union(before.samples, found.samples, most.samples)
  row.discovery = row.status === 'PROPOSED' ? { ...discoveryOf(found, modelId), samples } : { ...before, samples }
  await em.update(StudentModelTaxonomy, { ...scoped(row.tenantId), id: row.id }, { discovery: row.discovery })
}

async function findNode(em: EntityManager, tenantId: string, globalId: string, field: string) {
  const path = ['input', field]
  const row = await em.findOneBy(StudentModelTaxonomy, {
    ...scoped(tenantId),
    id: fromGlobalId('Capability', globalId, path),
  })
  if (!row) throw new DomainError('NOT_FOUND', `No Capability has the id "${globalId.slice(0, 80)}"`, { field: path })
  return row
}

/** A node that an analysis found and that nobody set aside. */
async function findDiscovered(em: EntityManager, tenantId: string, globalId: string) {
  const row = await findNode(em, tenantId, globalId, 'capabilityId')
  const field = ['input', 'capabilityId']
  if (!row.discovery)
    throw new DomainError('CONFLICT', `${row.slug} comes from a probe set: its files say what it is called`, { field })
  if (row.status === 'MERGED' || row.status === 'DISMISSED')
    throw new DomainError('CONFLICT', `${row.slug} is ${row.status.toLowerCase()} already`, { field })
  return row
}

async function change(em: EntityManager, row: StudentModelTaxonomy, changes: Partial<StudentModelTaxonomy>) {
  await em.update(StudentModelTaxonomy, { ...scoped(row.tenantId), id: row.id }, changes as object)
  return toCapability({ ...row, ...changes })
}

/**
 * Gives a found capability its name, which establishes it.
 * @throws NOT_FOUND, CONFLICT where a probe set brought it or it was set aside, BAD_USER_INPUT for an empty or long name
 */
export function renameCapability(
  { platform, tenantId }: RequestContext,
  input: { capabilityId: string; name: string; description?: string | null },
): Promise<Capability> {
  const name = checkText(input.name, 100, 'name') ?? ''
  const description = checkText(input.description, 2000, 'description')
  if (name.length < 1)
    throw new DomainError('BAD_USER_INPUT', 'name: is empty; expected 1 to 100 characters', {
      field: ['input', 'name'],
    })
  return platform.db.tx(async em => {
    const row = await findDiscovered(em, tenantId, input.capabilityId)
    return change(em, row, {
      capabilityName: name,
      status: 'ESTABLISHED',
      ...(description ? { description } : {}),
    })
  })
}

/**
 * Says that a found capability is another one, which gains its examples; samples like its are not proposed again.
 * @throws NOT_FOUND, CONFLICT
 */
export function mergeCapability(
  { platform, tenantId }: RequestContext,
  input: { capabilityId: string; intoCapabilityId: string },
): Promise<Capability> {
  return platform.db.tx(async em => {
    const row = await findDiscovered(em, tenantId, input.capabilityId)
    const into = await findNode(em, tenantId, input.intoCapabilityId, 'intoCapabilityId')
    const field = ['input', 'intoCapabilityId']
    if (into.id === row.id) throw new DomainError('CONFLICT', `${row.slug} cannot be merged into itself`, { field })
    if (into.status === 'MERGED' || into.status === 'DISMISSED')
      throw new DomainError('CONFLICT', `${into.slug} is ${into.status.toLowerCase()}: nothing can be merged into it`, {
        field,
      })
    if (into.discovery) {
      const { discovery } = into
      const samples = union(discovery.samples, row.discovery!.samples, most.samples)
      const examples = union(discovery.examples, row.discovery!.examples, most.examples)
      await change(em, into, { discovery: { ...discovery, samples, examples } })
    }
    return change(em, row, { status: 'MERGED', mergedIntoId: into.id })
  })
}

/** Says that a found capability is nothing. @throws NOT_FOUND, CONFLICT */
export function dismissCapability(
  { platform, tenantId }: RequestContext,
  input: { capabilityId: string },
): Promise<Capability> {
  return platform.db.tx(async em =>
    change(em, await findDiscovered(em, tenantId, input.capabilityId), { status: 'DISMISSED' }),
  )
}
