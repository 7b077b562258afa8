// Which probe set a mutation means: the one it names, or the newest version of the product's own.
import type { EntityManager } from 'typeorm'
import { ProbeDataset, ProbeSampleCount } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId } from '../../lib/ids.js'

/** Name of the probe set that comes with the product. */
export const builtInProbeDataset = 'hartonomous'

/** @throws NOT_FOUND where the id is unknown */
export async function chooseProbeDataset(
  em: EntityManager,
  tenantId: string,
  globalId: string | null | undefined,
  field = ['input', 'probeDatasetId'],
): Promise<ProbeDataset> {
  const found = globalId
    ? await em.findOneBy(ProbeDataset, { ...scoped(tenantId), id: fromGlobalId('ProbeDataset', globalId, field) })
    : await em.findOne(ProbeDataset, {
        where: { ...scoped(tenantId), name: builtInProbeDataset },
        order: { version: 'DESC' },
      })
  if (!found)
    throw new DomainError('NOT_FOUND', `No ProbeDataset has the id "${globalId ?? builtInProbeDataset}"`, { field })
  return found
}

/** Top-level capabilities of a probe set with the number of their pairs in each split, in the set's order. */
export async function samplesByCapability(em: EntityManager, tenantId: string, probeDatasetId: string) {
  const rows = await em.find(ProbeSampleCount, {
    where: { ...scoped(tenantId), probeDatasetId },
    order: { id: 'ASC' },
  })
  const sums = new Map<string, { probe: number; validation: number }>()
  for (const { slug, probeCount, validationCount } of rows) {
    const top = slug.split('/')[0]!
    const sum = sums.get(top) ?? { probe: 0, validation: 0 }
    sums.set(top, { probe: sum.probe + probeCount, validation: sum.validation + validationCount })
  }
  return sums
}

/** More than any probe set has; a slip of the keyboard should not queue a day of work. */
const maximumSamplesPerCapability = 100_000

/** @throws BAD_USER_INPUT */
export function checkSamplesPerCapability(value: number | null | undefined): number | null {
  if (value == null || (value >= 1 && value <= maximumSamplesPerCapability)) return value ?? null
  throw new DomainError(
    'BAD_USER_INPUT',
    `samplesPerCapability: ${value}, expected 1 to ${maximumSamplesPerCapability}`,
    { field: ['input', 'samplesPerCapability'] },
  )
}

/**
 * The capabilities wanted, each once; null where all are.
 * @param known what there is
 * @param missing what does not have the unknown one: "the probe set does not show"
 * @throws BAD_USER_INPUT where the list is empty, NOT_FOUND
 */
export function checkCapabilities(
  wanted: readonly string[] | null | undefined,
  known: readonly string[],
  missing: string,
  field = ['input', 'capabilities'],
): string[] | null {
  if (wanted == null) return null
  if (wanted.length === 0)
    throw new DomainError('BAD_USER_INPUT', 'capabilities: is empty; leave it out for all', { field })
  const unknown = wanted.find(slug => !known.includes(slug))
  if (unknown !== undefined)
    throw new DomainError(
      'NOT_FOUND',
      `${field.at(-1)}: ${missing} "${unknown.slice(0, 200)}"; it has ${known.join(', ')}`,
      { field },
    )
  return [...new Set(wanted)]
}
