// Column types by meaning, named for both dialects, so that SQL Server needs migrations and no second set of entities.
import { Column, type ColumnOptions, PrimaryColumn, type ValueTransformer } from 'typeorm'
import { readEnv } from '../lib/env.js'

export type Dialect = 'sqlite' | 'mssql'
/** Chosen once at start: entity metadata is built from it. */
export const dialect: Dialect = readEnv().HARTONOMOUS_DATABASE.startsWith('mssql:') ? 'mssql' : 'sqlite'

const pick = (types: Record<Dialect, ColumnOptions>): ColumnOptions => types[dialect]

const optional =
  <A, B>(f: (value: A) => B) =>
  (value: A | null | undefined) =>
    value == null ? null : f(value)
const json: ValueTransformer = { to: optional(v => JSON.stringify(v)), from: optional((v: string) => JSON.parse(v)) }
// SQLite keeps milliseconds since 1970: sortable, no time zone. SQL Server has datetime2(3) (plain datetime loses milliseconds).
const milliseconds: ValueTransformer = {
  to: optional((d: Date) => d.getTime()),
  from: optional((n: number) => new Date(n)),
}
const safeInteger: ValueTransformer = { to: v => v, from: optional(Number) }
const flag: ValueTransformer = {
  to: optional((b: boolean) => (b ? 1 : 0)),
  from: optional((n: number | boolean) => Boolean(n)),
}

type Options = Pick<ColumnOptions, 'nullable' | 'default' | 'unique'>

/** UUID or hash key as text. */
export const IdPrimaryColumn = (length = 36) => PrimaryColumn({ type: 'varchar', length })
export const IdColumn = (o: Options = {}, length = 36) => Column({ type: 'varchar', length, ...o })
export const HashColumn = (o: Options = {}) => Column({ type: 'varchar', length: 64, ...o })
/** Text of bounded length that may be indexed. */
export const NameColumn = (o: Options = {}, length = 400) =>
  Column({ ...pick({ sqlite: { type: 'varchar', length }, mssql: { type: 'nvarchar', length } }), ...o })
export const TextColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'text' }, mssql: { type: 'nvarchar', length: 'MAX' } }), ...o })
export const JsonColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'text' }, mssql: { type: 'nvarchar', length: 'MAX' } }), transformer: json, ...o })
export const IntegerColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'integer' }, mssql: { type: 'int' } }), ...o })
/** Counts and sizes up to 2^53; SQL Server hands bigint back as text. */
export const BigIntegerColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'integer' }, mssql: { type: 'bigint' } }), transformer: safeInteger, ...o })
export const RealColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'real' }, mssql: { type: 'float' } }), ...o })
export const FlagColumn = (o: Options = {}) =>
  Column({ ...pick({ sqlite: { type: 'integer' }, mssql: { type: 'bit' } }), transformer: flag, ...o })
export const TimeColumn = (o: Options = {}) =>
  Column(
    dialect === 'sqlite'
      ? { type: 'integer', transformer: milliseconds, ...o }
      : { type: 'datetime2', precision: 3, ...o },
  )
