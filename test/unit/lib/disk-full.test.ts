// A full disk is DISK_FULL, however it was reported.
import { QueryFailedError } from 'typeorm'
import { expect, test } from 'vitest'
import { expectedFailure } from '../../../lib/disk-full.js'
import { DomainError } from '../../../lib/errors.js'

const coded = (code: string, message = 'write failed') => Object.assign(new Error(message), { code })

test.each([
  ['the system', coded('ENOSPC')],
  ['a quota', coded('EDQUOT')],
  ['the database driver', new QueryFailedError('INSERT', [], coded('SQLITE_FULL'))],
  ['the database in words', new Error('database or disk is full')],
  ['native code, as the cause of another error', new Error('session', { cause: new Error('No space left on device') })],
])('reported by %s', (_who, error) => {
  expect(expectedFailure(error)?.code).toBe('DISK_FULL')
})

test('a DomainError passes as it is, and a bug is none', () => {
  const error = new DomainError('CONFLICT', 'busy')
  expect(expectedFailure(error)).toBe(error)
  expect(expectedFailure(new TypeError('x is undefined'))).toBeUndefined()
})
