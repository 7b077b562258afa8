// bench analysis: layers and heads of SmolLM2 against the reference numbers, how fast they are measured, and what a second analysis costs.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { analyzeCapabilities } from '../compute/handlers/analyze-capabilities.js'
import type { HandlerContext, ProgressReport } from '../compute/handlers/handler.js'
import { importProbes } from '../compute/handlers/import-probes.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { withScoringModel } from '../compute/handlers/scoring-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { type LayerInfluence, layerInfluence } from '../compute/probing/layer-influence.js'
import {
  assignSplits,
  type ProbeSample,
  readProbeLines,
  type Split,
  selectSamples,
} from '../compute/probing/probe-set.js'
import { encodeSample, encodeSamples } from '../compute/probing/scoring.js'
import { projectFile } from '../lib/project.js'
import { compareHeads } from './heads.js'
import { compareSharing } from './kit/compare-sharing.js'

interface Influence {
  lines: number[]
  angular4: number[]
  angular8: number[]
  completionTokens: number
  blockInfluence: number[]
  deltaNllPerToken: number[]
}
interface Nll {
  examples: { index: number; completionTokens: number; nll: number }[]
}

const shared = (...parts: string[]) => projectFile('..', 'shared', ...parts)
const json = async <T>(path: string): Promise<T> => JSON.parse(await readFile(path, 'utf8')) as T

/** Spearman's rank correlation. */
function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  const ranks = (values: readonly number[]) => {
    const order = values.map((_, i) => i).sort((x, y) => values[x]! - values[y]!)
    const result = new Array<number>(values.length)
    order.forEach((index, rank) => {
      result[index] = rank
    })
    return result
  }
  const [x, y] = [ranks(a), ranks(b)]
  const n = a.length
  const squares = x.reduce((sum, rank, i) => sum + (rank - y[i]!) ** 2, 0)
  return 1 - (6 * squares) / (n * (n * n - 1))
}

/** Greatest |ours - reference| / |reference| over entries that are not noise, and the greatest absolute deviation of all. */
function deviations(ours: readonly number[], reference: readonly number[], floor: number) {
  const absolute = ours.map((value, i) => Math.abs(value - reference[i]!))
  const relative = absolute.map((d, i) => (Math.abs(reference[i]!) < floor ? 0 : d / Math.abs(reference[i]!)))
  return { relative: Math.max(...relative), absolute: Math.max(...absolute) }
}

const compare = (name: string, reference: Influence, layers: readonly number[], block: number[], skip: number[]) => {
  const pick = (values: readonly number[]) => layers.map(layer => values[layer]!)
  return {
    task: name,
    blockInfluence: {
      rankCorrelation: rankCorrelation(block, pick(reference.blockInfluence)),
      ...deviations(block, pick(reference.blockInfluence), 1e-3),
    },
    skipLoss: {
      rankCorrelation: rankCorrelation(skip, pick(reference.deltaNllPerToken)),
      ...deviations(skip, pick(reference.deltaNllPerToken), 0.01),
    },
  }
}

function compareAll(found: LayerInfluence, reference: Record<string, Influence>, tasks: string[], layers: number[]) {
  const rows = tasks.map((task, c) =>
    compare(
      task,
      reference[task]!,
      layers,
      found.layers.map(l => l.capabilities[c]!.blockInfluence),
      found.layers.map(l => l.capabilities[c]!.lossIncrease),
    ),
  )
  if (!reference.all || tasks.length < Object.keys(reference).length - 1) return rows
  const total = found.baseline.reduce((sum, b) => sum + b.completionTokens, 0)
  const skip = found.layers.map(
    l => l.capabilities.reduce((sum, x, c) => sum + x.lossIncrease * found.baseline[c]!.completionTokens, 0) / total,
  )
  const block = found.layers.map(l => l.blockInfluence)
  return [...rows, compare('all', reference.all, layers, block, skip)]
}

/** Also on standard error at once: a run that is stopped later has said what it found. */
function said<T extends object>(figures: T): T {
  process.stderr.write(`${JSON.stringify(figures)}\n`)
  return figures
}

/**
 * An analysis with half of the samples, then one with all of them: the second runs only the new ones.
 * @returns tokens that each ran over all variants, and the second's over those that its new samples have
 */
async function compareSecond(manifest: string, perCapability: number, context: HandlerContext) {
  const source = shared('data', 'probes', 'probe.jsonl')
  const { probeSet } = await importProbes({ source }, context)
  const runs = []
  for (const samplesPerCapability of [Math.max(1, Math.floor(perCapability / 2)), perCapability]) {
    let last: ProgressReport | undefined
    const progress = (report: ProgressReport) => {
      if (report.stage === 'layers') last = report
    }
    const begin = performance.now()
    const input = { manifest, probeSet, maxTokens: 256, samplesPerCapability }
    await analyzeCapabilities(input, { ...context, progress })
    const metrics = last?.metrics as { samplesDone: number; samplesReused: number }
    runs.push({ seconds: (performance.now() - begin) / 1000, tokens: last?.completed ?? 0, ...metrics })
  }
  const [first, second] = runs as [(typeof runs)[number], (typeof runs)[number]]
  return {
    firstAnalysis: first,
    secondAnalysis: second,
    // 1 where nothing is measured twice: seconds per new sample of the second over those of the first, and the share of samples run.
    secondSecondsPerNewSampleOverFirst: second.seconds / second.samplesDone / (first.seconds / first.samplesDone),
    secondSamplesRunOverNew: second.samplesDone / (second.samplesDone + second.samplesReused - first.samplesDone),
  }
}

/** Angular distances of blocks of 4 and 8 layers over all samples against the reference. */
function compareAngles({ layers }: LayerInfluence, { angular4, angular8 }: Influence) {
  const worst = (n: number, reference: readonly number[]) =>
    Math.max(...reference.map((value, layer) => Math.abs(layers[layer]!.angularDistances[n - 1]! - value)))
  return { angular4LargestDeviation: worst(4, angular4), angular8LargestDeviation: worst(8, angular8) }
}

function summary(rows: ReturnType<typeof compareAll>): Record<string, unknown> {
  const last = rows.at(-1)!
  const worst = (pick: (row: (typeof rows)[number]) => number) => Math.max(...rows.map(pick))
  return {
    blockInfluenceRankCorrelation: last.blockInfluence.rankCorrelation,
    blockInfluenceLargestRelativeDeviation: worst(r => r.blockInfluence.relative),
    skipLossRankCorrelation: last.skipLoss.rankCorrelation,
    skipLossLeastRankCorrelation: -worst(r => -r.skipLoss.rankCorrelation),
    skipLossLargestRelativeDeviation: worst(r => r.skipLoss.relative),
    skipLossLargestDeviationNats: worst(r => r.skipLoss.absolute),
    tasks: rows,
  }
}

async function readProbes(split: Split): Promise<ProbeSample[]> {
  const lines = await readProbeLines([await readFile(shared('data', 'probes', `${split}.jsonl`))])
  return assignSplits(lines.map(line => ({ ...line, split })))
}

/**
 * Against the reference: `--tasks a,b` and `--layers 0,11` narrow it; `--nll-step 10` scores every tenth validation line (0: none);
 * `--no-heads` leaves the heads out. Instead of that, how fast: `--per-capability 8` measures that many samples per capability with work shared
 * and, in turns with it, every variant whole (`--whole-every 3`: in every third turn; 1: in all), `--second 4` two analyses by the job
 * itself, of 2 and of 4 samples per capability.
 * Needs the reference numbers and the model beside the project (../shared).
 */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: {
      tasks: { type: 'string' },
      layers: { type: 'string' },
      'nll-step': { type: 'string', default: '10' },
      'per-capability': { type: 'string', default: '0' },
      'whole-every': { type: 'string', default: '3' },
      second: { type: 'string', default: '0' },
      'no-heads': { type: 'boolean', default: false },
    },
  })
  const { perTask } = await json<{ perTask: Record<string, Influence> }>(shared('reference', 'layer_influence.json'))
  const tasks = values.tasks?.split(',') ?? Object.keys(perTask).filter(task => task !== 'all')
  const only = values.layers?.split(',').map(Number)
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-analysis-'))
  const context = await standaloneContext(dataFolder)
  try {
    const source = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest } = await ingestModel({ source }, context)
    const opening = performance.now()
    const second = Number(values.second)
    const perCapability = Number(values['per-capability'])
    const twice = second > 0 ? said(await compareSecond(manifest, second, context)) : {}
    if (second > 0 && perCapability === 0) return twice
    return await withScoringModel(manifest, context, async opened => {
      const { model, scorer } = opened
      const openSeconds = (performance.now() - opening) / 1000
      if (perCapability > 0) {
        const probes = selectSamples(await readProbes('probe'), {
          split: 'probe',
          samplesPerCapability: perCapability,
        })
        const encoded = await encodeSamples(model, probes, 256)
        const every = Number(values['whole-every'])
        return { ...twice, ...said(await compareSharing(scorer, model.layerCount, encoded, every)) }
      }
      const step = Number(values['nll-step'])
      const { examples } = await json<Nll>(shared('reference', 'nll_smollm2.json'))
      // Examples whose completion is cut away count nothing.
      const scored = examples.filter(example => example.completionTokens > 0)
      const chosen = step > 0 ? scored.filter((_, i) => i % step === 0) : []
      const validation = await readProbes('validation')
      const rows = chosen.map(example => encodeSample(model, validation[example.index]!, 256)!)
      const scores = await scorer.scoreRows(rows)
      const nll = chosen.map((example, i) => Math.abs(scores[i]!.nll / example.nll - 1))

      const lines = await readProbes('probe')
      const samples = tasks.flatMap(task => perTask[task]!.lines.map(line => lines[line]!))
      const encoded = await encodeSamples(model, samples, 192)
      const begin = performance.now()
      const found = await layerInfluence(scorer, model.layerCount, encoded, tasks, only ? { only } : {})
      const seconds = (performance.now() - begin) / 1000
      const layers = found.layers.map(l => l.layerIndex)
      const tokens = encoded.reduce((sum, s) => sum + s.ids.length, 0) * (layers.length + 1)
      return {
        openSeconds,
        analysisSeconds: seconds,
        tokens,
        tokensPerSecond: tokens / seconds,
        // Rank correlation over all tasks together, deviations the worst of any task.
        ...(only || !perTask.all || values.tasks ? {} : compareAngles(found, perTask.all)),
        ...summary(compareAll(found, perTask, tasks, layers)),
        ...(values['no-heads'] ? {} : { heads: await compareHeads(opened, values.tasks ? tasks : undefined) }),
        nllExamples: chosen.length,
        nllLargestRelativeDeviation: Math.max(0, ...nll),
      }
    })
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}
