// Tables and heat maps as they are printed (without colours).
import { stripVTControlCharacters } from 'node:util'
import { expect, test } from 'vitest'
import { heatMap, ranges, shade } from '../../../../lib/client/tables.js'

test('a score maps to five shades and stays within them', () => {
  expect([-1, 0, 0.25, 0.5, 0.75, 1, 7].map(shade).join('')).toBe('  ░▒▓██')
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
  const layers = [1, 0.5, 0].map((score, layerIndex) => ({
    layerIndex,
    capabilities: [{ capability: { slug: 'translation' }, score }],
  }))
  const lines = stripVTControlCharacters(heatMap(layers, ['translation', 'math'])).split('\n')
  expect(lines).toEqual(['             0     ', 'translation  ██▒▒  ', 'math               '])
})
