// What clients see of errors.
import { GraphQLError } from 'graphql'
import { expect, test } from 'vitest'
import { DomainError } from '../../../lib/errors.js'
import { presentError } from '../../../lib/present-error.js'

const logged: unknown[] = []
const log = { error: (entry: unknown) => void logged.push(entry) } as unknown as Parameters<typeof presentError>[1]
const located = (cause: Error) => new GraphQLError(cause.message, { originalError: cause, path: ['a', 0] })

test('a DomainError thrown by a resolver keeps code, message, field and path', () => {
  const error = presentError(located(new DomainError('CONFLICT', 'twice', { field: ['input'] })), log)
  expect(error.toJSON()).toEqual({
    message: 'twice',
    path: ['a', 0],
    extensions: { code: 'CONFLICT', field: ['input'] },
  })
})
test('a bug is logged whole and shown as an id', () => {
  logged.length = 0
  const bug = new TypeError('x is undefined')
  const { message, extensions } = presentError(located(bug), log)
  expect(extensions.code).toBe('INTERNAL_SERVER_ERROR')
  expect(message).toContain(extensions.errorId as string)
  expect(message).not.toContain('undefined')
  expect(logged).toEqual([{ err: bug, errorId: extensions.errorId, path: ['a', 0] }])
})
test('presenting twice changes nothing and logs once', () => {
  logged.length = 0
  const once = presentError(new Error('bug'), log)
  expect(presentError(once, log).toJSON()).toEqual(once.toJSON())
  expect(logged).toHaveLength(1)
})
test('extensions that are not ours are dropped, codes outside the table are bugs', () => {
  const known = new GraphQLError('m', { extensions: { code: 'NOT_FOUND', serviceName: 'models', stacktrace: ['s'] } })
  expect(presentError(known, log).extensions).toEqual({ code: 'NOT_FOUND' })
  const unknown = new GraphQLError('m', { extensions: { code: 'DOWNSTREAM_SERVICE_ERROR' } })
  expect(presentError(unknown, log).extensions.code).toBe('INTERNAL_SERVER_ERROR')
})
test('what graphql-js says about variables and arguments is bad input', () => {
  for (const message of ['Variable "$a" got invalid value 1', 'Argument "a" has invalid value 1.'])
    expect(presentError(new GraphQLError(message), log).extensions.code).toBe('BAD_USER_INPUT')
})
