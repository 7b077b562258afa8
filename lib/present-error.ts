// What a client may see of an error: expected failures with their code, bugs as an id that finds them in the log. The one place for it.
import { randomUUID } from 'node:crypto'
import { GraphQLError } from 'graphql'
import { expectedFailure } from './disk-full.js'
import { type ErrorCode, errorTable } from './errors.js'
import type { Logger } from './log.js'

/** What graphql-js, Apollo Server and the gateway call things that have a name in our table. */
const foreignCodes: Record<string, ErrorCode> = {
  OPERATION_RESOLUTION_FAILURE: 'BAD_REQUEST',
  PERSISTED_QUERY_NOT_SUPPORTED: 'BAD_REQUEST',
  PERSISTED_QUERY_NOT_FOUND: 'BAD_REQUEST',
}

/**
 * A GraphQL error with a code of the error table and no trace of the inside. Errors that were presented already pass unchanged.
 * @param log where an unexpected error goes, whole, with the id that the client gets
 */
export function presentError(error: unknown, log: Pick<Logger, 'error'>): GraphQLError {
  const cause = rootCause(error)
  const outer = error instanceof GraphQLError ? error : undefined
  const place = outer && { nodes: outer.nodes, source: outer.source, positions: outer.positions, path: outer.path }
  const expected = expectedFailure(cause)
  if (expected) {
    const extensions = { code: expected.code, ...(expected.field && { field: expected.field }) }
    return new GraphQLError(expected.message, { ...place, extensions })
  }
  const code = outer && codeOf(outer)
  if (outer && code) return new GraphQLError(outer.message, { ...place, extensions: visible(outer, code) })
  const errorId = randomUUID()
  log.error({ err: cause, errorId, path: outer?.path }, 'unexpected error')
  return new GraphQLError(`Internal error; the server log has it under ${errorId}`, {
    ...place,
    extensions: { code: 'INTERNAL_SERVER_ERROR', errorId },
  })
}

function codeOf(error: GraphQLError): ErrorCode | undefined {
  const { code, errorId } = error.extensions
  if (typeof code === 'string' && code in foreignCodes) return foreignCodes[code]
  // Only our own INTERNAL_SERVER_ERROR has an id; Apollo gives that code to everything it does not know.
  if (code === 'INTERNAL_SERVER_ERROR') return errorId ? code : undefined
  if (/^Syntax Error: Document contains more tha[nt] \d+ tokens/.test(error.message)) return 'OPERATION_TOO_LARGE'
  if (typeof code === 'string' && code in errorTable) return code as ErrorCode
  // graphql-js gives its own complaints about variables and arguments neither code nor original error.
  if (!code && /^(Variable|Argument) "/.test(error.message)) return 'BAD_USER_INPUT'
  return undefined
}

function visible({ extensions }: GraphQLError, code: ErrorCode) {
  const { field, errorId, http } = extensions
  return { code, ...(field ? { field } : {}), ...(errorId ? { errorId } : {}), ...(http ? { http } : {}) }
}

function rootCause(error: unknown): unknown {
  let cause = error
  while (cause instanceof GraphQLError && cause.originalError) cause = cause.originalError
  return cause
}
