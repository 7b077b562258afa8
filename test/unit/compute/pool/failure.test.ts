import { existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { toFailure } from '../../../../compute/pool/failure.js'
import { DomainError } from '../../../../lib/errors.js'

const enospc = () =>
  Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', path: '/data/x' })

describe('toFailure', () => {
  it.each([
    {
      what: 'an expected failure',
      error: new DomainError('SHAPE_MISMATCH', 'tensor x: shape [1], expected [2]'),
      failure: { code: 'SHAPE_MISMATCH', message: 'tensor x: shape [1], expected [2]', retryable: false },
    },
    {
      what: 'one that may pass',
      error: new DomainError('SOURCE_INTERRUPTED', 'reset', { retryable: true }),
      failure: { code: 'SOURCE_INTERRUPTED', message: 'reset', retryable: true },
    },
    {
      what: 'a bug',
      error: new TypeError('x is not a function'),
      failure: { code: 'INTERNAL_SERVER_ERROR', message: 'x is not a function', retryable: false },
    },
    {
      what: 'something thrown that is no error',
      error: 'text',
      failure: { code: 'INTERNAL_SERVER_ERROR', message: 'text', retryable: false },
    },
  ])('says what $what is', ({ error, failure }) => {
    expect(toFailure(error)).toEqual(failure)
  })

  it.each([
    ['a full disk', enospc()],
    ['a full disk as the cause of another error', new Error('write failed', { cause: enospc() })],
    ['a quota', Object.assign(new Error('quota'), { code: 'EDQUOT' })],
    ['native code on a full disk', new Error('write: No space left on device')],
  ])('finds %s', (_, error) => {
    expect(toFailure(error)).toMatchObject({ code: 'DISK_FULL', retryable: false })
  })

  // Linux has a device for it.
  it.runIf(existsSync('/dev/full'))('finds a disk that is really full', async () => {
    const file = await open('/dev/full', 'w')
    const error = await file.write('x').catch(e => e)
    await file.close()
    expect(toFailure(error).code).toBe('DISK_FULL')
  })
})
