// The scalars all subgraphs share: BigInt, DateTime, JSON.
import { GraphQLScalarType, Kind } from 'graphql'
import { GraphQLDateTime, GraphQLJSON } from 'graphql-scalars'
import { DomainError } from '../../lib/errors.js'

/** An integer as a number where a double holds it exactly, as a bigint beyond; anything else is BAD_USER_INPUT. */
function toInteger(value: unknown): number | bigint {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value
  if (typeof value === 'bigint' || (typeof value === 'string' && /^-?\d{1,40}$/.test(value))) {
    const big = BigInt(value)
    return big >= Number.MIN_SAFE_INTEGER && big <= Number.MAX_SAFE_INTEGER ? Number(big) : big
  }
  throw new DomainError('BAD_USER_INPUT', `BigInt: ${JSON.stringify(value)} is not an integer`)
}

/**
 * Not the one of graphql-scalars: that one depends on whether somebody patched BigInt.prototype, and warns on the console.
 */
export const BigIntScalar = new GraphQLScalarType<number | bigint, number | string>({
  name: 'BigInt',
  description:
    'A whole number of any size. In JSON a number up to 2^53 - 1, a decimal string above; both are accepted as input.',
  serialize: value => {
    const integer = toInteger(value)
    return typeof integer === 'bigint' ? integer.toString() : integer
  },
  parseValue: toInteger,
  parseLiteral: node => {
    if (node.kind !== Kind.INT && node.kind !== Kind.STRING)
      throw new DomainError('BAD_USER_INPUT', `BigInt: a literal of kind ${node.kind} is not an integer`)
    return toInteger(node.value)
  },
})

export const DateTimeScalar = new GraphQLScalarType({
  ...GraphQLDateTime.toConfig(),
  description: 'A moment in UTC with milliseconds, as RFC 3339 text: 2026-01-31T12:00:00.000Z.',
})

export const JsonScalar = new GraphQLScalarType({
  ...GraphQLJSON.toConfig(),
  specifiedByURL: null,
  description: 'Any JSON value, as it is.',
})
