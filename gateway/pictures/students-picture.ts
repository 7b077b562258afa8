// Pareto plot of a model's recipes: parameters against quality, each capability's front drawn.
import { categoryColour, neutral } from './colours.js'
import type { PictureRecipes, PlottedRecipe } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'

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

const nameOf = (capability: string | null) => (capability === null ? 'by hand' : plainText(capability, 32))
const colourOf = (capability: string | null, index: number) => (capability === null ? neutral : categoryColour(index))

export function studentsPicture(found: PictureRecipes): Picture {
  const { recipes, unmeasured } = found
  const { divisor, unit } = scales.find(s => found.parameterCount >= s.from)!
  const capabilities = [...new Set(recipes.map(r => r.capability))].sort((a, b) =>
    (a ?? '\uffff') < (b ?? '\uffff') ? -1 : 1,
  )
  // Quality says how much of one capability is kept: a student for another one does not compete.
  const fronts = capabilities.map(capability => paretoFront(recipes.filter(r => r.capability === capability)))
  // Where all are good, the differences are what one looks for.
  const fromZero = Math.min(...recipes.map(r => r.interval?.[0] ?? r.quality)) < 0.5
  const point = (r: PlottedRecipe) => [r.parameterCount / divisor, r.quality]
  const labelOf = (r: PlottedRecipe) => plainText(r.capability ?? r.name, 28)
  /** A whisker per estimated recipe, as one line with gaps. */
  const intervalsOf = (capability: string | null, index: number) => ({
    name: nameOf(capability),
    type: 'line' as const,
    symbol: 'rect',
    symbolSize: [9, 1.5] as [number, number],
    silent: true,
    z: 1,
    itemStyle: { color: colourOf(capability, index), opacity: 1 },
    lineStyle: { color: colourOf(capability, index), width: 1.5, opacity: 0.6 },
    data: recipes
      .filter(r => r.capability === capability && r.interval)
      .flatMap(r => {
        const x = r.parameterCount / divisor
        return [
          [x, r.interval![0]],
          [x, r.interval![1]],
          ['-', '-'],
        ] as [number | string, number | string][]
      }),
  })
  const title = `Students of ${plainText(found.modelName, 60)}`
  const measured = recipes.filter(r => r.measured).length
  const legendRows = Math.ceil((capabilities.length + 1) / 4)
  return {
    title,
    description:
      `${recipes.length} recipes by parameters and quality (1 is the parent), ${measured} of them measured on the built student, the others estimated; ${unmeasured} more have no quality yet. ` +
      `Pareto fronts, by capability: ${fronts
        .flat()
        .slice(0, 50)
        .map(
          r => `${labelOf(r)} ${r.parameterCount.toLocaleString('en-US')} parameters, quality ${r.quality.toFixed(3)}`,
        )
        .join('; ')}.`,
    width: 860,
    height: 540 + 44 * legendRows,
    option: {
      title: {
        text: title,
        subtext:
          'Filled: measured on the built student; hollow: estimated, with its 95 % interval. Lines: each capability’s Pareto front',
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444' },
      },
      legend: { top: 66, left: 16, width: 820, itemGap: 30, textStyle: { color: '#222222' }, selectedMode: false },
      grid: { left: 70, right: 90, top: 76 + 44 * legendRows, bottom: 60 },
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
        ...capabilities.map((capability, index) => {
          const colour = colourOf(capability, index)
          return {
            name: nameOf(capability),
            type: 'scatter' as const,
            silent: true,
            symbolSize: 11,
            itemStyle: { color: colour, opacity: 1 },
            labelLayout: { hideOverlap: true },
            data: recipes
              .filter(r => r.capability === capability)
              .map(r => ({
                value: point(r),
                itemStyle: r.measured
                  ? { color: colour, borderColor: '#222222', borderWidth: 1 }
                  : { color: '#ffffff', borderColor: colour, borderWidth: 2.5 },
                label: {
                  // The legend names the others.
                  show: r.capability === null,
                  position: 'top' as const,
                  fontSize: 11,
                  color: '#222222',
                  formatter: () => labelOf(r),
                },
              })),
          }
        }),
        ...capabilities.map((capability, index) => intervalsOf(capability, index)),
        ...fronts.map((front, index) => {
          const capability = capabilities[index] ?? null
          return {
            name: nameOf(capability),
            type: 'line' as const,
            data: front.map(point),
            symbol: 'none',
            silent: true,
            lineStyle: { color: colourOf(capability, index), width: 1.5 },
            z: 1,
          }
        }),
        {
          name: 'parent',
          type: 'scatter',
          silent: true,
          symbol: 'diamond',
          symbolSize: 14,
          itemStyle: { color: '#000000', opacity: 1 },
          data: [[found.parameterCount / divisor, 1]],
        },
      ],
    },
  }
}
