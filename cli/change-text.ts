// What quantising and fusing a model changed, as text.
import { table } from '../lib/client/tables.js'
import { quantity } from '../lib/client/watch-job.js'
import type { Comparison, FusionResult, SchemeSearch } from './results.js'

/** What a search for codes measured and chose. */
export const searchText = ({ choices, predictedDivergence, measuredDivergence, mostSensitive }: SchemeSearch): string =>
  [
    `Codes of the layers' groups of matrices: ${Object.entries(choices)
      .map(([type, count]) => `${count} ${type}`)
      .join(
        ', ',
      )}; KL ${predictedDivergence.toFixed(4)} nats expected, ${measuredDivergence.toFixed(4)} measured on calibration texts.`,
    `Most sensitive at 4 bits: ${mostSensitive.map(({ group, divergence }) => `${group} ${divergence.toFixed(4)}`).join(', ')}.`,
  ].join('\n')

/** Bytes, speed and a table by capability: what quantising changed. */
export function comparisonText(comparison: Comparison): string {
  const { sizeBytes, referenceSizeBytes, tokensPerSecond, referenceTokensPerSecond } = comparison
  const speed = tokensPerSecond
    ? `, ${tokensPerSecond.toFixed(0)} tokens/s on quantised kernels (before ${referenceTokensPerSecond?.toFixed(0)} in float32)`
    : ''
  const rows = [{ capability: 'all', ...comparison }, ...comparison.capabilities].map(c => [
    c.capability,
    c.divergence.toFixed(4),
    `${(c.agreement * 100).toFixed(1)}%`,
    c.referencePerplexity.toFixed(2),
    c.perplexity.toFixed(2),
  ])
  const head = ['capability', 'KL (nats)', 'same best token', 'perplexity before', 'after']
  return `${quantity(sizeBytes, 'bytes')} instead of ${quantity(referenceSizeBytes, 'bytes')}${speed}.\n${table(head, rows)}`
}

const stateTexts: Record<string, string> = {
  BUILT_IN: 'always done',
  APPLIED: 'applied',
  BELOW_THRESHOLD: 'below the threshold',
  OUTPUTS_DIFFER: 'outputs differ',
  NOT_APPLICABLE: 'nothing to fuse',
}

/** A table of what was timed, and how far outputs moved. */
export function fusionText({ rows, check }: FusionResult): string {
  const lines = rows.map(row => [
    row.fusion,
    row.mode === 'STEP' ? 'token' : 'prompt',
    String(row.sites),
    row.speedup === undefined ? '–' : row.speedup.toFixed(3),
    row.lower === undefined ? '–' : `${row.lower.toFixed(3)} … ${row.upper?.toFixed(3)}`,
    row.milliseconds === undefined ? '–' : row.milliseconds.toFixed(2),
    `${stateTexts[row.state] ?? row.state}${row.reason ? `: ${row.reason}` : ''}`,
  ])
  const head = ['fusion', 'of a', 'places', 'times as fast', 'quartiles', 'ms with it', '']
  const compared = check
    ? `\nOutputs at ${check.positions} positions: the same likeliest token at ${(100 * check.agreement).toFixed(1)} %, largest move of a logit ${check.largestDeviation.toExponential(1)} of the greatest.`
    : ''
  return `${table(head, lines)}${compared}`
}
