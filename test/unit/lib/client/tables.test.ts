// Tables and heat maps as they are printed (without colours).
import { stripVTControlCharacters } from 'node:util'
import { expect, test } from 'vitest'
import { decimals, heatMap, ranges, shade, sparkline, table, terminalWidth } from '../../../../lib/client/tables.js'

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
  expect(lines).toEqual(['             0', 'translation  ██▒▒  ', 'math               '])
})

const manyLayers = (count: number) =>
  Array.from({ length: count }, (_, layerIndex) => ({
    layerIndex,
    capabilities: [{ capability: { slug: 'translation' }, lossIncrease: 1 }],
  }))

test('the heat map of 30 layers fits into 80 columns, with whole numbers above', () => {
  const slugs = ['mathematical_reasoning', 'translation']
  const lines = stripVTControlCharacters(heatMap(manyLayers(30), slugs, 80)).split('\n')
  expect(Math.max(...lines.map(line => line.length))).toBeLessThanOrEqual(80)
  expect(lines[0]!.trim()).toBe('0    5    10   15   20   25')
  expect(lines[2]).toBe(`${'translation'.padEnd(24)}${'█'.repeat(30)}`)
  const wide = stripVTControlCharacters(heatMap(manyLayers(30), slugs, 100)).split('\n')
  expect(wide[2]).toBe(`${'translation'.padEnd(24)}${'█'.repeat(60)}`)
})

test('a heat map that is too wide goes on below', () => {
  const text = stripVTControlCharacters(heatMap(manyLayers(70), ['translation'], 60))
  const lines = text.split('\n')
  expect(Math.max(...lines.map(line => line.length))).toBeLessThanOrEqual(60)
  expect(lines[0]!.trim()).toMatch(/^0 .* 40$/)
  expect(lines[3]!.trim()).toBe('45   50   55   60   65')
  expect(text.split('█').length - 1).toBe(70)
})

test('a terminal of unknown width has 80 columns, or as many as its caller says', () => {
  expect([terminalWidth({}), terminalWidth({}, 100), terminalWidth({ columns: 120 })]).toEqual([80, 100, 120])
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
