// What the log shows of an error.
import { expect, test } from 'vitest'
import { describeError } from '../../../lib/log.js'

test('a failed query is logged without its parameters, which hold what people wrote', () => {
  const error = Object.assign(new Error('SqliteError: disk I/O error'), {
    query: 'SELECT 1 WHERE ? = ?',
    parameters: ['my secret prompt'],
    driverError: Object.assign(new Error('x'), { parameters: ['my secret prompt'] }),
  })
  const shown = describeError(error)
  expect(shown).toMatchObject({ message: 'SqliteError: disk I/O error', query: 'SELECT 1 WHERE ? = ?' })
  expect(JSON.stringify(shown)).not.toContain('secret')
})
