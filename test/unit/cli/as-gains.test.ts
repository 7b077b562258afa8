// Measured costs below nothing read as gains.
import { expect, test } from 'vitest'
import { asGains } from '../../../cli/as-gains.js'

test.each([
  ['which costs -0.008 nats per token beside the layers', 'which gains 0.008 nats per token beside the layers'],
  ['skipping it costs -0.2 nats per token', 'skipping it gains 0.2 nats per token'],
  ['skipping any of them costs -0.3 to -0.05 nats', 'skipping any of them gains 0.05 to 0.3 nats'],
  ['skipping any of them costs -0.02 to 0.5 nats', 'skipping any of them costs -0.02 (a gain) to 0.5 nats'],
  ['each would cost -1.5 more', 'each would gain 1.5 more'],
  ['alone costs little (-0.008 nats per token', 'alone costs little (a gain of 0.008 nats per token'],
  ['costs little (-0.008 to 0.005 nats', 'costs little (a gain of 0.008 to a cost of 0.005 nats'],
  [
    'without key/value heads 2 of layer 5 (-0.013), 0 of layer 7 (0.1)',
    'without key/value heads 2 of layer 5 (a gain of 0.013), 0 of layer 7 (0.1)',
  ],
  ['most without 0 (9.81) and 2 (-0.00)', 'most without 0 (9.81) and 2 (0.00)'],
  ['costs 0.008 nats', 'costs 0.008 nats'],
  ['demo-0 trained after its teacher, layers 0-0', 'demo-0 trained after its teacher, layers 0-0'],
  ['layers 0-2: skipping any of them costs 0.5 to 2 nats', 'layers 0-2: skipping any of them costs 0.5 to 2 nats'],
])('%s', (text, printed) => {
  expect(asGains(text)).toBe(printed)
})
