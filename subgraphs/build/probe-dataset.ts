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
