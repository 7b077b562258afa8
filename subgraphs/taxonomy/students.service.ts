// Students by capability: which ones were built for it, and how close to their parent they are.
import { ModelAtom, StudentModelCapabilityMapping } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { type ConnectionArguments, paginateEach } from '../build/connection.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { modelReference } from './references.js'

/** A page of a capability's students that were not deleted, best first; the same pages of several capabilities are one query. */
export async function studentsOf(context: RequestContext, taxonomyId: string, args: ConnectionArguments) {
  const pages = loader(context, `taxonomy.students ${JSON.stringify(args)}`, (ids: readonly string[]) => {
    const query = context.platform.db.read
      .createQueryBuilder(StudentModelCapabilityMapping, 'mapping')
      .innerJoin(ModelAtom, 'model', 'model.id = mapping.studentModelId AND model.deletedAt IS NULL')
      .where(scoped(context.tenantId))
    const bestFirst = [{ property: 'capabilityScore', descending: true }]
    return paginateEach(query, args, 'taxonomyId', ids, id => `Capability.students ${id}`, bestFirst)
  })
  return (await pages.load(taxonomyId))!.map(mapping => modelReference(mapping.studentModelId))
}

/** How close a student is to its parent, by student. */
export const qualitiesOf = (context: RequestContext) =>
  loader<string, { taxonomyId: string; quality: number }[]>(context, 'taxonomy.qualities', async modelIds => {
    const rows = await context.platform.db.read.find(StudentModelCapabilityMapping, {
      where: { ...scoped(context.tenantId), studentModelId: anyOf(modelIds) },
      order: { taxonomyId: 'ASC' },
    })
    const qualities = rows.map(({ studentModelId, taxonomyId, capabilityScore }) => ({
      studentModelId,
      taxonomyId,
      quality: capabilityScore,
    }))
    return groupBy(qualities, q => q.studentModelId)
  })
