// Tables and heat maps as they are printed (without colours).
import { stripVTControlCharacters } from 'node:util'
import { expect, test } from 'vitest'
import { decimals, heatMap, ranges, shade, sparkline, table } from '../../../../lib/client/tables.js'

test('a loss increase maps to five shades by its size in nats', () => {
  expect([-1, 0, 0.05, 0.2, 0.5, 1, 7].map(shade).join('')).toBe('  ░▒▓██')
})

test('ranges are printed with their last layer, single layers alone', () => {
  expect(
    ranges([
      { from: 0, to: 21 },
      { from: 29, to: 30 },
    ]),
  ).toBe('0–20, 29')
})

test('the heat map has one line per capability and two cells per layer', () => {
  const layers = [1, 0.2, 0].map((lossIncrease, layerIndex) => ({
    layerIndex,
    capabilities: [{ capability: { slug: 'translation' }, lossIncrease }],
  }))
  const lines = stripVTControlCharacters(heatMap(layers, ['translation', 'math'])).split('\n')
  expect(lines).toEqual(['             0     ', 'translation  ██▒▒  ', 'math               '])
})

test('a table aligns numbers to the right and no line ends with blanks', () => {
  const rows = [
    ['a', '1.05 M', ''],
    ['longer', '263 k', 'x'],
  ]
  expect(stripVTControlCharacters(table(['name', 'size', 'note'], rows)).split('\n')).toEqual([
    'name      size  note',
    'a       1.05 M',
    'longer   263 k  x',
  ])
})

test('what rounds to nothing has no sign', () => {
  expect([-0.001, 0, 0.004, -0.006, 1].map(decimals)).toEqual(['0.00', '0.00', '0.00', '-0.01', '1.00'])
})

test('a sparkline goes from the lowest bar to the highest, and is level where nothing differs', () => {
  expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7])).toBe('▁▂▃▄▅▆▇█')
  expect(sparkline([5, -5, 0])).toBe('█▁▅')
  expect(sparkline([2, 2])).toBe('▄▄')
  expect(sparkline([])).toBe('')
})
