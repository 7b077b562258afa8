// Pareto plot of a model's recipes: parameters against quality, each capability's front drawn.
import { categoryColour, neutral } from './colours.js'
import { wrappingLegend } from './legend.js'
import type { PictureRecipes, PlottedRecipe } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'
import { span } from './rests-on.js'

/** Those that no other beats: none has at most as many parameters and a better quality, or fewer and as good. By size. */
export function paretoFront<T extends Pick<PlottedRecipe, 'parameterCount' | 'quality'>>(recipes: readonly T[]): T[] {
  const bySize = [...recipes].sort((a, b) => a.parameterCount - b.parameterCount || b.quality - a.quality)
  const front: T[] = []
  for (const recipe of bySize) if (recipe.quality > (front.at(-1)?.quality ?? -1)) front.push(recipe)
  return front
}

const scales = [
  { from: 1e9, divisor: 1e9, unit: 'billions' },
  { from: 1e6, divisor: 1e6, unit: 'millions' },
  { from: 1e3, divisor: 1e3, unit: 'thousands' },
  { from: 0, divisor: 1, unit: 'single parameters' },
]

/** What is done to the parent, by the symbol of its points. */
const kinds = [
  { name: 'layers left out', symbol: 'circle', is: (r: PlottedRecipe) => !r.fitted && !r.pruned },
  { name: 'and cuts fitted', symbol: 'rect', is: (r: PlottedRecipe) => r.fitted && !r.pruned },
  { name: 'and heads or units pruned', symbol: 'triangle', is: (r: PlottedRecipe) => !r.fitted && r.pruned },
  { name: 'pruned and fitted', symbol: 'path://M0 0L10 0L5 10Z', is: (r: PlottedRecipe) => r.fitted && r.pruned },
]
const parentSymbol = { symbol: 'diamond', itemStyle: { color: '#000000', opacity: 1 } }

const nameOf = (capability: string | null) => (capability === null ? 'by hand' : plainText(capability, 60))
const labelOf = (r: PlottedRecipe) => plainText(r.capability ?? r.name, 60)

export function studentsPicture(found: PictureRecipes): Picture {
  const { recipes, unmeasured } = found
  const { divisor, unit } = scales.find(s => found.parameterCount >= s.from)!
  const others = recipes.map(r => r.capability).sort((a, b) => ((a ?? '\uffff') < (b ?? '\uffff') ? -1 : 1))
  /** In the colours that they have in the model's other pictures; then mixtures and what is written by hand. */
  const all = [...new Set([...found.capabilities, ...others])]
  const capabilities = all.filter(capability => recipes.some(r => r.capability === capability))
  const colourOf = (capability: string | null) =>
    capability === null ? neutral : categoryColour(all.indexOf(capability))
  // Quality says how much of one capability is kept: a student for another one does not compete.
  const fronts = capabilities.map(capability => paretoFront(recipes.filter(r => r.capability === capability)))
  const onFront = new Set(fronts.flat())
  // Where all are good, the differences are what one looks for.
  const fromZero = Math.min(...recipes.map(r => r.interval?.[0] ?? r.quality)) < 0.5
  const point = (r: PlottedRecipe) => [r.parameterCount / divisor, r.quality]
  const sizes = recipes.map(r => r.parameterCount)
  const middle = (Math.min(...sizes) + Math.max(...sizes, found.parameterCount)) / 2
  const filled = (colour: string) => ({ color: colour, borderColor: '#222222', borderWidth: 1, opacity: 1 })
  const hollow = (colour: string) => ({ color: '#ffffff', borderColor: colour, borderWidth: 2.5, opacity: 1 })
  /** Whiskers of estimated recipes, as one line with gaps. */
  const intervalsOf = (capability: string | null, front: boolean) => ({
    name: nameOf(capability),
    type: 'line' as const,
    symbol: 'rect',
    symbolSize: [9, 1.5] as [number, number],
    silent: true,
    z: 1,
    itemStyle: { color: colourOf(capability), opacity: front ? 0.8 : 0.3 },
    lineStyle: { color: colourOf(capability), width: 1.5, opacity: front ? 0.6 : 0.2 },
    data: recipes
      .filter(r => r.capability === capability && r.interval && onFront.has(r) === front)
      .flatMap(r => {
        const x = r.parameterCount / divisor
        return [
          [x, r.interval![0]],
          [x, r.interval![1]],
          ['-', '-'],
        ] as [number | string, number | string][]
      }),
  })
  const last = new Set(fronts.map(front => front.at(-1)))
  const pointOf = (r: PlottedRecipe, colour: string) => {
    const layers = `${r.layerCount} of ${found.layerCount}`
    // The legend names the others; a long name goes to where there is room, layers to where the front's line is not.
    const named = r.capability === null
    const side = named ? r.parameterCount <= middle : last.has(r)
    return {
      value: point(r),
      symbol: kinds.find(kind => kind.is(r))!.symbol,
      symbolSize: onFront.has(r) ? 11 : 8,
      itemStyle: r.measured ? filled(colour) : hollow(colour),
      label: {
        show: named || onFront.has(r),
        position: side ? ('right' as const) : ('left' as const),
        minMargin: 3,
        fontSize: 10,
        color: '#222222',
        formatter: () => (named ? `${labelOf(r)}, ${layers}` : layers),
      },
    }
  }
  const title = `Students of ${plainText(found.modelName, 60)}`
  const measured = recipes.filter(r => r.measured).length
  const grey = '#555555'
  /** Series without points, for the second legend: what symbols mean. */
  const meanings = [
    ...kinds
      .filter(({ is }) => recipes.some(is))
      .map(({ name, symbol }) => ({ name, icon: symbol, itemStyle: { color: '#b0b0b0', borderWidth: 0, opacity: 1 } })),
    { name: 'measured on the built student', icon: 'circle', itemStyle: filled(grey) },
    { name: 'estimated, with its 95 % interval', icon: 'circle', itemStyle: hollow(grey) },
    { name: 'parent', icon: parentSymbol.symbol, itemStyle: { ...parentSymbol.itemStyle, borderWidth: 0 } },
  ]
  const width = 960
  const colours = capabilities.map(capability => ({
    name: nameOf(capability),
    icon: 'roundRect',
    itemStyle: { color: colourOf(capability), borderWidth: 0, opacity: 1 },
  }))
  const colourLegend = wrappingLegend(colours, { top: 84, width })
  const symbolLegend = wrappingLegend(meanings, { top: 84 + colourLegend.height, width })
  const top = 110 + colourLegend.height + symbolLegend.height
  const counts = recipes.flatMap(r => (r.validationSamples === null ? [] : [r.validationSamples]))
  const samples = counts.length > 0 ? `; each estimate rests on ${span(counts)} validation samples` : ''
  return {
    title,
    description:
      `${recipes.length} recipes by parameters and quality (1 is the parent), ${measured} of them measured on the built student, the others estimated; ${unmeasured} more have no quality beside it. ` +
      `Pareto fronts, by capability: ${fronts
        .flat()
        .slice(0, 50)
        .map(
          r =>
            `${labelOf(r)} ${r.layerCount} of ${found.layerCount} layers, ${r.parameterCount.toLocaleString('en-US')} parameters, quality ${r.quality.toFixed(3)}`,
        )
        .join('; ')}.`,
    width,
    height: top + 520,
    option: {
      title: {
        text: title,
        subtext: `Lines: each capability’s Pareto front, its points with the layers they keep; small points: beaten by one of them\nQuality of ${recipes.length} recipes${samples}`,
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444', lineHeight: 16 },
      },
      legend: [...colourLegend.options, ...symbolLegend.options],
      grid: { left: 70, right: 60, top, bottom: 60 },
      xAxis: {
        type: 'value',
        scale: true,
        boundaryGap: ['6%', '6%'],
        name: `parameters, ${unit}`,
        nameLocation: 'middle',
        nameGap: 30,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222' },
      },
      yAxis: {
        type: 'value',
        ...(fromZero ? { min: 0 } : { scale: true }),
        name: 'quality: exp(parent loss − student loss), 1 is the parent',
        nameLocation: 'middle',
        nameGap: 40,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222' },
      },
      series: [
        ...capabilities.map(capability => ({
          name: nameOf(capability),
          type: 'scatter' as const,
          silent: true,
          // At the left of a point above the line that comes from there; at the right below the parent.
          labelLayout: ({ rect, labelRect }: { rect: { x: number }; labelRect: { x: number } }) => ({
            hideOverlap: true,
            ...(labelRect.x > rect.x ? { dx: -2, dy: 8 } : { dx: 4, dy: -8 }),
          }),
          // Where labels are in each other's way the first stays.
          data: recipes
            .filter(r => r.capability === capability)
            .sort((a, b) => Number(onFront.has(b)) - Number(onFront.has(a)))
            .map(r => pointOf(r, colourOf(capability))),
        })),
        ...capabilities.flatMap(capability => [true, false].map(front => intervalsOf(capability, front))),
        ...fronts.map((front, index) => {
          const capability = capabilities[index] ?? null
          return {
            name: nameOf(capability),
            type: 'line' as const,
            data: front.map(point),
            symbol: 'none',
            silent: true,
            lineStyle: { color: colourOf(capability), width: 1.5 },
            z: 1,
          }
        }),
        ...meanings
          .filter(({ name }) => name !== 'parent')
          .map(({ name }) => ({ name, type: 'scatter' as const, data: [] })),
        {
          name: 'parent',
          type: 'scatter',
          silent: true,
          symbolSize: 14,
          ...parentSymbol,
          data: [[found.parameterCount / divisor, 1]],
        },
      ],
    },
  }
}
