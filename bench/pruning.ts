// bench pruning: SmolLM2 without its least key/value group per layer against the reference edit, and the measured choice against gradient,
// chance and weight norm at equal size.
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { readManifest } from '../compute/formats/manifest.js'
import { runStages } from '../compute/handlers/build-student.js'
import { importProbes } from '../compute/handlers/import-probes.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { withScoringModel } from '../compute/handlers/scoring-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { jobTypes } from '../compute/pool/job-types.js'
import { evaluate } from '../compute/probing/evaluate.js'
import { assignSplits, readProbeLines } from '../compute/probing/probe-set.js'
import { encodeSample } from '../compute/probing/scoring.js'
import { projectFile } from '../lib/project.js'
import { keptFigures } from './kit/kept-figures.js'
import { progressLines, say } from './kit/progress-lines.js'

interface ReferenceEdit {
  keptLayers: number[]
  removedKvHead: number[]
  perTask: Record<string, { completionTokens: number; meanNll: number; perplexity: number }>
}

const shared = (...parts: string[]) => projectFile('..', 'shared', ...parts)
const geometricMean = (values: readonly number[]) =>
  Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length)

/**
 * `--reference-only`: the reference edit alone. `--remove N` (1) groups per layer, `--samples N` (4) per capability to choose by, `--seeds N` (3) of the
 * random choice, `--metrics a,b` narrows what is compared, `--no-correct` leaves the fitted variant out; `--cuts`: only the eight layers of least block
 * influence left out, with and without maps at the cuts. Judged on the reference's lines of the
 * validation split, or the first `--lines N` of each task; `--no-reference` leaves the reference edit out; `--data FOLDER` keeps what was found, so that a run that
 * was stopped goes on. Needs the model, the probes and the reference numbers beside the project (../shared).
 */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: {
      'reference-only': { type: 'boolean', default: false },
      'no-correct': { type: 'boolean', default: false },
      remove: { type: 'string', default: '1' },
      samples: { type: 'string', default: '4' },
      seeds: { type: 'string', default: '3' },
      metrics: { type: 'string', default: 'TASK_LOSS,GRADIENT,RANDOM,MAGNITUDE' },
      cuts: { type: 'boolean', default: false },
      lines: { type: 'string' },
      'no-reference': { type: 'boolean', default: false },
      data: { type: 'string' },
    },
  })
  const { lines, edits } = JSON.parse(await readFile(shared('reference', 'structured_edits.json'), 'utf8')) as {
    lines: number[]
    edits: { dropLeastKvGroupPerLayer: ReferenceEdit; drop8LowestBlockInfluence: ReferenceEdit }
  }
  const reference = edits.dropLeastKvGroupPerLayer
  if (values.data) await mkdir(values.data, { recursive: true })
  const dataFolder = values.data ?? (await mkdtemp(join(tmpdir(), 'bench-pruning-')))
  const known = await keptFigures(values.data)
  const context = await standaloneContext(dataFolder, { progress: progressLines() })
  try {
    const source = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest: parent } = await ingestModel({ source }, context)
    const { layerCount } = (await readManifest(context.payloads, parent)).dimensions
    const validation = await readProbeLines([await readFile(shared('data', 'probes', 'validation.jsonl'))])
    const counts = new Map<string, number>()
    const wanted = lines.filter(line => {
      const { capability } = validation[line]!
      counts.set(capability, (counts.get(capability) ?? 0) + 1)
      return counts.get(capability)! <= Number(values.lines ?? Number.POSITIVE_INFINITY)
    })
    const judged = assignSplits(wanted.map(line => ({ ...validation[line]!, split: 'validation' as const })))
    const { probeSet } = await importProbes({ source: shared('data', 'probes') }, context)

    /** Per task on the reference's lines. */
    const judge = (manifest: string) =>
      known.of({ judged: manifest, lines: wanted, maxTokens: 256 }, () => judgeAnew(manifest))
    const judgeAnew = (manifest: string) =>
      withScoringModel(manifest, context, async ({ model, scorer }) => {
        const encoded = judged.flatMap(sample => encodeSample(model, sample, 256) ?? [])
        return evaluate(scorer, encoded, [...new Set(judged.map(s => s.capability))], () => {})
      })
    const build = async (headPruning: Record<string, unknown>) => {
      const stages = { headPruning, calibration: { probeSet, samplesPerCapability: Number(values.samples) } }
      const input = jobTypes['student.build'].input.parse({ parent, layers: [{ from: 0, to: layerCount }], stages })
      const results = await runStages(input, context)
      const { manifest, seconds, measurements } = results.at(-1)!
      const { parameterCount, tensors } = await readManifest(context.payloads, manifest)
      const { found: scores, keptFrom } = await judge(manifest)
      const perplexity = geometricMean(scores.map(s => s.perplexity))
      say(
        `${JSON.stringify(headPruning).slice(0, 90)}: perplexity ${perplexity.toFixed(2)}, ${seconds.toFixed(0)} s to choose`,
      )
      return {
        perplexity,
        seconds,
        parameterCount,
        sizeBytes: tensors.reduce((sum, t) => sum + t.bytes, 0),
        removed: measurements?.removed,
        notes: (measurements?.notes as string[] | undefined)?.length ?? 0,
        corrected: (measurements?.corrected as { kept: unknown[] } | undefined)?.kept.length,
        scores,
        ...(keptFrom && { keptFrom }),
      }
    }

    if (values.cuts) {
      const { keptLayers, perTask } = edits.drop8LowestBlockInfluence
      const cut = async (correctCuts: boolean) => {
        const calibration = { probeSet, samplesPerCapability: Number(values.samples) }
        const stages = correctCuts ? { correctCuts, calibration } : {}
        const layers = keptLayers.map(layer => ({ from: layer, to: layer + 1 }))
        const results = await runStages(jobTypes['student.build'].input.parse({ parent, layers, stages }), context)
        const { manifest, seconds, measurements } = results.at(-1)!
        const { found: scores, keptFrom } = await judge(manifest)
        const perplexity = geometricMean(scores.map(s => s.perplexity))
        say(
          `22 of 30 layers${correctCuts ? ', maps at the cuts' : ''}: perplexity ${perplexity.toFixed(2)}, ${seconds.toFixed(0)} s`,
        )
        return { perplexity, seconds, scores, corrected: measurements?.corrected, keptFrom }
      }
      const plain = await cut(false)
      const corrected = await cut(true)
      const deviations = plain.scores.map(s => Math.abs(s.loss / perTask[s.capability]!.meanNll - 1))
      return {
        cutLargestNllDeviation: Math.max(...deviations),
        cutPerplexity: plain.perplexity,
        cutCorrectedPerplexity: corrected.perplexity,
        cutCorrectionSeconds: corrected.seconds,
        keptFrom: [plain.keptFrom, corrected.keptFrom].filter(at => at !== undefined),
        corrected: corrected.corrected,
        perTask: corrected.scores.map(s => ({ task: s.capability, perplexity: s.perplexity })),
      }
    }
    const referenceEdit = async (): Promise<Record<string, unknown>> => {
      const edit = await build({ metric: 'GIVEN', heads: reference.removedKvHead.map(head => [head]) })
      const tasks = edit.scores.map(({ capability, loss, perplexity, completionTokens }) => {
        const theirs = reference.perTask[capability]!
        return {
          task: capability,
          completionTokens,
          tokensEqual: completionTokens === theirs.completionTokens,
          meanNll: loss,
          nllDeviation: Math.abs(loss / theirs.meanNll - 1),
          perplexityDeviation: Math.abs(perplexity / theirs.perplexity - 1),
        }
      })
      return {
        referenceLargestNllDeviation: Math.max(...tasks.map(t => t.nllDeviation)),
        referenceLargestPerplexityDeviation: Math.max(...tasks.map(t => t.perplexityDeviation)),
        referencePerplexity: edit.perplexity,
        parameters: edit.parameterCount,
        sizeBytes: edit.sizeBytes,
        ...(edit.keptFrom && { keptFrom: edit.keptFrom }),
        columnsNotAtBlockEnds: edit.notes,
        tasks,
      }
    }
    const figures = values['no-reference'] ? {} : await referenceEdit()
    if (values['reference-only']) return figures
    const parentPerplexity = geometricMean((await judge(parent)).found.map(s => s.perplexity))
    say(`whole model: perplexity ${parentPerplexity.toFixed(2)}`)
    const remove = Number(values.remove)
    const compared: Record<string, unknown> = {}
    for (const metric of values.metrics.split(',')) {
      if (metric !== 'RANDOM') {
        const { perplexity, seconds, removed, keptFrom } = await build({ metric, remove })
        compared[metric] = { perplexity, seconds, ...(keptFrom && { keptFrom }) }
        if (metric === 'TASK_LOSS' && !values['no-correct']) {
          // The same heads: what was measured need not be measured again.
          const fitted = await build({ metric: 'GIVEN', heads: removed, correct: true })
          compared['TASK_LOSS fitted'] = {
            perplexity: fitted.perplexity,
            seconds: fitted.seconds,
            layers: fitted.corrected,
            ...(fitted.keptFrom && { keptFrom: fitted.keptFrom }),
          }
        }
        continue
      }
      const seeds = []
      for (let seed = 1; seed <= Number(values.seeds); seed++) seeds.push(await build({ metric, remove, seed }))
      const perplexities = seeds.map(({ perplexity }) => perplexity)
      const kept = seeds.flatMap(({ keptFrom }) => keptFrom ?? [])
      compared[metric] = {
        perplexities,
        perplexity: geometricMean(perplexities),
        ...(kept.length > 0 && { keptFrom: kept }),
      }
    }
    return { ...figures, wholePerplexity: parentPerplexity, removedGroupsPerLayer: remove, compared }
  } finally {
    if (!values.data) await rm(dataFolder, { recursive: true, force: true })
  }
}
