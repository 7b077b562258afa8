// Model map: the layers as blocks in their order, coloured by the capability that each carries most.
import { categoryColour, neutral } from './colours.js'
import { wrappingLegend } from './legend.js'
import type { PictureAnalysis } from './picture-data.js'
import { type Picture, plainText } from './render-svg.js'
import { restsOn } from './rests-on.js'

/** Bars are as long as the square root: a first layer that costs ten nats would leave all others without length. */
const rootOf = (loss: number) => Math.sqrt(Math.max(0, loss))

/** Capabilities that lose at least this share of what the first one loses: who is first among them is chance. */
const alike = 0.95
/** More names than these do not fit beside a bar. */
const namesBeside = 3

/** Capabilities whose loss grows most without the layer, the first first, and those alike; none where nothing is lost. */
export function heaviest(lossIncrease: readonly (number | null)[]): { capability: number; loss: number }[] {
  const sorted = lossIncrease
    .map((loss, capability) => ({ capability, loss: loss ?? 0 }))
    .filter(({ loss }) => loss > 0)
    .sort((a, b) => b.loss - a.loss)
  return sorted.filter(({ loss }) => loss >= alike * sorted[0]!.loss)
}

/** Round figures whose square roots are spread over an axis: 0, 0.5, 2, 5, 10. */
export function rootTicks(greatest: number): number[] {
  const rounds = [-3, -2, -1, 0, 1, 2, 3].flatMap(power => [1, 2, 5].map(digit => Number(`${digit}e${power}`)))
  const ticks = [0]
  for (const tick of rounds)
    if (tick <= greatest && rootOf(tick) - rootOf(ticks.at(-1)!) >= 0.07 * rootOf(greatest)) ticks.push(tick)
  return ticks
}

export function mapPicture(analysis: PictureAnalysis): Picture {
  const { capabilities, layers } = analysis
  const names = capabilities.map(slug => plainText(slug, 60))
  const blocks = layers.map(l => ({ name: `layer ${l.layerIndex}`, most: heaviest(l.lossIncrease) }))
  const rows = ['embedding', ...blocks.map(b => b.name), 'output head']
  const row = layers.length <= 60 ? 22 : Math.max(3, Math.floor(1600 / layers.length))
  const losses = blocks.map(b => b.most[0]?.loss ?? 0)
  const greatest = Math.max(...losses, 1e-4)
  const ticks = rootTicks(greatest).map(rootOf)
  const nothing = { value: '-' }
  const textOf = (most: (typeof blocks)[number]['most']) => {
    const named = most.slice(0, namesBeside).map(({ capability, loss }) => `${names[capability]} ${loss.toFixed(2)}`)
    return named.join(', ') + (most.length > named.length ? ` and ${most.length - named.length} more` : '')
  }
  const label = (text: string) => ({
    show: row >= 12,
    position: 'right' as const,
    fontSize: 11,
    color: '#222222',
    formatter: () => text,
  })
  /** The bars of one colour: those blocks that belong to it. */
  const bars = (name: string, color: string, belongs: (block: (typeof blocks)[number]) => boolean) =>
    blocks.some(belongs)
      ? [
          {
            name,
            type: 'bar' as const,
            stack: 'map',
            silent: true,
            barWidth: row > 8 ? '82%' : '100%',
            itemStyle: { color },
            data: [
              nothing,
              ...blocks.map((block, i) =>
                belongs(block) ? { value: rootOf(losses[i]!), label: label(textOf(block.most)) } : nothing,
              ),
              nothing,
            ],
          },
        ]
      : []
  const carrying = [
    ...names.flatMap((name, index) =>
      bars(name, categoryColour(index), ({ most }) => most.length === 1 && most[0]!.capability === index),
    ),
    ...bars('several, within 5 % of each other', neutral, ({ most }) => most.length > 1),
  ]
  /** Rows without a bar say why: one could be read as a value. */
  const words = rows.flatMap((name, i) => {
    const block = blocks[i - 1]
    if (block && block.most.length > 0) return []
    return [{ value: [0, name], label: label(block ? 'no loss without it' : 'always kept, not measured') }]
  })
  const title = `Model map of ${plainText(analysis.modelName, 60)}`
  const width = 900
  const legend = wrappingLegend(
    carrying.map(({ name }) => ({ name })),
    { top: 84, width },
  )
  const top = 100 + legend.height
  /** As wide as leaves room for the names beside every bar. */
  const plotWidth = Math.min(
    width - 200,
    ...blocks.map(
      ({ most }, i) => (width - 130 - 7 * textOf(most).length) / Math.max(0.01, rootOf(losses[i]!) / rootOf(greatest)),
    ),
  )

  return {
    title,
    description: `The ${layers.length} layers of the model from embedding to output head, each in the colour of the capability that loses most when the layer is skipped; the wider, the more nats per completion token, on ${restsOn(analysis)}. ${blocks
      .slice(0, 200)
      .map(b => `${b.name}: ${b.most.length === 0 ? 'none' : textOf(b.most)}`)
      .join('; ')}.`,
    width,
    height: top + row * rows.length + 70,
    option: {
      title: {
        text: title,
        subtext: `Blocks from input to output; colour: the capability that loses most without the layer\n${restsOn(analysis)}`,
        left: 16,
        top: 12,
        textStyle: { fontSize: 16 },
        subtextStyle: { color: '#444444', lineHeight: 16 },
      },
      legend: legend.options,
      grid: { left: 100, width: Math.max(300, plotWidth), top, height: row * rows.length },
      xAxis: {
        type: 'value',
        min: 0,
        max: rootOf(greatest),
        name: 'loss increase when skipped, nats per completion token (bars as long as its square root)',
        nameLocation: 'middle',
        nameGap: 30,
        nameTextStyle: { color: '#222222' },
        axisTick: { show: true, customValues: ticks },
        axisLabel: { color: '#222222', customValues: ticks, formatter: root => String(Number((root ** 2).toFixed(4))) },
      },
      yAxis: {
        type: 'category',
        data: rows,
        inverse: true,
        axisTick: { show: false },
        axisLabel: { color: '#222222', ...(row >= 12 && { interval: 0 }), hideOverlap: true },
      },
      series: [...carrying, { name: 'words', type: 'scatter', symbolSize: 0, silent: true, data: words }] as object[],
    },
  }
}
