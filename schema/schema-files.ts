// The schema as files: subgraph SDL and the composed supergraph, with everything that is wrong with them.
import { composeServices } from '@apollo/composition'
import {
  buildSchema,
  type GraphQLNamedType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isIntrospectionType,
  isObjectType,
  isSpecifiedScalarType,
  parse,
} from 'graphql'
import { subgraphs } from '../gateway/subgraphs.js'
import type { Subgraph } from '../subgraphs/build/subgraph.js'

/** Hints that tell of a mistake: two subgraphs say different things about one type. The others are normal for stubs. */
const seriousHints =
  /^INCONSISTENT_(DESCRIPTION|BUT_COMPATIBLE|DEFAULT_VALUE|INPUT_OBJECT|ENUM_VALUE|OBJECT_VALUE_TYPE|INTERFACE_VALUE_TYPE|ARGUMENT|RUNTIME)|^UNUSED_ENUM_TYPE|^IMPLICITLY_UPGRADED|^OVERRID/

export interface SchemaFiles {
  /** SDL by file name. */
  subgraphs: Map<string, string>
  /** Absent where composition fails. */
  supergraph: string | undefined
  problems: string[]
}

/** Composes the subgraphs. Their addresses are names: a gateway maps them to the process or to where they run. */
export function schemaFiles(list: readonly Subgraph[] = subgraphs): SchemaFiles {
  const files = new Map(list.map(s => [`${s.name}.graphql`, s.sdl]))
  const composed = composeServices(list.map(s => ({ name: s.name, url: `local://${s.name}`, typeDefs: parse(s.sdl) })))
  const problems = (composed.errors ?? []).map(e => e.message)
  for (const hint of composed.hints ?? [])
    if (seriousHints.test(hint.definition.code)) problems.push(`${hint.definition.code}: ${hint.message}`)
  const supergraph = composed.supergraphSdl && `${composed.supergraphSdl.trim()}\n`
  if (supergraph) problems.push(...missingDescriptions(supergraph).map(place => `${place} has no description`))
  return { subgraphs: files, supergraph, problems }
}

const roots = ['Query', 'Mutation', 'Subscription']
const ours = (type: GraphQLNamedType) =>
  !isIntrospectionType(type) && !isSpecifiedScalarType(type) && !/^(join|link)__/.test(type.name)

/** Types, fields, arguments, input fields and enum values of a schema that say nothing about themselves. */
export function missingDescriptions(sdl: string): string[] {
  const missing: string[] = []
  const check = (place: string, described: { description?: string | null }) => {
    if (!described.description?.trim()) missing.push(place)
  }
  for (const type of Object.values(buildSchema(sdl, { assumeValidSDL: true, assumeValid: true }).getTypeMap()).filter(
    ours,
  )) {
    if (!roots.includes(type.name)) check(type.name, type)
    if (isEnumType(type)) for (const value of type.getValues()) check(`${type.name}.${value.name}`, value)
    if (isInputObjectType(type))
      for (const field of Object.values(type.getFields())) check(`${type.name}.${field.name}`, field)
    if (isObjectType(type) || isInterfaceType(type))
      for (const field of Object.values(type.getFields())) {
        check(`${type.name}.${field.name}`, field)
        for (const arg of field.args) check(`${type.name}.${field.name}(${arg.name}:)`, arg)
      }
  }
  return missing
}
