// Model map: the layers as blocks in their order, coloured by the capability that each carries most.
import { categoryColour, neutral, onWhite } from './colours.js'
import { rootOf } from './layers-picture.js'
import type { PictureAnalysis } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'

interface Block {
  name: string
  /** Index of the capability; null: skipping the layer harms none. */
  capability: number | null
  loss: number
}

/** The capability whose loss grows most without the layer. */
export function heaviest(lossIncrease: readonly (number | null)[]): { capability: number | null; loss: number } {
  let best: { capability: number | null; loss: number } = { capability: null, loss: 0 }
  lossIncrease.forEach((loss, capability) => {
    if (loss !== null && loss > best.loss) best = { capability, loss }
  })
  return best
}

export function mapPicture(analysis: PictureAnalysis): Picture {
  const { capabilities, layers } = analysis
  const names = capabilities.map(slug => plainText(slug, 32))
  const blocks: Block[] = layers.map(l => ({ name: `layer ${l.layerIndex}`, ...heaviest(l.lossIncrease) }))
  const ends = ['embedding', 'output head']
  const rows = [ends[0]!, ...blocks.map(b => b.name), ends[1]!]
  const row = layers.length <= 60 ? 22 : Math.max(3, Math.floor(1600 / layers.length))
  const greatest = Math.max(...blocks.map(b => rootOf(b.loss)), 0.01)
  const shown = new Set(blocks.map(b => b.capability))
  const series = (name: string, colour: string, values: { value: number | string; [more: string]: unknown }[]) => ({
    name,
    type: 'bar' as const,
    stack: 'map',
    silent: true,
    barWidth: row > 8 ? '82%' : '100%',
    itemStyle: { color: colour },
    data: values,
  })
  const nothing = { value: '-' }
  const carrying = names.flatMap((name, index) =>
    shown.has(index)
      ? [
          series(name, categoryColour(index), [
            nothing,
            ...blocks.map(b => (b.capability === index ? blockItem(b, name) : nothing)),
            nothing,
          ]),
        ]
      : [],
  )
  const idle = shown.has(null)
    ? [
        series('none', '#d0d0d0', [
          nothing,
          ...blocks.map(b =>
            b.capability === null ? { value: greatest * 0.02, label: blockLabel('no loss without it') } : nothing,
          ),
          nothing,
        ]),
      ]
    : []
  const end = { value: greatest, label: { ...blockLabel('always kept'), position: 'inside', color: '#000000' } }
  const title = `Model map of ${plainText(analysis.modelName, 60)}`
  const legendRows = Math.ceil((carrying.length + idle.length + 1) / 4)
  // A row of the legend with its gap.
  const top = 76 + 44 * legendRows

  function blockLabel(text: string) {
    return { show: row >= 12, position: 'right', fontSize: 11, color: '#222222', formatter: () => text }
  }
  function blockItem(block: Block, name: string) {
    const share = rootOf(block.loss) / greatest
    return {
      value: rootOf(block.loss),
      // Never so pale that the colour cannot be told.
      itemStyle: { color: onWhite(categoryColour(block.capability ?? 0), 0.45 + 0.55 * share) },
      label: blockLabel(`${name} ${block.loss.toFixed(2)}`),
    }
  }

  return {
    title,
    description: `The ${layers.length} layers of the model from embedding to output head, each in the colour of the capability that loses most when the layer is skipped; the wider, the more nats per completion token. ${blocks
      .slice(0, 200)
      .map(b => `${b.name}: ${b.capability === null ? 'none' : `${names[b.capability]} ${b.loss.toFixed(2)}`}`)
      .join('; ')}.`,
    width: 860,
    height: top + row * rows.length + 70,
    option: {
      title: {
        text: title,
        subtext: 'Blocks from input to output; colour: the capability that loses most without the layer',
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444' },
      },
      legend: { top: 66, left: 16, width: 820, itemGap: 30, textStyle: { color: '#222222' }, selectedMode: false },
      grid: { left: 100, right: 190, top, height: row * rows.length },
      xAxis: {
        type: 'value',
        min: 0,
        max: greatest,
        interval: greatest / 4,
        name: 'loss increase when skipped, nats per completion token (square-root scale)',
        nameLocation: 'middle',
        nameGap: 30,
        nameTextStyle: { color: '#222222' },
        axisLabel: { color: '#222222', formatter: (root: number) => (root ** 2).toFixed(2) },
      },
      yAxis: {
        type: 'category',
        data: rows,
        inverse: true,
        axisTick: { show: false },
        axisLabel: { color: '#222222', ...(row >= 12 && { interval: 0 }), hideOverlap: true },
      },
      series: [
        series('embedding and head', neutral, [end, ...blocks.map(() => nothing), end]),
        ...carrying,
        ...idle,
      ] as object[],
    },
  }
}
