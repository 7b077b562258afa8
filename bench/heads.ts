// bench heads: head importance of SmolLM2 by one backward pass, against the reference numbers, and what it costs beside a forward pass.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { type MeasuringContext, withScoringModel } from '../compute/handlers/scoring-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { type MaskedGroup, maskedGroups } from '../compute/probing/head-groups.js'
import { type CapabilityHeads, headImportance } from '../compute/probing/head-importance.js'
import { assignSplits, readProbeLines } from '../compute/probing/probe-set.js'
import { measureSamples } from '../compute/probing/sample-records.js'
import { encodeSamples } from '../compute/probing/scoring.js'
import { projectFile } from '../lib/project.js'

interface Reference {
  lines: number[]
  meanExampleNll: number
  importance: number[][]
  leastKvGroupPerLayer: number[]
  maskedGroups: { layer: number; kvHead: number; deltaNll: number }[]
}

const shared = (...parts: string[]) => projectFile('..', 'shared', ...parts)

/** Spearman's rank correlation. */
function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  const ranks = (values: readonly number[]) => {
    const result = new Array<number>(values.length)
    const order = values.map((_, i) => i).sort((x, y) => values[x]! - values[y]!)
    order.forEach((index, rank) => {
      result[index] = rank
    })
    return result
  }
  const [x, y] = [ranks(a), ranks(b)]
  const squares = x.reduce((sum, rank, i) => sum + (rank - y[i]!) ** 2, 0)
  return 1 - (6 * squares) / (a.length * (a.length ** 2 - 1))
}

function compare(found: CapabilityHeads, masked: readonly MaskedGroup[], reference: Reference) {
  const [ours, theirs] = [found.layers.flatMap(layer => layer.heads), reference.importance.flat()]
  const least = found.layers.map(({ keyValueGroups }) => keyValueGroups.indexOf(Math.min(...keyValueGroups)))
  const lost = masked.map(g => g.capabilities.find(c => c.capability === found.capability)!.sampleLossIncrease)
  return {
    task: found.capability,
    lossDeviation: Math.abs(found.meanSampleLoss / reference.meanExampleNll - 1),
    rankCorrelation: rankCorrelation(ours, theirs),
    largestRelativeDeviation: Math.max(...ours.map((value, i) => Math.abs(value - theirs[i]!) / theirs[i]!)),
    leastGroupsEqual: least.filter((group, layer) => group === reference.leastKvGroupPerLayer[layer]).length,
    maskedLossLargestDeviation: Math.max(
      ...lost.map((value, i) => Math.abs(value - reference.maskedGroups[i]!.deltaNll)),
    ),
  }
}

/** Importance and masked groups of an opened model against the reference numbers. */
export async function compareHeads({ model, scorer, heads }: MeasuringContext, wanted?: readonly string[]) {
  const { perTask, maxTokens } = JSON.parse(await readFile(shared('reference', 'head_importance.json'), 'utf8')) as {
    perTask: Record<string, Reference>
    maxTokens: number
  }
  const tasks = wanted ?? Object.keys(perTask).filter(task => task !== 'all')
  const probe = await readProbeLines([await readFile(shared('data', 'probes', 'probe.jsonl'))])
  const lines = assignSplits(probe.map(line => ({ ...line, split: 'probe' as const })))
  const samples = tasks.flatMap(task => perTask[task]!.lines.map(line => lines[line]!))
  const encoded = await encodeSamples(model, samples, maxTokens)
  const tokens = encoded.reduce((sum, s) => sum + s.ids.length, 0)
  // Sessions are made and weights paged in before anything is timed.
  await Promise.all([scorer.scoreRows(encoded.slice(0, 1)), heads.gradients(encoded.slice(0, 1), {})])
  const begin = performance.now()
  await scorer.scoreRows(encoded)
  const middle = performance.now()
  const found = await headImportance(heads, encoded, tasks)
  const seconds = (performance.now() - middle) / 1000
  const groups = perTask[tasks[0]!]!.maskedGroups.map(g => ({ layerIndex: g.layer, keyValueHeadIndex: g.kvHead }))
  const { records, groupLosses } = await measureSamples(scorer, model.layerCount, encoded, { only: [], groups })
  const masked = maskedGroups(encoded, records, groupLosses, groups, found)
  const rows = found.map((one, i) => compare(one, masked, perTask[tasks[i]!]!))
  return {
    tokens,
    forwardSeconds: (middle - begin) / 1000,
    importanceSeconds: seconds,
    importanceOverForward: (seconds * 1000) / (middle - begin),
    leastRankCorrelation: Math.min(...rows.map(r => r.rankCorrelation)),
    largestRelativeDeviation: Math.max(...rows.map(r => r.largestRelativeDeviation)),
    largestLossDeviation: Math.max(...rows.map(r => r.lossDeviation)),
    maskedLossLargestDeviation: Math.max(...rows.map(r => r.maskedLossLargestDeviation)),
    peakResidentMegabytes: process.resourceUsage().maxRSS / 1024,
    tasks: rows,
  }
}

/** `--tasks a,b` narrows it. Needs the reference numbers and the model beside the project (../shared). */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({ args, options: { tasks: { type: 'string' } } })
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-heads-'))
  const context = await standaloneContext(dataFolder)
  try {
    const source = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest } = await ingestModel({ source }, context)
    return await withScoringModel(manifest, context, opened => compareHeads(opened, values.tasks?.split(',')))
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}
