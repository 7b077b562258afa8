// How large and how expensive an operation may be. The shape is checked before validation (whose time grows with the square of repeated
// fields), the cost after it, with the variables' values. HTTP, WebSocket and SSE all pass here.
import {
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  GraphQLError,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLSchema,
  getNamedType,
  isCompositeType,
  isInterfaceType,
  isListType,
  isNonNullType,
  isObjectType,
  Kind,
  type OperationDefinitionNode,
  type SelectionSetNode,
  valueFromASTUntyped,
} from 'graphql'
import type { ErrorCode } from '../lib/errors.js'

export const operationLimits = {
  /** Lexical tokens; the largest generated operations of real clients have about 5,000. */
  tokens: 10_000,
  /** Nested fields; introspection is not counted. `parent { students { nodes { parent …` gains nothing beyond. */
  depth: 20,
  /** Fields under another name: each root alias is a call of its own. */
  aliases: 100,
  /** Times one name may be repeated in a selection set; merging them is compared pairwise. */
  repetitions: 100,
  /** Fields with all fragments spread: what a plan is made for. */
  fields: 5_000,
  /** Objects that an answer could hold. */
  objects: 50_000,
  /** Items of one page of a connection. */
  pageSize: 100,
  /** Items of a page where the operation does not say. */
  defaultPageSize: 50,
  /** What a plain list (layers, children) is counted as: its length is the data's, not the caller's. */
  listLength: 30,
} as const
export type OperationLimits = { [K in keyof typeof operationLimits]: number }

const refuse = (code: ErrorCode, message: string, nodes?: FieldNode) =>
  new GraphQLError(message, { nodes, extensions: { code, http: { status: 400 } } })

/** Depth, aliases and number of fields of one selection set, its fragments spread. */
interface Shape {
  depth: number
  aliases: number
  fields: number
}

/**
 * Checks the shape of every operation of a parsed document, before validation: unknown fragments count nothing, cycles are left to it.
 * Each fragment is measured once, so the time is linear in the document even where the spread operation would be huge.
 * @throws GraphQLError OPERATION_TOO_LARGE
 */
export function checkShape(document: DocumentNode, limits: OperationLimits = operationLimits): void {
  const fragments = fragmentsOf(document)
  const measured = new Map<string, Shape>()

  function measureFragment(name: string): Shape {
    const known = measured.get(name)
    if (known) return known
    const none = { depth: 0, aliases: 0, fields: 0 }
    measured.set(name, none)
    const fragment = fragments.get(name)
    const shape = fragment ? measure(fragment.selectionSet) : none
    measured.set(name, shape)
    return shape
  }

  function measure({ selections }: SelectionSetNode): Shape {
    const sum: Shape = { depth: 0, aliases: 0, fields: 0 }
    const add = (part: Shape) => {
      sum.depth = Math.max(sum.depth, part.depth)
      sum.aliases += part.aliases
      sum.fields += part.fields
    }
    const names = new Map<string, number>()
    for (const selection of selections) {
      const name =
        selection.kind === Kind.FIELD
          ? (selection.alias ?? selection.name).value
          : selection.kind === Kind.FRAGMENT_SPREAD
            ? `...${selection.name.value}`
            : '...'
      const times = (names.get(name) ?? 0) + 1
      names.set(name, times)
      if (times > limits.repetitions)
        throw refuse('OPERATION_TOO_LARGE', `${name}: more than ${limits.repetitions} times in one selection`)
      if (selection.kind === Kind.FRAGMENT_SPREAD) add(measureFragment(selection.name.value))
      else if (selection.kind === Kind.INLINE_FRAGMENT) add(measure(selection.selectionSet))
      else if (!isIntrospection(selection)) {
        const below = selection.selectionSet ? measure(selection.selectionSet) : { depth: 0, aliases: 0, fields: 0 }
        const aliased = selection.alias && selection.alias.value !== selection.name.value ? 1 : 0
        add({ depth: below.depth + 1, aliases: below.aliases + aliased, fields: below.fields + 1 })
      }
    }
    return sum
  }

  for (const definition of document.definitions) {
    if (definition.kind !== Kind.OPERATION_DEFINITION && definition.kind !== Kind.FRAGMENT_DEFINITION) continue
    const shape = measure(definition.selectionSet)
    if (shape.depth > limits.depth)
      throw refuse(
        'OPERATION_TOO_LARGE',
        `The operation is ${shape.depth} levels deep, at most ${limits.depth} are allowed`,
      )
    if (shape.aliases > limits.aliases)
      throw refuse(
        'OPERATION_TOO_LARGE',
        `The operation has ${shape.aliases} aliases, at most ${limits.aliases} are allowed`,
      )
    if (shape.fields > limits.fields)
      throw refuse(
        'OPERATION_TOO_LARGE',
        `The operation has ${shape.fields} fields, at most ${limits.fields} are allowed`,
      )
  }
}

/**
 * The objects that the answer to a valid operation could hold: pages count as long as `first` or `last` says.
 * @param variables coerced values
 * @returns the number of objects
 * @throws GraphQLError BAD_USER_INPUT (page size), OPERATION_TOO_EXPENSIVE
 */
export function checkCost(
  schema: GraphQLSchema,
  document: DocumentNode,
  operation: OperationDefinitionNode,
  variables: Record<string, unknown>,
  limits: OperationLimits = operationLimits,
): number {
  const fragments = fragmentsOf(document)
  const known = new Map<string, number>()

  function costOf(set: SelectionSetNode, type: GraphQLNamedType, page: number): number {
    let sum = 0
    for (const selection of set.selections) {
      if (selection.kind === Kind.FRAGMENT_SPREAD) {
        const fragment = fragments.get(selection.name.value)
        if (fragment) sum += costOfFragment(fragment, type, page)
      } else if (selection.kind === Kind.INLINE_FRAGMENT) {
        const condition = selection.typeCondition && schema.getType(selection.typeCondition.name.value)
        sum += costOf(selection.selectionSet, condition ?? type, page)
      } else sum += costOfField(selection, type, page)
    }
    return sum
  }

  function costOfFragment(fragment: FragmentDefinitionNode, type: GraphQLNamedType, page: number): number {
    const key = `${page} ${fragment.name.value}`
    const cost =
      known.get(key) ?? costOf(fragment.selectionSet, schema.getType(fragment.typeCondition.name.value) ?? type, page)
    known.set(key, cost)
    return cost
  }

  function costOfField(field: FieldNode, parent: GraphQLNamedType, page: number): number {
    if (!field.selectionSet || isIntrospection(field)) return 0
    const definition =
      isObjectType(parent) || isInterfaceType(parent) ? parent.getFields()[field.name.value] : undefined
    if (!definition) return 0
    const type = getNamedType(definition.type)
    if (!isCompositeType(type)) return 0
    const nullable = isNonNullType(definition.type) ? definition.type.ofType : definition.type
    const times = !isListType(nullable) ? 1 : isConnection(parent) ? page : limits.listLength
    const below = costOf(field.selectionSet, type, isConnection(type) ? pageSize(field, definition) : page)
    return times * (1 + below)
  }

  function pageSize(field: FieldNode, definition: GraphQLField<unknown, unknown>): number {
    let size: number | undefined
    for (const name of ['first', 'last']) {
      if (!definition.args.some(a => a.name === name)) continue
      const argument = field.arguments?.find(a => a.name.value === name)
      const value = argument && valueFromASTUntyped(argument.value, variables)
      if (typeof value !== 'number') continue
      if (value < 0 || value > limits.pageSize)
        throw refuse(
          'BAD_USER_INPUT',
          `${field.name.value}: ${name} is ${value}, expected 0 to ${limits.pageSize}`,
          field,
        )
      size = Math.max(size ?? 0, value)
    }
    return size ?? limits.defaultPageSize
  }

  const root = schema.getRootType(operation.operation)
  const objects = root ? costOf(operation.selectionSet, root, 1) : 0
  if (objects > limits.objects)
    throw refuse(
      'OPERATION_TOO_EXPENSIVE',
      `The operation could return ${objects.toLocaleString('en')} objects, at most ${limits.objects.toLocaleString('en')} are allowed: ask for smaller pages`,
    )
  return objects
}

const isConnection = (type: GraphQLNamedType) => type.name.endsWith('Connection')

/** `__schema` and `__type` have limits of their own in graphql-js. */
const isIntrospection = (field: FieldNode) => field.name.value.startsWith('__')

const fragmentsOf = (document: DocumentNode): Map<string, FragmentDefinitionNode> =>
  new Map(
    document.definitions
      .filter(definition => definition.kind === Kind.FRAGMENT_DEFINITION)
      .map(definition => [definition.name.value, definition]),
  )
