// Heat map, layer × attention head: how much the loss changes with each head.
import { viridis } from './colours.js'
import type { PictureHeads } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'
import { restsOn } from './rests-on.js'

/** A cell this wide and high has room for its number. */
const cellWithNumber = { width: 46, height: 22 }
/** Importance spreads over orders of magnitude: colour by its logarithm, from the least on, or from this share of the greatest. */
const faintest = 1e-3

const digits = (value: number) =>
  value >= 9.95
    ? value.toFixed(0)
    : value >= 0.095
      ? value.toFixed(2)
      : value.toFixed(value >= 0.0095 ? 3 : 4).replace(/^0/, '')

/** Between groups of heads, and from a cell's edge to the box around its group: pixels. */
const gap = 5
const inset = { x: gap / 2 + 1, y: 1.5 }
const boxColour = '#d55e00'

export function headsPicture(found: PictureHeads): Picture {
  const { modelName, importance, groups, masked } = found
  const heads = Math.max(...importance.map(layer => layer.length))
  const numbers = heads <= 24 && importance.length <= 64
  const cell = {
    width: numbers ? cellWithNumber.width : Math.max(6, Math.min(40, Math.floor(900 / heads))),
    height: importance.length <= 64 ? cellWithNumber.height : Math.max(4, Math.floor(1600 / importance.length)),
  }
  const subtitle = [
    'First-order estimate of what the loss rises by without each head,',
    'nats per completion token, mean over the capabilities',
    restsOn(found),
    ...(masked.length > 0 ? ['Box: a key/value group also measured by leaving it out, the rise at the right'] : []),
  ]
  const grid = {
    left: 70,
    top: 92 + 16 * subtitle.length,
    width: cell.width * heads,
    height: cell.height * importance.length,
  }
  const all = importance.flat()
  const greatest = Math.max(...all, Number.MIN_VALUE)
  const least = Math.min(0.5, Math.max(faintest, Math.min(...all) / greatest))
  const scaled = (value: number) => Math.log10(Math.max(value / greatest, least))
  const cells = importance.flatMap((layer, y) => layer.map((value, x) => ({ x, y, value })))
  const boxes = masked.flatMap(({ layerIndex, keyValueHeadIndex, lossIncrease }) => {
    const own = (groups[layerIndex] ?? []).flatMap((group, head) => (group === keyValueHeadIndex ? [head] : []))
    const [first, last] = [own[0], own.at(-1)]
    return first === undefined || last === undefined ? [] : [{ layerIndex, first, last, lossIncrease }]
  })
  /** What the loss rises by, at the right of the layer's row: the cells have their own figures. */
  const measured = importance.map((_, layer) =>
    boxes
      .filter(({ layerIndex }) => layerIndex === layer)
      .map(({ first, last, lossIncrease }) => {
        const range = first === last ? `${first}` : `${first}–${last}`
        return `${range}: ${lossIncrease.toFixed(lossIncrease < 0.0995 ? 3 : 2)}`
      })
      .join('   '),
  )
  const column = boxes.length > 0 && cell.height >= 12 ? ['measured, nats', ...measured] : []
  const columnWidth = column.length > 0 ? 30 + 8 * Math.max(...column.map(text => text.length)) : 40
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
      `Heat map of ${importance.length} layers by ${heads} query heads: mean over the samples of |change of the loss per change of the head's output|, a first-order estimate of what the loss rises by without the head, nats per completion token, on ${restsOn(found)}. ` +
      `Greatest: layer ${most.y} head ${most.x}, ${most.value.toFixed(3)}.` +
      (losses.length > 0 ? ` Loss added without key/value groups of little importance: ${losses.join('; ')}.` : ''),
    width: Math.max(560, grid.left + grid.width + columnWidth),
    height: grid.top + grid.height + 80,
    option: {
      title: {
        text: title,
        subtext: subtitle.join('\n'),
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444', lineHeight: 16 },
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
          lineStyle: { color: '#ffffff', width: gap },
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
          `${digits(greatest)} nats per token (logarithmic)`,
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
          // In pixels: a symbol that is stretched to a box has lines of two widths.
          type: 'custom',
          silent: true,
          z: 5,
          data: boxes.map(({ layerIndex, first, last }) => [first, last, layerIndex]),
          encode: { x: [0, 1], y: 2 },
          renderItem: (_, api) => {
            const [first, last, layer] = [0, 1, 2].map(i => Number(api.value(i)))
            const [left, middle] = api.coord([first!, layer!])
            const [right] = api.coord([last!, layer!])
            return {
              type: 'rect',
              shape: {
                x: left! - cell.width / 2 + inset.x,
                y: middle! - cell.height / 2 + inset.y,
                width: right! - left! + cell.width - 2 * inset.x,
                height: cell.height - 2 * inset.y,
              },
              style: { fill: 'none', stroke: boxColour, lineWidth: 2 },
            }
          },
        },
      ],
      graphic: column.map((text, i) => ({
        type: 'text',
        silent: true,
        x: grid.left + grid.width + 16,
        y: grid.top + (i === 0 ? -14 : (i - 0.5) * cell.height),
        style: { text, fontSize: 11, fill: i === 0 ? '#222222' : '#a84300', verticalAlign: 'middle' },
      })),
    },
  }
}
