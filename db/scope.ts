// Tenant isolation and big lists in queries: the one function every query of a tenant-owned table passes.
import { type FindOperator, type ObjectLiteral, Raw, type SelectQueryBuilder } from 'typeorm'
import { dialect } from './columns.js'

/** The only tenant until accounts arrive; its row comes with the first migration. */
export const defaultTenantId = '00000000-0000-7000-8000-000000000001'

/**
 * Where clause that confines a query to a tenant: `em.find(ModelAtom, { where: { ...scoped(tenantId), name } })`.
 * Tables without a tenantId (payload reference counts, which are shared by design) are the only ones queried without it.
 */
export const scoped = (tenantId: string): { tenantId: string } => {
  if (!tenantId) throw new Error('scoped: a query needs a tenant')
  return { tenantId }
}

/** The same for a query builder: confines its main table to the tenant. */
export function scopedQuery<T extends ObjectLiteral>(query: SelectQueryBuilder<T>, tenantId: string) {
  return query.andWhere(`${query.alias}.tenantId = :scopeTenantId`, { scopeTenantId: scoped(tenantId).tenantId })
}

const listSql = (parameter: string) =>
  dialect === 'sqlite' ? `SELECT value FROM json_each(:${parameter})` : `SELECT value FROM OPENJSON(:${parameter})`

let listCount = 0

/**
 * `IN` over a list of any length as one JSON parameter, where `In()` would run into the limit on parameters
 * (SQL Server 2,100): `em.find(TensorAtom, { where: { modelId: anyOf(ids) } })`. An empty list matches nothing.
 */
export function anyOf<T extends string | number>(values: readonly T[]): FindOperator<T> {
  const parameter = `list${++listCount % 1_000_000}`
  return Raw(column => `${column} IN (${listSql(parameter)})`, { [parameter]: JSON.stringify(values) })
}

/** The same for a query builder; `column` is `alias.property`. */
export function andAnyOf<T extends ObjectLiteral>(
  query: SelectQueryBuilder<T>,
  column: string,
  values: readonly (string | number)[],
) {
  const parameter = `list${++listCount % 1_000_000}`
  return query.andWhere(`${column} IN (${listSql(parameter)})`, { [parameter]: JSON.stringify(values) })
}
