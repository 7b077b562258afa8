// Heat map, layer × capability: what skipping a layer costs.
import { viridis } from './colours.js'
import type { PictureAnalysis } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'
import { restsOn } from './rests-on.js'

/** A cell this wide has room for its number. */
const cellWithNumber = 34

/** Share of the greatest loss from which on colours tell apart, where cells go on below it. */
const faintest = 1e-3
/** Share of the cells that may lie below what colours tell apart. */
const lowest = 0.05

/**
 * Colours by the logarithm: a first layer that costs ten nats would leave all others one colour, also by the square root.
 * @returns nats of the first and of the last colour
 */
export function colourRange(losses: readonly number[]): { least: number; greatest: number } {
  const sorted = losses.filter(loss => loss > 0).sort((a, b) => a - b)
  const greatest = sorted.at(-1) ?? 0.01
  const low = sorted[Math.floor(lowest * sorted.length)] ?? greatest
  return { least: Math.min(Math.max(low, faintest * greatest), greatest / 2), greatest }
}

/** Two digits after the point for small figures, none for large ones; no minus before a zero. */
export function nats(loss: number): string {
  const size = Math.abs(loss)
  const text = loss.toFixed(size >= 9.95 ? 0 : size >= 0.995 ? 1 : 2)
  return text === '-0.00' ? '0.00' : text
}

export function layersPicture(analysis: PictureAnalysis): Picture {
  const { capabilities, layers } = analysis
  const names = capabilities.map(slug => plainText(slug, 32))
  const numbers = layers.length <= 40
  const cell = numbers ? cellWithNumber : Math.max(3, Math.min(cellWithNumber, Math.floor(1400 / layers.length)))
  const left = 40 + 7 * Math.max(10, ...names.map(n => n.length))
  const width = Math.max(560, left + cell * layers.length + 40)
  const height = 112 + 30 * capabilities.length + 100
  const cells = layers.flatMap(({ lossIncrease }, x) =>
    lossIncrease.flatMap((loss, y) => (loss === null ? [] : [{ x, y, loss }])),
  )
  const { least, greatest } = colourRange(cells.map(c => c.loss))
  /** 0 to 1 along the colours. */
  const scaled = (loss: number) => Math.log(Math.max(loss, least) / least) / Math.log(greatest / least)
  const title = `What the layers of ${plainText(analysis.modelName, 60)} carry`
  const most = cells.reduce((a, b) => (b.loss > a.loss ? b : a), cells[0] ?? { x: 0, y: 0, loss: 0 })
  return {
    title,
    description:
      `Heat map of ${layers.length} layers by ${capabilities.length} capabilities: nats per completion token that skipping the layer adds to the loss, on ${restsOn(analysis)}. ` +
      `Greatest: layer ${layers[most.x]?.layerIndex ?? 0} for ${names[most.y] ?? ''}, ${most.loss.toFixed(2)}.`,
    width,
    height,
    option: {
      title: {
        text: title,
        subtext: `Loss increase when the layer is skipped, nats per completion token\n${restsOn(analysis)}`,
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444', lineHeight: 16 },
      },
      grid: { left, right: 40, top: 112, height: 30 * capabilities.length },
      xAxis: {
        type: 'category',
        data: layers.map(l => String(l.layerIndex)),
        name: 'layer',
        nameLocation: 'middle',
        nameGap: 28,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222', hideOverlap: true },
        axisTick: { show: false },
      },
      yAxis: {
        type: 'category',
        data: names,
        inverse: true,
        name: 'capability',
        nameLocation: 'start',
        nameTextStyle: { align: 'right', color: '#222222' },
        axisLabel: { color: '#222222' },
        axisTick: { show: false },
      },
      visualMap: {
        type: 'continuous',
        min: 0,
        max: 1,
        dimension: 2,
        orient: 'horizontal',
        left: 16,
        bottom: 12,
        itemWidth: 14,
        itemHeight: 200,
        inRange: { color: viridis },
        text: [`${nats(greatest)} nats per completion token (colours by the logarithm)`, `${nats(least)} or less`],
        textStyle: { color: '#222222' },
        calculable: false,
      },
      series: [
        {
          type: 'heatmap',
          data: cells.map(({ x, y, loss }) => ({
            value: [x, y, scaled(loss)],
            label: {
              show: numbers,
              formatter: () => nats(loss),
              fontSize: 10,
              // Viridis is dark below its middle.
              color: scaled(loss) > 0.55 ? '#000000' : '#ffffff',
            },
          })),
          itemStyle: { borderColor: '#ffffff', borderWidth: cell > 8 ? 1 : 0 },
          silent: true,
        },
      ],
    },
  }
}
