// bench proposals: SmolLM2 cut from 30 to 22 layers without healing: our recipes against block influence, recipes made for one capability
// against the general one, and predicted against built quality. Protocol of ../shared/peers/heal_baseline.py: the first 20 validation
// lines of each task, 256 tokens at most, perplexity = exp(summed NLL / completion tokens), geometric mean over tasks.
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { readManifest, writeManifest } from '../compute/formats/manifest.js'
import { openAnalysisRecords } from '../compute/handlers/analysis-records.js'
import { openCutRecords } from '../compute/handlers/cut-records.js'
import { fitCalibration, fitStudent } from '../compute/handlers/fit-proposals.js'
import { importProbes } from '../compute/handlers/import-probes.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { withScoringModel } from '../compute/handlers/scoring-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { openCutTable } from '../compute/probing/cut-table.js'
import { layerInfluence, stackWithout } from '../compute/probing/layer-influence.js'
import { mixture, type Objective, objectiveLoss, single, weightedMean } from '../compute/probing/objective.js'
import {
  assignSplits,
  type ProbeSample,
  readProbeLines,
  type Split,
  turnsBySubtask,
} from '../compute/probing/probe-set.js'
import { type EncodedSample, encodeSample, type ScoringModel } from '../compute/probing/scoring.js'
import { byRules, type CutSearch } from '../compute/probing/search-cuts.js'
import { searchObjective, tokensLeft } from '../compute/probing/search-objective.js'
import type { Stack } from '../compute/probing/stacks.js'
import { extractLayers } from '../compute/surgery/extract-layers.js'
import { projectFile } from '../lib/project.js'
import { progressLines, say } from './kit/progress-lines.js'

const shared = (...parts: string[]) => projectFile('..', 'shared', ...parts)

/** Lines per task that the protocol evaluates. */
const evaluated = 20
/** Samples per capability of the pass that block influence and skip losses come from. */
const hintSamples = 6
/** The general search measures every sample of seven capabilities, and the others begin with what it found. */
const generalShare = 0.4

async function readProbes(split: Split): Promise<ProbeSample[]> {
  const lines = await readProbeLines([await readFile(shared('data', 'probes', `${split}.jsonl`))])
  return assignSplits(lines.map(line => ({ ...line, split })))
}

/** Samples whose completion is cut away count nothing. */
const encodeAll = (model: ScoringModel, probes: readonly ProbeSample[]): EncodedSample[] =>
  probes.flatMap(probe => encodeSample(model, probe, 256) ?? [])

/**
 * `--budget S` seconds or `--tokens N` for all searches, `--layers 22`, `--data FOLDER` keeps what was measured for the next run; `--drops
 * 12,13,…` takes that as the general recipe, found before, instead of searching for one; `--only a,b` searches for those capabilities, and with
 * `--only general` for none; `--others` also measures the built students on all
 * validation lines that nothing was predicted from; `--fits` fits every recipe's cuts to texts of what it is for (the general one's to all), and compares those students too.
 */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: {
      budget: { type: 'string', default: '1800' },
      tokens: { type: 'string' },
      layers: { type: 'string', default: '22' },
      data: { type: 'string' },
      drops: { type: 'string' },
      only: { type: 'string' },
      others: { type: 'boolean', default: false },
      fits: { type: 'boolean', default: false },
    },
  })
  const size = Number(values.layers)
  const dataFolder = values.data ?? (await mkdtemp(join(tmpdir(), 'bench-proposals-')))
  await mkdir(dataFolder, { recursive: true })
  const context = await standaloneContext(dataFolder, { progress: progressLines() })
  try {
    const source = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest: hash } = await ingestModel({ source }, context)
    return await withScoringModel(hash, context, async ({ model, scorer, manifest }) => {
      const { layerCount } = model
      const capabilities = [...new Set((await readProbes('probe')).map(p => p.capability))]
      const probe = encodeAll(model, turnsBySubtask(await readProbes('probe')))
      const records = await openCutRecords(dataFolder, hash)
      let said = performance.now()
      const table = openCutTable(scorer, layerCount, probe, {
        records,
        done: () => {
          if (performance.now() - said < 30_000) return
          said = performance.now()
          say(`${Math.round(table.spentTokens)} tokens in ${Math.round(table.spentSeconds)} s`)
        },
      })
      const begin = performance.now()
      const budget = values.tokens ? { tokens: Number(values.tokens) } : { seconds: Number(values.budget) }
      const whole = tokensLeft([table], budget)

      const hinted = capabilities.flatMap(c => probe.filter(s => s.capability === c).slice(0, hintSamples))
      const { layers } = await layerInfluence(scorer, layerCount, hinted, capabilities, {
        records: await openAnalysisRecords(dataFolder, hash, layerCount, model.layerwise.hiddenSize),
      })
      const general = mixture(
        'general',
        capabilities.map(capability => ({ capability, weight: 1 })),
      )
      const hintsOf = (objective: Objective) => {
        const figures = layers.map(l => new Map(l.capabilities.map(x => [x.capability, x])))
        return {
          layerCount,
          skipLosses: figures.map(of => weightedMean(objective, c => of.get(c)!.lossIncrease)),
          blockInfluence: figures.map(of => weightedMean(objective, c => of.get(c)!.blockInfluence)),
          angularDistances: layers.map(l => l.angularDistances),
        }
      }
      say(`hints: ${Math.round((performance.now() - begin) / 1000)} s`)

      const best = ({ cuts }: CutSearch) =>
        cuts.filter(cut => cut.kept.length === size).reduce((a, b) => (b.loss < a.loss ? b : a))
      const validation = encodeAll(model, await readProbes('validation'))
      const held = openCutTable(scorer, layerCount, validation, { records })
      const first20 = (await firstLines(model)).map(line => validation.findIndex(s => same(s, line)))
      const heldLoss = async (objective: Objective, cut: Stack, among: readonly number[] = first20) => {
        const own = among.filter(i => objective.weights.some(w => w.capability === validation[i]!.capability))
        await held.measure([cut], own)
        return objectiveLoss(objective, validation, i => held.nll(cut, i)!, own)
      }
      const all = stackWithout(layerCount)
      const rule = byRules(hintsOf(general), size)[0]!.kept
      const figures: Record<string, unknown> = {
        samples: probe.length,
        evaluatedSamples: first20.length,
        wholePerplexity: Math.exp(await heldLoss(general, all)),
        blockInfluenceDrops: all.filter(l => !rule.includes(l)),
        blockInfluencePerplexity: Math.exp(await heldLoss(general, rule)),
      }
      say(JSON.stringify(figures))

      const wanted = { smallest: size, focus: [size], report: [size] }
      const only = values.only?.split(',')
      const searchedFor = capabilities.filter(capability => only?.includes(capability) ?? true)
      const share = whole() * (searchedFor.length > 0 ? generalShare : 1)
      const spent = table.spentTokens
      const given =
        values.drops === undefined ? undefined : stackWithout(layerCount, ...values.drops.split(',').map(Number))
      const searched = given
        ? null
        : await searchObjective(table, general, hintsOf(general), wanted, () =>
            Math.min(whole(), share - (table.spentTokens - spent)),
          )
      const generalCut = searched ? best(searched) : { kept: given!, origin: 'given' }
      figures.general = {
        drops: all.filter(l => !generalCut.kept.includes(l)),
        origin: generalCut.origin,
        ...(searched && { tried: searched.tried, searchSamples: searched.samples }),
        ...('loss' in generalCut && { searchPerplexity: Math.exp(generalCut.loss) }),
        perplexity: Math.exp(await heldLoss(general, generalCut.kept)),
      }
      say(`general: ${JSON.stringify(figures.general)}, ${Math.round(table.spentTokens)} tokens`)

      const rows = []
      for (const [i, capability] of searchedFor.entries()) {
        const objective = single(capability)
        const own = whole() / (searchedFor.length - i)
        const before = table.spentTokens
        const wantedHere = { ...wanted, rivals: [generalCut.kept] }
        const found = await searchObjective(table, objective, hintsOf(objective), wantedHere, () =>
          Math.min(whole(), own - (table.spentTokens - before)),
        )
        const cut = best(found)
        const [ours, theirs] = [await heldLoss(objective, cut.kept), await heldLoss(objective, generalCut.kept)]
        rows.push({
          capability,
          drops: all.filter(l => !cut.kept.includes(l)),
          origin: cut.origin,
          tried: found.tried,
          searchSamples: found.samples,
          perplexity: Math.exp(ours),
          generalPerplexity: Math.exp(theirs),
          better: ours < theirs,
          kept: cut.kept,
          objective,
        })
        say(JSON.stringify({ ...rows.at(-1), kept: undefined, objective: undefined }))
      }
      figures.capabilitiesBetterThanGeneral = rows.filter(r => r.better).length
      figures.searchTokens = Math.round(table.spentTokens)
      figures.searchSeconds = (performance.now() - begin) / 1000

      // Predicted on the first lines, measured on the built student: on the same lines, and on all other validation lines.
      const others = values.others ? validation.map((_, i) => i).filter(i => !first20.includes(i)) : []
      const built: { recipe: string; predicted: number; measured: number; measuredOnOtherLines: number | null }[] = []
      for (const { objective, kept } of [...rows, { objective: general, kept: generalCut.kept }]) {
        const student = await writeManifest(
          context.payloads,
          extractLayers(await readManifest(context.payloads, hash), [...kept], hash),
        )
        const own = (among: readonly number[]) =>
          among.filter(i => objective.weights.some(w => w.capability === validation[i]!.capability))
        const predicted = Math.exp((await heldLoss(objective, all)) - (await heldLoss(objective, kept)))
        const among = own([...first20, ...others])
        const scores = await withScoringModel(student.hash, context, opened =>
          opened.scorer.scoreRows(among.map(i => validation[i]!)),
        )
        const measured = async (lines: readonly number[]) =>
          Math.exp(
            (await heldLoss(objective, all, lines)) -
              objectiveLoss(objective, validation, i => scores[among.indexOf(i)]!.nll, own(lines)),
          )
        built.push({
          recipe: objective.name,
          predicted,
          measured: await measured(first20),
          measuredOnOtherLines: others.length > 0 ? await measured(others) : null,
        })
        say(JSON.stringify(built.at(-1)))
      }
      const worst = (pick: (b: (typeof built)[number]) => number | null) =>
        Math.max(...built.map(b => Math.abs((pick(b) ?? b.predicted) - b.predicted)))
      figures.predictedLargestDeviation = worst(b => b.measured)
      if (values.fits) {
        const { probeSet } = await importProbes({ source: shared('data', 'probes') }, context)
        const perplexities = async (objective: Objective, kept: Stack) => {
          const calibration = fitCalibration(probeSet, 256, objective)
          const own = first20.filter(i => objective.weights.some(w => w.capability === validation[i]!.capability))
          const { student } = await fitStudent({ parent: hash, kept, calibration }, validation, own, context)
          const nll = (i: number) => student?.nll.get(i) ?? held.nll(kept, i)!
          return (of: Objective) =>
            Math.exp(
              objectiveLoss(
                of,
                validation,
                nll,
                own.filter(i => of.weights.some(w => w.capability === validation[i]!.capability)),
              ),
            )
        }
        const ofGeneral = await perplexities(general, generalCut.kept)
        const fitted = []
        for (const { capability, objective, kept } of rows) {
          const perplexity = (await perplexities(objective, kept))(objective)
          const generalPerplexity = ofGeneral(objective)
          fitted.push({ capability, perplexity, generalPerplexity, better: perplexity < generalPerplexity })
          say(JSON.stringify(fitted.at(-1)))
        }
        figures.fittedGeneralPerplexity = ofGeneral(general)
        figures.fittedBetterThanGeneral = fitted.filter(f => f.better).length
        figures.fitted = fitted
      }
      if (values.others) figures.predictedLargestDeviationOnOtherLines = worst(b => b.measuredOnOtherLines)
      figures.capabilities = rows.map(({ kept: _k, objective: _o, ...row }) => row)
      figures.built = built
      figures.parametersOf22 = extractLayers(manifest, generalCut.kept, hash).parameterCount
      return figures
    })
  } finally {
    if (!values.data) await rm(dataFolder, { recursive: true, force: true })
  }
}

const same = (a: EncodedSample, b: EncodedSample) =>
  a.capability === b.capability && a.completionStart === b.completionStart && String(a.ids) === String(b.ids)

/** The lines that the protocol evaluates; those whose completion is cut away count among the first 20, but nothing else. */
async function firstLines(model: ScoringModel): Promise<EncodedSample[]> {
  const taken = new Map<string, number>()
  const first = (await readProbes('validation')).filter(({ capability }) => {
    const count = (taken.get(capability) ?? 0) + 1
    taken.set(capability, count)
    return count <= evaluated
  })
  return encodeAll(model, first)
}
