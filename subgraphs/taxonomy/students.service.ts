// Students by capability: which ones were built for it, and how close to their parent they are.
import { ModelAtom, StudentModelCapabilityMapping } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { type ConnectionArguments, paginate } from '../build/connection.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'
import { modelStub } from './stubs.js'

/** Students of a capability that were not deleted, best first. */
export async function studentsOf(context: RequestContext, taxonomyId: string, args: ConnectionArguments) {
  const query = context.platform.db.read
    .createQueryBuilder(StudentModelCapabilityMapping, 'mapping')
    .innerJoin(ModelAtom, 'model', 'model.id = mapping.studentModelId AND model.deletedAt IS NULL')
    .where({ ...scoped(context.tenantId), taxonomyId })
  const page = await paginate(query, args, 'Capability.students', [{ property: 'capabilityScore', descending: true }])
  return page.map(mapping => modelStub(mapping.studentModelId))
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
