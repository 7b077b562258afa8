// Heat map, layer × attention head: how much the loss changes with each head.
import { viridis } from './colours.js'
import type { PictureHeads } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'

/** A cell this wide and high has room for its number. */
const cellWithNumber = { width: 40, height: 22 }
/** Importance spreads over orders of magnitude: colour by its logarithm, from the least on, or from this share of the greatest. */
const faintest = 1e-3

const digits = (value: number) =>
  value >= 9.95
    ? value.toFixed(0)
    : value >= 0.095
      ? value.toFixed(2)
      : value.toFixed(value >= 0.0095 ? 3 : 4).replace(/^0/, '')

export function headsPicture({ modelName, probeSet, importance, groups, masked }: PictureHeads): Picture {
  const heads = Math.max(...importance.map(layer => layer.length))
  const numbers = heads <= 24 && importance.length <= 64
  const cell = {
    width: numbers ? cellWithNumber.width : Math.max(6, Math.min(40, Math.floor(900 / heads))),
    height: importance.length <= 64 ? cellWithNumber.height : Math.max(4, Math.floor(1600 / importance.length)),
  }
  const grid = { left: 70, top: 116, width: cell.width * heads, height: cell.height * importance.length }
  const all = importance.flat()
  const greatest = Math.max(...all, Number.MIN_VALUE)
  const least = Math.min(0.5, Math.max(faintest, Math.min(...all) / greatest))
  const scaled = (value: number) => Math.log10(Math.max(value / greatest, least))
  const cells = importance.flatMap((layer, y) => layer.map((value, x) => ({ x, y, value })))
  /** Around the query heads of a key/value head, inside the gaps between groups. */
  const boxOf = ({ layerIndex, keyValueHeadIndex }: PictureHeads['masked'][number]) => {
    const own = (groups[layerIndex] ?? []).flatMap((group, head) => (group === keyValueHeadIndex ? [head] : []))
    const [first, last] = [own[0], own.at(-1)]
    if (first === undefined || last === undefined) return []
    return [
      {
        // The axis has whole positions only; a group of an even number of heads has its middle between two.
        value: [Math.floor((first + last) / 2), layerIndex, 0],
        symbolOffset: [((last - first) % 2) * (cell.width / 2), 0],
        symbolSize: [own.length * cell.width - 8, cell.height - 4],
        itemStyle: { color: 'transparent', borderColor: '#d55e00', borderWidth: 2.5, opacity: 1 },
      },
    ]
  }
  const most = cells.reduce((a, b) => (b.value > a.value ? b : a))
  const losses = masked
    .map(
      ({ layerIndex, keyValueHeadIndex, lossIncrease }) =>
        `layer ${layerIndex} group ${keyValueHeadIndex}: ${lossIncrease.toFixed(3)}`,
    )
    .slice(0, 50)
  const title = `Attention heads of ${plainText(modelName, 60)}`
  const firstOfGroup = (x: number) => x === 0 || groups[0]?.[x] !== groups[0]?.[x - 1]
  return {
    title,
    description:
      `Heat map of ${importance.length} layers by ${heads} query heads: mean over the samples of ${plainText(probeSet)} of |change of the loss per change of the head's output|, nats per completion token. ` +
      `Greatest: layer ${most.y} head ${most.x}, ${most.value.toFixed(3)}.` +
      (losses.length > 0 ? ` Loss added without key/value groups of little importance: ${losses.join('; ')}.` : ''),
    width: Math.max(620, grid.left + grid.width + 40),
    height: grid.top + grid.height + 80,
    option: {
      title: {
        text: title,
        subtext: `|d loss / d gate|, nats per completion token, mean over the capabilities${
          masked.length > 0 ? '\nBox: a key/value group whose loss was also measured without it' : ''
        }`,
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444', lineHeight: 15 },
      },
      grid,
      xAxis: {
        type: 'category',
        position: 'top',
        data: Array.from({ length: heads }, (_, head) => String(head)),
        name: 'query head',
        nameLocation: 'middle',
        nameGap: 24,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222', hideOverlap: true },
        axisTick: { show: false },
        axisLine: { show: false },
        // Heads that share a key/value head stand together.
        splitLine: {
          show: true,
          interval: (index: number) => index > 0 && firstOfGroup(index),
          lineStyle: { color: '#ffffff', width: 5 },
        },
        z: 3,
      },
      yAxis: {
        type: 'category',
        inverse: true,
        data: importance.map((_, layer) => String(layer)),
        name: 'layer',
        nameLocation: 'middle',
        nameGap: 34,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222', hideOverlap: true },
        axisTick: { show: false },
        axisLine: { show: false },
      },
      visualMap: {
        type: 'continuous',
        min: Math.log10(least),
        max: 0,
        dimension: 2,
        orient: 'horizontal',
        left: 16,
        bottom: 12,
        seriesIndex: 0,
        itemWidth: 14,
        itemHeight: 200,
        inRange: { color: viridis },
        text: [
          `${digits(greatest)} (logarithmic scale)`,
          `${digits(greatest * least)}${least > faintest ? '' : ' or less'}`,
        ],
        textStyle: { color: '#222222' },
        calculable: false,
      },
      series: [
        {
          type: 'heatmap',
          data: cells.map(({ x, y, value }) => ({
            value: [x, y, scaled(value)],
            label: {
              show: numbers,
              formatter: () => digits(value),
              fontSize: 10,
              // Viridis is dark below its middle.
              color: scaled(value) > 0.45 * Math.log10(least) ? '#000000' : '#ffffff',
            },
          })),
          itemStyle: { borderColor: '#ffffff', borderWidth: cell.height > 8 ? 1 : 0 },
          silent: true,
        },
        {
          type: 'scatter',
          symbol: 'rect',
          silent: true,
          z: 5,
          data: masked.flatMap(group => boxOf(group)),
        },
      ],
    },
  }
}
