// From an operation's text to a checked operation: parse, shape, validation, variables, cost; the same for every transport.
import {
  type DefinitionNode,
  type DocumentNode,
  GraphQLError,
  type GraphQLSchema,
  getOperationAST,
  Kind,
  type OperationDefinitionNode,
  parse,
  validate,
} from 'graphql'
import { getVariableValues } from 'graphql/execution/values.js'
import { checkCost, checkShape, type OperationLimits, operationLimits } from './limits.js'

/** An operation as a client sends it, over whichever transport. */
export interface OperationRequest {
  query: string
  operationName?: string | null
  variables?: Record<string, unknown> | null
  /** Whether mutations are refused (HTTP GET). */
  readOnly?: boolean
}

export interface Operation {
  document: DocumentNode
  operation: OperationDefinitionNode
  /** As given, not coerced: the executor coerces them itself. */
  variables: Record<string, unknown>
  /** Objects that the answer could hold. */
  cost: number
}

/** Texts longer than this are not cached: one client could fill the memory with variants. */
const maximumCachedText = 20_000
const maximumCached = 1000

/**
 * @returns checks an operation against the schema
 * The function throws what is wrong as a list of GraphQLErrors with codes of the error table.
 */
export function operationChecker(schema: GraphQLSchema, limits: OperationLimits = operationLimits) {
  const documents = new Map<string, DocumentNode>()

  /** Parsed, of allowed shape and valid. */
  function documentOf(query: string): DocumentNode {
    const known = documents.get(query)
    if (known) return known
    let document: DocumentNode
    try {
      document = parse(query, { maxTokens: limits.tokens })
    } catch (error) {
      const tooLarge = error instanceof GraphQLError && /more tha[nt] \d+ tokens/.test(error.message)
      const message = error instanceof GraphQLError ? error.message : 'The operation is nested too deeply'
      throw [
        new GraphQLError(tooLarge ? `The operation has more than ${limits.tokens} tokens` : message, {
          ...(error instanceof GraphQLError && { source: error.source, positions: error.positions }),
          extensions: { code: tooLarge ? 'OPERATION_TOO_LARGE' : 'GRAPHQL_PARSE_FAILED' },
        }),
      ]
    }
    checkShape(document, limits)
    // Forbidden by the GraphQL specification since 2025; graphql-js 16 would throw in the midst of validating it.
    if (document.definitions.some(hasConditionalRoot))
      throw [
        new GraphQLError('A subscription may not have @skip or @include on its root field', {
          extensions: { code: 'GRAPHQL_VALIDATION_FAILED' },
        }),
      ]
    const errors = validate(schema, document)
    if (errors.length) throw errors.map(e => coded(e, 'GRAPHQL_VALIDATION_FAILED'))
    if (query.length <= maximumCachedText) {
      if (documents.size >= maximumCached) documents.delete(documents.keys().next().value as string)
      documents.set(query, document)
    }
    return document
  }

  return function checkOperation(request: OperationRequest): Operation {
    const document = documentOf(request.query)
    const operation = getOperationAST(document, request.operationName)
    if (!operation)
      throw [
        new GraphQLError(
          request.operationName
            ? `The document has no operation named "${request.operationName}"`
            : 'The document has several operations: name one in operationName',
          { extensions: { code: 'BAD_REQUEST' } },
        ),
      ]
    if (request.readOnly && operation.operation === 'mutation')
      throw [new GraphQLError('Mutations are sent by POST', { extensions: { code: 'BAD_REQUEST' } })]
    const variables = request.variables ?? {}
    const values = getVariableValues(schema, operation.variableDefinitions ?? [], variables, { maxErrors: 10 })
    if (values.errors) throw values.errors.map(e => coded(e, 'BAD_USER_INPUT'))
    return { document, operation, variables, cost: checkCost(schema, document, operation, values.coerced, limits) }
  }
}

/** What `checkOperation` threw, as a list. */
export const operationErrors = (thrown: unknown): unknown[] => (Array.isArray(thrown) ? thrown : [thrown])

const hasConditionalRoot = (definition: DefinitionNode) =>
  definition.kind === Kind.OPERATION_DEFINITION &&
  definition.operation === 'subscription' &&
  definition.selectionSet.selections.some(s => s.directives?.some(d => ['skip', 'include'].includes(d.name.value)))

const coded = (error: GraphQLError, code: string) =>
  new GraphQLError(error.message, {
    nodes: error.nodes,
    source: error.source,
    positions: error.positions,
    extensions: { code },
  })
