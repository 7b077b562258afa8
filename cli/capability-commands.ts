// Commands about capabilities: the taxonomy, and what people make of nodes that analyses propose.
import { PlatformError } from '../lib/client/platform-client.js'
import { table } from '../lib/client/tables.js'
import { documents } from './documents.js'
import type { CapabilitySummary } from './results.js'
import { print, printJson } from './run-job.js'
import type { Session } from './session.js'
import { idCell, shortId } from './short-id.js'

const query = async (session: Session, variables: Record<string, unknown>): Promise<CapabilitySummary[]> =>
  (await session.client.query<{ capabilities: CapabilitySummary[] }>(documents.capabilities, variables)).capabilities

/** By id, the end of one, slug or name. @throws PlatformError NOT_FOUND, CONFLICT where several have the name */
async function findCapability(session: Session, reference: string): Promise<CapabilitySummary> {
  const all = await query(session, {})
  const isCalled = (c: CapabilitySummary) => c.slug === reference || c.id === reference || shortId(c.id) === reference
  const named = all.filter(c => c.name === reference)
  const found = all.find(isCalled) ?? named[0]
  if (!found) throw new PlatformError(`No capability has the id, slug or name "${reference}"`, 'NOT_FOUND')
  if (!isCalled(found) && named.length > 1)
    throw new PlatformError(
      `${named.length} capabilities are called "${reference}": say the slug, ${named.map(c => c.slug).join(' or ')}`,
      'CONFLICT',
    )
  return found
}

/** The tree, without the column of what people made of proposals where there is nothing in it. */
export function capabilityTable(capabilities: readonly CapabilitySummary[], shown: { ids: boolean }): string {
  const sorted = [...capabilities].sort((a, b) => (a.slug < b.slug ? -1 : 1))
  const judged = sorted.some(c => c.status !== 'ESTABLISHED')
  const rows = sorted.map(c => [
    `${'  '.repeat(c.level)}${c.slug.split('/').at(-1)}`,
    c.name,
    ...(judged ? [c.status === 'ESTABLISHED' ? '' : c.status.toLowerCase()] : []),
    String(c.probeSampleCount),
    idCell(shown, c.id),
  ])
  return table(['capability', 'name', ...(judged ? ['status'] : []), 'pairs', 'id'], rows)
}

/** Why there is nothing: no analysis yet, or none that found anything. */
async function nothingProposed(session: Session): Promise<string> {
  const { jobs } = await session.client.query<{ jobs: { nodes: unknown[] } }>(documents.jobs, {
    types: ['CAPABILITY_ANALYZE'],
    states: ['SUCCEEDED'],
    first: 1,
  })
  return jobs.nodes.length > 0
    ? 'The analyses so far proposed nothing: their samples were too few or too uniform, or all that they found is judged already.'
    : 'Nothing is proposed: `hartonomous analyze` looks for kinds of samples that nobody named.'
}

/** The tree as a table; of proposed ones also what shows them. */
export async function listCapabilities(session: Session, o: { proposed?: boolean }) {
  const capabilities = await query(session, o.proposed ? { status: 'PROPOSED' } : {})
  if (session.json) return printJson(capabilities)
  if (capabilities.length === 0) return print(await nothingProposed(session))
  if (!o.proposed) return print(capabilityTable(capabilities, session))
  for (const c of capabilities) {
    print(`${c.slug}  ${c.name}${c.discoveredIn ? `  (in ${c.discoveredIn.name})` : ''}`)
    if (c.description) print(`  ${c.description}`)
    for (const example of c.examples) print(`    ${example.length > 110 ? `${example.slice(0, 109)}…` : example}`)
  }
  print(
    '\nName one with `hartonomous rename-capability SLUG NAME`, or use merge-capability SLUG INTO, dismiss-capability SLUG.',
  )
}

export async function rename(session: Session, reference: string, name: string, o: { description?: string }) {
  const { id } = await findCapability(session, reference)
  await session.client.mutate(documents.renameCapability, { capabilityId: id, name, description: o.description })
  return shown(session, id, `is called "${name}" from now on`)
}

export async function merge(session: Session, reference: string, into: string) {
  const [capability, target] = [await findCapability(session, reference), await findCapability(session, into)]
  await session.client.mutate(documents.mergeCapability, { capabilityId: capability.id, intoCapabilityId: target.id })
  return session.json
    ? printJson({ id: capability.id, mergedInto: target.id })
    : print(`${capability.slug} is ${target.slug}; samples like these are not proposed again.`)
}

export async function dismiss(session: Session, reference: string) {
  const { id, slug } = await findCapability(session, reference)
  await session.client.mutate(documents.dismissCapability, { capabilityId: id })
  return session.json
    ? printJson({ id, status: 'DISMISSED' })
    : print(`${slug} is dismissed; samples like these are not proposed again.`)
}

async function shown(session: Session, id: string, what: string) {
  const found = (await query(session, {})).find(c => c.id === id)
  return session.json ? printJson(found) : print(`${found?.slug} ${what}.`)
}
