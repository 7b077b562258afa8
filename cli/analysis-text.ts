// An analysis as text: scores, heat map, sparklines by layer, heads, groups and clusters.
import { decimals, heatMap, shadeLegend, sparkline, table } from '../lib/client/tables.js'
import type { Analysis, Score } from './results.js'

/** Scores by capability; without the share of exact answers where there is none. */
export function scoreTable(scores: readonly Score[]): string {
  const exact = scores.some(s => Math.round((s.accuracy ?? 0) * 100) > 0)
  const rows = scores.map(s => [
    s.capability.slug,
    s.loss.toFixed(3),
    s.interval ? s.interval.map(bound => bound.toFixed(2)).join(' – ') : '–',
    s.perplexity < 1e5 ? s.perplexity.toFixed(2) : s.perplexity.toExponential(2),
    ...(exact ? [s.accuracy === null ? '–' : `${(s.accuracy * 100).toFixed(0)}%`] : []),
    String(s.sampleCount),
  ])
  return table(['capability', 'loss', '95 % of it', 'perplexity', ...(exact ? ['exact'] : []), 'samples'], rows)
}

/** The heads that matter most and the key/value groups that matter least, as layer.index; undefined where heads were not measured. */
function headsText({ layers }: Analysis): string | undefined {
  const heads = layers.flatMap(l => l.heads.map(h => ({ name: `${l.layerIndex}.${h.headIndex}`, value: h.importance })))
  if (heads.length === 0) return undefined
  const groups = new Map<string, number>()
  for (const { layerIndex, heads } of layers) {
    for (const { keyValueHeadIndex, importance } of heads) {
      const name = `${layerIndex}.${keyValueHeadIndex}`
      groups.set(name, (groups.get(name) ?? 0) + importance)
    }
  }
  const list = (sorted: { name: string; value: number }[]) =>
    sorted
      .slice(0, 5)
      .map(({ name, value }) => `${name} (${value.toPrecision(2)})`)
      .join(', ')
  const least = [...groups].map(([name, value]) => ({ name, value })).sort((a, b) => a.value - b.value)
  return [
    'Attention heads, layer.head by |change of loss per change of the head|, mean over the capabilities:',
    table(
      ['most important heads', 'least important key/value groups'],
      [[list(heads.sort((a, b) => b.value - a.value)), list(least)]],
    ),
  ].join('\n')
}

const droppedLines = ({ droppedSamples }: Analysis) =>
  droppedSamples.length === 0
    ? []
    : [
        `Left out, because nothing of their completion fits: ${droppedSamples.map(d => `${d.count} of ${d.capability.slug}`).join(', ')}.`,
      ]

/** One line per figure, a character per layer. */
function layerLines({ layers }: Analysis): string {
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / Math.max(1, values.length)
  const figures: [string, (number | null | undefined)[]][] = [
    ['block influence', layers.map(l => l.blockInfluence)],
    ['size of outputs (RMS)', layers.map(l => l.activation?.rms)],
    ['outliers (kurtosis)', layers.map(l => l.activation?.kurtosis)],
    [
      'attention entropy',
      layers.map(l =>
        l.heads.some(h => h.attentionEntropy !== null) ? mean(l.heads.map(h => h.attentionEntropy ?? 0)) : null,
      ),
    ],
  ]
  const known = figures.flatMap(([name, values]) => {
    const numbers = values.filter(value => value != null)
    return numbers.length === values.length && numbers.length > 0 ? [{ name, numbers }] : []
  })
  return [
    `By layer, 0 to ${layers.length - 1}, each line from its least to its greatest:`,
    table(
      ['figure', 'layers', 'least', 'greatest'],
      known.map(({ name, numbers }) => [
        name,
        sparkline(numbers),
        Math.min(...numbers).toPrecision(3),
        Math.max(...numbers).toPrecision(3),
      ]),
    ),
  ].join('\n')
}

/** Groups that seem to matter least: what is expected and what is really lost, mean over the capabilities, and where most is. */
function groupLines({ maskedGroups }: Analysis): string[] {
  const names = [...new Set(maskedGroups.map(g => `${g.layerIndex}.${g.keyValueHeadIndex}`))]
  if (names.length === 0) return []
  const rows = names.map(name => {
    const own = maskedGroups.filter(g => `${g.layerIndex}.${g.keyValueHeadIndex}` === name)
    const mean = (pick: (group: (typeof own)[number]) => number) =>
      own.reduce((sum, g) => sum + pick(g), 0) / own.length
    const most = own.reduce((a, b) => (b.lossIncrease > a.lossIncrease ? b : a))
    return [
      name,
      mean(g => g.importance).toFixed(4),
      mean(g => g.lossIncrease).toFixed(4),
      `${most.capability.slug} ${most.lossIncrease.toFixed(4)}`,
    ]
  })
  return [
    '',
    'Without the key/value groups of the least importance, nats lost per token:',
    table(['group', 'first-order estimate', 'measured', 'most on'], rows),
  ]
}

/** What carries each capability, a sentence for each: where nothing does, what is said of its most needed layers. Others are left to the API. */
function clusterLines({ clusters }: Analysis): string[] {
  if (clusters.length === 0) return []
  // What carries every capability has one label for all of them.
  const capabilitiesOf = (label: string) => new Set(clusters.filter(c => c.label === label).map(c => c.capability.slug))
  const own = clusters.filter(c => capabilitiesOf(c.label).size === 1)
  const common = clusters.filter(c => capabilitiesOf(c.label).size > 1).map(c => c.label)
  const each = [...new Set(own.map(c => c.capability.slug))].flatMap(slug => {
    const of = own.filter(c => c.capability.slug === slug)
    const carrying = of.filter(c => c.role === 'CARRIES')
    return (carrying.length > 0 ? carrying : of.slice(0, 1)).map(c => c.label)
  })
  return [
    '',
    'Clusters of layers whose outputs differ from those on other capabilities in the same way, those that carry a capability:',
    ...[...new Set(common), ...each].map(label => `  ${label}`),
  ]
}

/** Capabilities that the model does worse than guessing would: what its layers do for them says nothing. */
function guessedLines({ baseline, model, probeDataset }: Analysis): string[] {
  const guessing = Math.log(model.vocabularySize ?? Number.POSITIVE_INFINITY)
  const worse = baseline.filter(({ loss }) => loss >= guessing).map(({ capability }) => capability.slug)
  if (worse.length === 0) return []
  return [
    `Worse than guessing among its ${model.vocabularySize} tokens (${guessing.toFixed(2)} nats): ${worse.join(', ')}.`,
    `The model cannot do what ${probeDataset.name} asks there, so its layers' figures say nothing of it; --probes takes texts of your own.`,
  ]
}

/** Scores, the layer × capability heat map, and the layers that carry most and least. */
export function analysisText(analysis: Analysis): string {
  const slugs = analysis.baseline.map(b => b.capability.slug)
  const rows = slugs.map(slug => {
    const sorted = analysis.layers
      .map(l => ({
        layer: l.layerIndex,
        loss: l.capabilities.find(c => c.capability.slug === slug)?.lossIncrease ?? 0,
      }))
      .sort((a, b) => b.loss - a.loss)
    const list = (part: typeof sorted) => part.map(l => `${l.layer} (${decimals(l.loss)})`).join(', ')
    return [slug, list(sorted.slice(0, 3)), list(sorted.slice(-3).reverse())]
  })
  const heads = headsText(analysis)
  return [
    `Probe set ${analysis.probeDataset.name} version ${analysis.probeDataset.version}${analysis.device ? `, measured on ${analysis.device}` : ''}. Loss in nats per completion token.`,
    ...(analysis.device?.startsWith('webgpu')
      ? ['Losses on WebGPU are known to deviate by about 1 % on longer rows (docs/devices.md).']
      : []),
    scoreTable(analysis.baseline),
    ...guessedLines(analysis),
    ...droppedLines(analysis),
    '',
    `What a layer carries: loss increase when it is skipped, nats per token (${shadeLegend}):`,
    heatMap(analysis.layers, slugs),
    '',
    table(['capability', 'most needed layers (nats lost without)', 'least needed'], rows),
    '',
    layerLines(analysis),
    ...(heads ? ['', heads] : []),
    ...groupLines(analysis),
    ...clusterLines(analysis),
  ].join('\n')
}
