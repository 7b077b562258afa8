// Quantities as people read them.
import { expect, test } from 'vitest'
import { quantity } from '../../../../lib/client/watch-job.js'

test.each([
  [0, 'bytes', '0 B'],
  [999, 'bytes', '999 B'],
  [1000, 'bytes', '1.00 kB'],
  [98_362_432, 'bytes', '98.4 MB'],
  [134_515_008, '', '135 M'],
  [1_234_567, 'tokens', '1.23 M tokens'],
  [12.34, 'samples', '12.3 samples'],
  [2e15, 'bytes', '2000 TB'],
])('%d %s is written %s', (value, unit, text) => {
  expect(quantity(value, unit)).toBe(text)
})
