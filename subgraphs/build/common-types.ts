// GraphQL types that all subgraphs may share: they have no field resolvers, so nothing leaks from one schema into another.
import 'reflect-metadata'
import { Directive, Field, ID, InterfaceType, ObjectType, registerEnumType } from 'type-graphql'
import { type ErrorCode, errorTable } from '../../lib/errors.js'

/** Enum object (`{ A: 'A', … }`) of a list of values, registered with a description per value. */
export function registerValues<V extends string>(
  name: string,
  description: string,
  values: Record<V, string>,
): { [K in V]: K } {
  const enumObject = Object.fromEntries(Object.keys(values).map(v => [v, v])) as { [K in V]: K }
  registerEnumType(enumObject, {
    name,
    description,
    valuesConfig: Object.fromEntries(
      (Object.entries(values) as [V, string][]).map(([value, text]) => [value, { description: text }]),
    ) as { [K in V]: { description: string } },
  })
  return enumObject
}

// Otherwise every class of the process that implements Node would appear in every subgraph.
@InterfaceType({
  autoRegisterImplementations: false,
  description: 'Anything with a global id that `node(id:)` finds again.',
})
export abstract class Node {
  @Field(() => ID, { description: 'Opaque global id; unique over all types.' })
  id!: string
}

@Directive('@shareable')
@ObjectType({ description: 'Where a page of a connection lies in the whole list.' })
export class PageInfo {
  @Field(() => Boolean, { description: 'Whether items follow the last one of this page.' })
  hasNextPage!: boolean
  @Field(() => Boolean, { description: 'Whether items precede the first one of this page.' })
  hasPreviousPage!: boolean
  @Field(() => String, { nullable: true, description: 'Cursor of the first item; null on an empty page.' })
  startCursor!: string | null
  @Field(() => String, { nullable: true, description: 'Cursor of the last item, for `after`; null on an empty page.' })
  endCursor!: string | null
}

export const ErrorCodeEnum = registerValues(
  'ErrorCode',
  'Why something was refused or failed. GraphQL errors carry the same codes in `extensions.code`.',
  Object.fromEntries(Object.entries(errorTable).map(([code, { sentence }]) => [code, sentence])) as Record<
    ErrorCode,
    string
  >,
)

@Directive('@shareable')
@ObjectType({ description: 'An expected failure: what was wrong with the input, for the person who gave it.' })
export class UserError {
  @Field(() => [String], {
    nullable: true,
    description: 'Path of the input field at fault, e.g. ["input", "layers"]; null where no single field is.',
  })
  field!: string[] | null
  @Field(() => String, { description: 'A sentence that names the thing and the number.' })
  message!: string
  @Field(() => ErrorCodeEnum, { description: 'Code of the one error table, for programs.' })
  code!: ErrorCode
}
