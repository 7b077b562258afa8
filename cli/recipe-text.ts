// Recipes as text: the table that fits a terminal, and what one recipe says in lines.
import { stripVTControlCharacters } from 'node:util'
import { colors, ranges, table, terminalWidth } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import type { RecipeDecision, RecipeDetail, RecipeSummary } from './results.js'
import { idCell } from './short-id.js'

/** Below this a student has lost half of the likelihood its parent gives a right token. */
const poorQuality = 0.5

export const quality = (value: number | null) => {
  if (value === null) return '–'
  return value < poorQuality ? colors.dim(`${value.toFixed(3)} poor`) : value.toFixed(3)
}

/** Below tables with such a column. */
export const costNote = 'DCU: device cost units, one is a second of a CPU device (docs/cost.md).'

/** What it cost, or with ~ what it is expected to. */
const cost = ({ estimatedCost, measuredCost }: RecipeSummary) =>
  measuredCost !== null ? measuredCost.toFixed(1) : estimatedCost !== null ? `~${estimatedCost.toFixed(1)}` : '–'

const cutAtEnd = (text: string, length: number) => (text.length <= length ? text : `${text.slice(0, length - 1)}…`)

/** Layers, and how many heads they lack; in few characters their kind is left to `recipe ID`. */
function kept({ layers, headPruning }: RecipeSummary, length: number): string {
  const removed = headPruning?.removePerLayer.reduce((sum, count) => sum + count, 0) ?? 0
  if (removed === 0) return cutAtEnd(ranges(layers), length)
  const unit = headPruning?.unit === 'QUERY_HEAD' ? 'query heads per group' : 'key/value heads'
  const whole = `${ranges(layers)} less ${removed} ${unit}`
  return whole.length <= length ? whole : cutAtEnd(`${ranges(layers)} less ${removed} heads`, length)
}

/** The predicted quality, with its interval where there is room. */
function predicted({ estimatedQuality, estimatedQualityInterval: interval }: RecipeSummary, wide: boolean): string {
  const value = quality(estimatedQuality)
  return interval && wide ? `${value} (${interval.map(bound => bound.toFixed(2)).join('–')})` : value
}

/** Without its beginning, mostly the parent's name: the end says what was cut and how much stays. */
export const cutName = (name: string, length: number): string =>
  name.length <= length ? name : `…${name.slice(1 - length)}`

const aim = (recipe: RecipeSummary) => recipe.capability?.slug ?? recipe.mixture?.name ?? '–'
const nameHasAim = (recipe: RecipeSummary) =>
  aim(recipe) === '–' || recipe.name.includes(aim(recipe).replaceAll(/[_\s]+/g, '-'))

interface Room {
  interval: boolean
  aim: boolean
  layers: number
  name: number
}
const most = Number.POSITIVE_INFINITY
/** From all there is to what is least missed. */
const rooms: Room[] = [
  { interval: true, aim: true, layers: most, name: most },
  { interval: true, aim: true, layers: 24, name: most },
  { interval: false, aim: true, layers: 24, name: most },
  { interval: false, aim: false, layers: 24, name: most },
  { interval: false, aim: false, layers: 16, name: most },
  { interval: false, aim: false, layers: 11, name: most },
]
/** Less of a name tells nothing apart. */
const leastName = 20
/** Of the table in a pipe or a file. */
const unknownWidth = 100

export interface RecipeTableOptions {
  /** Whole ids. */
  ids: boolean
  width?: number
  /** Leaves the status out, where it is said otherwise. */
  withoutStatus?: boolean
}

/** A table no wider than the terminal as far as that is possible: `recipe ID` has the rest. */
export function recipeTable(recipes: readonly RecipeSummary[], options: RecipeTableOptions): string {
  const { ids, width = terminalWidth(process.stdout, unknownWidth), withoutStatus = false } = options
  const measured = recipes.some(r => r.measuredQuality !== null)
  const named = recipes.every(nameHasAim)
  const withIntervals = recipes.some(r => r.estimatedQualityInterval !== null)
  const draw = (room: Room) => {
    const columns: [string, (recipe: RecipeSummary) => string][] = [
      ['recipe', r => cutName(r.name, room.name)],
      ...(room.aim || !named ? [['capability', aim] as [string, typeof aim]] : []),
      ...(withoutStatus ? [] : [['status', (r: RecipeSummary) => r.status] as [string, typeof aim]]),
      ['params', r => quantity(Number(r.estimatedParameterCount))],
      [room.interval && withIntervals ? 'predicted (95 %)' : 'predicted', r => predicted(r, room.interval)],
      ...(measured ? [['measured', (r: RecipeSummary) => quality(r.measuredQuality)] as [string, typeof aim]] : []),
      ['DCU', cost],
      ['layers kept', r => kept(r, room.layers)],
      ['id', r => idCell({ ids }, r.id)],
    ]
    const text = table(
      columns.map(([head]) => head),
      recipes.map(r => columns.map(([, cell]) => cell(r))),
    )
    const needed = Math.max(...text.split('\n').map(line => stripVTControlCharacters(line).length))
    return { text, excess: needed - width }
  }
  let drawn = draw(rooms[0]!)
  for (const room of rooms.slice(1)) {
    if (drawn.excess <= 0) return drawn.text
    drawn = draw(room)
  }
  if (drawn.excess <= 0) return drawn.text
  const longest = Math.max(...recipes.map(r => r.name.length))
  return draw({ ...rooms.at(-1)!, name: Math.max(leastName, longest - drawn.excess) }).text
}

/** Why a range of layers stays, without the layers it begins with: they are printed before it. */
export function layerReason({ from, to, reason }: RecipeSummary['layers'][number]): string {
  if (reason === null) return 'no reason given'
  const beginning = to - from === 1 ? `layer ${from}: ` : `layers ${from}-${to - 1}: `
  return reason.startsWith(beginning) ? reason.slice(beginning.length) : reason
}

/** `2 in layers 3, 7–8; 1 in layer 20`, most layers first; of all layers one number where it is the same. */
export function countsByLayer(counts: readonly number[], { zeros = false } = {}): string {
  if (new Set(counts).size === 1) return `${counts[0]} in each layer`
  const layersOf = new Map<number, { from: number; to: number }[]>()
  counts.forEach((count, layer) => {
    if (count === 0 && !zeros) return
    const own = layersOf.get(count) ?? []
    const last = own.at(-1)
    if (last?.to === layer) last.to = layer + 1
    else own.push({ from: layer, to: layer + 1 })
    layersOf.set(count, own)
  })
  const size = (own: { from: number; to: number }[]) => own.reduce((sum, { from, to }) => sum + to - from, 0)
  return [...layersOf]
    .sort(([, a], [, b]) => size(b) - size(a))
    .map(([count, own]) => `${count} in layer${size(own) === 1 ? '' : 's'} ${ranges(own)}`)
    .join('; ')
}

/** What the search says of size, speed and quality; nothing of recipes written by hand. */
export function figures(recipe: RecipeDetail): string[] {
  const { estimatedSizeBytes: bytes, estimatedTokensPerSecond: speed, estimatedQualityInterval: interval } = recipe
  const { measuredSizeBytes: trueBytes, measuredTokensPerSecond: trueSpeed } = recipe
  const quality = interval
    ? [
        `  quality between ${interval.map(bound => bound.toFixed(3)).join(' and ')} (95 %), on ${recipe.validationSamples ?? 'the'} held-out samples`,
      ]
    : []
  const before = [
    ...(bytes === null ? [] : [quantity(Number(bytes), 'bytes')]),
    ...(speed === null
      ? []
      : recipe.quantization
        ? [`about ${speed.toFixed(0)} tokens per second`]
        : [`at most ${speed.toFixed(0)} tokens per second on the device that searched`]),
  ]
  const after = [
    ...(trueBytes === null ? [] : [quantity(Number(trueBytes), 'bytes')]),
    ...(trueSpeed === null ? [] : [`${trueSpeed.toFixed(0)} tokens per second`]),
  ]
  return [
    ...quality,
    ...(before.length > 0 ? [`  expected: ${before.join(', ')}`] : []),
    ...(after.length > 0 ? [`  built: ${after.join(', ')}`] : []),
  ]
}

/** Layers with reasons, heads, widths, codes and fusions. */
export function partsText({ layers, headPruning, feedForwardPruning, quantization, fusion }: RecipeDetail): string[] {
  const lines = layers.map(layer => {
    const of = layer.model ? ` of ${layer.model.name}` : ''
    return `  layer${layer.to - layer.from === 1 ? '' : 's'} ${ranges([layer])}${of}: ${layerReason(layer)}`
  })
  if (headPruning) {
    const { unit, metric, removePerLayer } = headPruning
    const what = unit === 'QUERY_HEAD' ? 'query heads of each key/value head' : 'key/value heads'
    const how = metric === 'GIVEN' ? 'named one by one' : `chosen by ${metric.toLowerCase()}`
    lines.push(`  without ${what} (layers of the student): ${countsByLayer(removePerLayer)}, ${how}`)
  }
  if (feedForwardPruning) {
    const { keepPerLayer, metric } = feedForwardPruning
    lines.push(
      `  feed-forward units kept: ${countsByLayer(keepPerLayer, { zeros: true })}, chosen by ${metric.toLowerCase()}`,
    )
  }
  if (quantization) {
    const { type, symmetric, blockSize, method, head } = quantization
    lines.push(
      `  quantised: ${type}, ${symmetric ? 'symmetric' : 'asymmetric'}, blocks of ${blockSize}, ${method.toLowerCase().replaceAll('_', ' ')}, head ${head}`,
    )
  }
  if (fusion) lines.push(`  fused: from a speed-up of ${fusion.threshold} on${fusion.together ? ', all at once' : ''}`)
  return lines
}

/** Who decided what, when. */
export const decisionLines = (decisions: readonly RecipeDecision[]): string[] =>
  decisions.map(
    ({ createdAt, reason, policyVersion }) =>
      `  ${createdAt.slice(0, 19).replace('T', ' ')}  ${reason}${policyVersion === null ? '' : ` (policy version ${policyVersion})`}`,
  )
