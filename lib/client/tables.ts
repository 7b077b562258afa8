// Compact tables and heat maps for people at a terminal: the CLI and the demo print with these.
import { stripVTControlCharacters } from 'node:util'
import Table from 'cli-table3'
import pc from 'picocolors'

/** Colours for standard output: none in a pipe or a file, even where CI tools ask for them. */
export const colors = pc.createColors(pc.isColorSupported && process.stdout.isTTY === true)

/** Columns of the terminal, or what is usual where standard output is none, as in a pipe. */
export const terminalWidth = (stream: { columns?: number } = process.stdout, unknown = 80): number =>
  stream.columns || unknown

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

interface MappedLayer {
  layerIndex: number
  capabilities: { capability: { slug: string }; lossIncrease: number }[]
}

/** Numbers of every fifth layer, each above the first character of its cell. */
function layerNumbers(layers: readonly MappedLayer[], cell: number): string {
  let line = ''
  layers.forEach(({ layerIndex }, i) => {
    if (layerIndex % 5 === 0) line = line.padEnd(i * cell) + layerIndex
  })
  return line
}

/**
 * Rows = capabilities, columns = layers, shade = loss increase when the layer is skipped. A layer has two characters, or one where the
 * map is wider than `width`; what is still too wide goes on in a second map below.
 */
export function heatMap(layers: readonly MappedLayer[], slugs: readonly string[], width = terminalWidth()): string {
  const label = Math.max(...slugs.map(s => s.length))
  const room = Math.max(10, width - label - 2)
  const cell = 2 * layers.length <= room ? 2 : 1
  // Blocks of whole fives, so that each begins with a number.
  const perBlock = layers.length <= room ? layers.length : room - (room % 5)
  const blocks: string[] = []
  for (let from = 0; from < layers.length; from += perBlock) {
    const part = layers.slice(from, from + perBlock)
    const lines = slugs.map(slug => {
      const cells = part.map(l =>
        shade(l.capabilities.find(c => c.capability.slug === slug)?.lossIncrease ?? 0).repeat(cell),
      )
      return `${slug.padEnd(label)}  ${colors.cyan(cells.join(''))}`
    })
    blocks.push([`${' '.repeat(label)}  ${colors.dim(layerNumbers(part, cell))}`, ...lines].join('\n'))
  }
  return blocks.join('\n\n')
}
