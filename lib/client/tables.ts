// Compact tables and heat maps for people at a terminal: the CLI and the demo print with these.
import { stripVTControlCharacters } from 'node:util'
import Table from 'cli-table3'
import pc from 'picocolors'

/** Colours for standard output: none in a pipe or a file, even where CI tools ask for them. */
export const colors = pc.createColors(pc.isColorSupported && process.stdout.isTTY === true)

/** A table without heavy borders; columns whose every cell looks like a number are right-aligned. No line ends with blanks, which would wrap. */
export function table(head: string[], rows: string[][]): string {
  const numeric = head.map(
    (_, i) =>
      rows.length > 0 && rows.every(r => /^(–|[-+]?[\d.]+( ?[kMGT%]?B?)?)$/.test(stripVTControlCharacters(r[i] ?? ''))),
  )
  const t = new Table({
    head: head.map(h => colors.bold(h)),
    colAligns: numeric.map(n => (n ? 'right' : 'left')),
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 0 },
    chars: {
      top: '',
      'top-mid': '',
      'top-left': '',
      'top-right': '',
      bottom: '',
      'bottom-mid': '',
      'bottom-left': '',
      'bottom-right': '',
      left: '',
      'left-mid': '',
      mid: '',
      'mid-mid': '',
      right: '',
      'right-mid': '',
      middle: '  ',
    },
  })
  t.push(...rows)
  return t.toString().replace(/ +$/gm, '')
}

/** Two decimals, and no minus before what they round to nothing. */
export const decimals = (value: number): string => value.toFixed(2).replace(/^-(0\.00)$/, '$1')

const shades = [' ', '░', '▒', '▓', '█'] as const
/** Least loss increase, in nats per token, of each shade: a layer that costs 1 nat has made the right token 2.7 times less likely. */
const shadeFrom = [0, 0.02, 0.1, 0.3, 1] as const
/** One character for a loss increase: the darker, the more is lost without the layer. */
export const shade = (lossIncrease: number): string =>
  shades[shadeFrom.findLastIndex(from => lossIncrease >= from)] ?? ' '
export const shadeLegend = shades
  .map((s, i) => (i === 0 ? '' : `${s} ≥ ${shadeFrom[i]}`))
  .filter(Boolean)
  .join('  ')

const bars = '▁▂▃▄▅▆▇█'
/** One bar per value, from the least to the greatest of them; all in the middle where they are equal. */
export function sparkline(values: readonly number[]): string {
  const [least, greatest] = [Math.min(...values), Math.max(...values)]
  const height = (value: number) =>
    greatest === least ? 3 : Math.min(bars.length - 1, Math.floor(((value - least) / (greatest - least)) * bars.length))
  return values.map(value => bars[height(value)]).join('')
}

/** `[0,3) [5,8)` */
export const ranges = (layers: { from: number; to: number }[]): string =>
  layers.map(l => (l.to - l.from === 1 ? `${l.from}` : `${l.from}–${l.to - 1}`)).join(', ')

/** Rows = capabilities, columns = layers, shade = loss increase when the layer is skipped. */
export function heatMap(
  layers: { layerIndex: number; capabilities: { capability: { slug: string }; lossIncrease: number }[] }[],
  slugs: string[],
): string {
  const width = Math.max(...slugs.map(s => s.length))
  const cell = layers.length > 40 ? 1 : 2
  const header = layers
    .map(l => (l.layerIndex % 5 === 0 ? String(l.layerIndex) : '').padEnd(cell).slice(0, cell))
    .join('')
  const lines = slugs.map(slug => {
    const cells = layers.map(l =>
      shade(l.capabilities.find(c => c.capability.slug === slug)?.lossIncrease ?? 0).repeat(cell),
    )
    return `${slug.padEnd(width)}  ${colors.cyan(cells.join(''))}`
  })
  return [`${' '.repeat(width)}  ${colors.dim(header)}`, ...lines].join('\n')
}
