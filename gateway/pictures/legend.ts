// A legend that wraps, with the height that it takes: what lies below it must know.

/** Pixels. A letter is as wide as in the widest of the fonts that may be at hand; ECharts reckons with a narrow one. */
const sizes = { letter: 7.4, symbol: 14, gap: 18, row: 24 }
const left = 16

export interface LegendEntry {
  /** Of a series. */
  name: string
  icon?: string
  itemStyle?: object
}

/** @returns a legend for each entry, so that every one stands where it has room */
export function wrappingLegend(entries: readonly LegendEntry[], { top, width }: { top: number; width: number }) {
  let [row, x] = [0, left]
  const options = entries.map(entry => {
    const own = sizes.symbol + 5 + sizes.letter * [...entry.name].length
    if (x > left && x + own > width - left) [row, x] = [row + 1, left]
    const place = { left: x, top: top + sizes.row * row }
    x += own + sizes.gap
    return {
      ...place,
      // Symbols are as wide as high, so that none is squashed.
      itemWidth: sizes.symbol,
      itemHeight: sizes.symbol,
      padding: 0,
      textStyle: { color: '#222222' },
      selectedMode: false as const,
      data: [{ ...entry }],
    }
  })
  return { height: sizes.row * (row + 1), options }
}
