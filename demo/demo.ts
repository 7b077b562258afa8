// The main job end to end on a fresh data folder, as a GraphQL client: ingest, analyse, propose, approve, build, heal, compare.
import { rmSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { launchPlatform } from '../lib/client/launch-platform.js'
import { connectPlatform, type PlatformClient } from '../lib/client/platform-client.js'
import { colors, decimals, heatMap, ranges, shadeLegend, table } from '../lib/client/tables.js'
import { quantity, type WatchedJob, watchJob } from '../lib/client/watch-job.js'
import { projectFile } from '../lib/project.js'
import { makeCorpus } from './corpus.js'
import { demoDocuments as documents } from './documents.js'

interface Item {
  task: string
  subtask: string
  prompt: string
  completion: string
}
interface Model {
  id: string
  name: string
  architecture: string
  layerCount: number
  parameterCount: number
  sizeBytes: number
  uniqueBytes: number
  tensors: { totalCount: number; nodes: { sharedWith: { totalCount: number } }[] }
}
interface Analysis {
  baseline: { capability: { slug: string; name: string }; loss: number; accuracy: number | null }[]
  layers: {
    layerIndex: number
    capabilities: { capability: { slug: string }; score: number; lossIncrease: number }[]
  }[]
}
interface Recipe {
  id: string
  name: string
  estimatedParameterCount: number
  estimatedQuality: number
  capability: { slug: string; name: string }
  layers: { from: number; to: number; reason: string }[]
}

const say = (text = '') => process.stdout.write(`${text}\n`)
const heading = (text: string) => say(`\n${colors.bold(text)}`)
const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`

const probesFolder = projectFile('demo', 'probes')

/** The fourth held-out item of every skill: a fixed choice, made before anyone saw the answers. */
function onePerSkill(jsonl: string): Item[] {
  const items = jsonl
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Item)
  return [...new Set(items.map(i => i.task))].flatMap(task => items.filter(i => i.task === task).slice(3, 4))
}

const times: [string, number][] = []
async function timed<T>(stage: string, work: () => Promise<T>): Promise<T> {
  const start = performance.now()
  const result = await work()
  times.push([stage, performance.now() - start])
  return result
}

async function runJob(
  client: PlatformClient,
  document: string,
  input: Record<string, unknown>,
  label: string,
): Promise<WatchedJob> {
  const { job } = await client.mutate<{ job: { id: string } }>(document, input)
  return watchJob(client, job.id, label)
}

const layersOf = (r: Recipe) => r.layers.reduce((sum, l) => sum + l.to - l.from, 0)
const isGood = (r: Recipe, layerCount: number) => r.estimatedQuality >= 0.95 && layersOf(r) * 2 >= layerCount

/** What skipping each layer that the recipe leaves out costs all skills, in sum. */
const missed = ({ layers }: Recipe, analysis: Analysis) =>
  analysis.layers
    .filter(({ layerIndex }) => !layers.some(({ from, to }) => layerIndex >= from && layerIndex < to))
    .reduce((sum, { capabilities }) => sum + capabilities.reduce((all, { lossIncrease }) => all + lossIncrease, 0), 0)

/**
 * The smallest student of at least half the layers that keeps 95 % of its capability's quality, of several the one that the other skills miss
 * least in; the best one where none does.
 */
function chooseRecipe(recipes: Recipe[], analysis: Analysis): Recipe {
  const layerCount = analysis.layers.length
  const best = [...recipes].sort((a, b) => b.estimatedQuality - a.estimatedQuality)[0]
  const good = recipes.filter(r => isGood(r, layerCount))
  const chosen = good.sort((a, b) => layersOf(a) - layersOf(b) || missed(a, analysis) - missed(b, analysis))[0] ?? best
  if (!chosen) throw new Error('No student was proposed')
  return chosen
}

/** Share of exactly right answers per skill on held-out items, by the newest measurement. */
async function accuracies(client: PlatformClient, modelId: string): Promise<Map<string, number | null>> {
  type Scores = {
    model: {
      evaluations: {
        nodes: { split: string; accuracy: number | null; createdAt: string; capability: { slug: string } }[]
      }
    }
  }
  const { model } = await client.query<Scores>(documents.scores, { id: modelId })
  const held = model.evaluations.nodes.filter(e => e.split === 'VALIDATION')
  return new Map(held.sort((a, b) => a.createdAt.localeCompare(b.createdAt)).map(e => [e.capability.slug, e.accuracy]))
}

async function ask(client: PlatformClient, modelId: string, item: Item): Promise<string> {
  const input = { modelId, prompt: item.prompt, maxTokens: 32, temperature: 0 }
  return (await client.mutate<{ text: string }>(documents.generate, input)).text
}

/** One question per skill for the report, asked of all three models. */
async function compare(client: PlatformClient, items: Item[], models: readonly Model[]) {
  const rows: string[][] = []
  for (const item of items) {
    const answers = await Promise.all(models.map(({ id }) => ask(client, id, item)))
    const marked = answers.map(a =>
      a.trim() === item.completion.trim() ? colors.green(`✓ ${a.trim()}`) : colors.red(`✗ ${a.trim()}`),
    )
    rows.push([item.task, item.prompt.replaceAll('\n', ' ⏎ ').slice(0, 52), ...marked])
  }
  say(table(['skill', 'question', `${models[0]!.name} says`, 'cut', 'cut and healed'], rows))
}

/** Every seventh document of the corpus to train on; the probe items decide which weights are kept, so that the validation items stay unseen. */
async function writeLessons(folder: string) {
  await mkdir(folder, { recursive: true })
  const lessons = makeCorpus().train.filter((_, i) => i % 7 === 0)
  await writeFile(join(folder, 'probe.jsonl'), lessons.map(lesson => `${JSON.stringify(lesson)}\n`).join(''))
  await writeFile(join(folder, 'validation.jsonl'), await readFile(join(probesFolder, 'probe.jsonl')))
  return lessons.length
}

/** 120 steps of 16 rows; a text of the corpus takes 43 tokens at most. From its parent's words alone, which is almost always right. */
const healing = { tokens: 92_160, sequence: 48, batchRows: 16, learningRate: 0.002, crossEntropy: 0 }

/** The student trained after its parent on all seven skills: its name says so. */
async function heal(client: PlatformClient, folder: string, parent: Model, student: Model) {
  const source = join(folder, 'lessons')
  const lessons = await writeLessons(source)
  await runJob(client, documents.importProbeDataset, { name: 'lessons', source }, 'lessons')
  const { probeDatasets } = await client.query<{ probeDatasets: { id: string; name: string }[] }>(
    documents.probeDatasets,
  )
  const input = {
    modelId: student.id,
    teacherId: parent.id,
    probeDatasetId: probeDatasets.find(({ name }) => name === 'lessons')?.id,
    name: `${student.name}-healed`,
    ...healing,
  }
  const started = await client.mutate<{ job: { id: string }; recipe: { id: string } }>(documents.distillStudent, input)
  const job = await watchJob(client, started.job.id, 'heal')
  const { recipe } = await client.query<{ recipe: { student: Model } }>(documents.recipe, { id: started.recipe.id })
  return { healed: recipe.student, durationMs: job.durationMs ?? 0, lessons }
}

async function report(client: PlatformClient, folder: string) {
  const questions = onePerSkill(await readFile(join(probesFolder, 'validation.jsonl'), 'utf8'))

  const ingested = await timed('ingest', () =>
    runJob(client, documents.ingestModel, { source: projectFile('demo', 'model'), name: 'demo' }, 'ingest'),
  )
  const parentId = ingested.model?.id
  const { model: parent } = await client.query<{ model: Model }>(documents.model, { id: parentId })
  heading('1. What came in')
  say(
    `${parent.name}: a ${parent.architecture} of ${parent.layerCount} layers and ${quantity(parent.parameterCount)} parameters, as ` +
      `${parent.tensors.totalCount} tensors (${quantity(parent.sizeBytes, 'bytes')}), each stored once under its SHA-256.`,
  )
  say(
    'It was trained so that each skill has layers of its own (demo/model/README.md says how); real models are less tidy.',
  )

  await timed('probe set', () =>
    runJob(client, documents.importProbeDataset, { name: 'demo', source: probesFolder }, 'probe set'),
  )
  const { probeDatasets } = await client.query<{ probeDatasets: { id: string; name: string }[] }>(
    documents.probeDatasets,
  )
  const probeDatasetId = probeDatasets.find(d => d.name === 'demo')?.id

  await timed('analyse', () => runJob(client, documents.analyzeModel, { modelId: parentId, probeDatasetId }, 'analyse'))
  const { model: analysed } = await client.query<{ model: { analysis: Analysis } }>(documents.analysis, {
    id: parentId,
    probeDatasetId,
  })
  const slugs = analysed.analysis.baseline.map(b => b.capability.slug)
  heading('2. Which layers matter for what')
  say(`Each layer was skipped in turn. Loss increase in nats per token: ${shadeLegend}`)
  say(heatMap(analysed.analysis.layers, slugs))
  const mostNeeded = slugs.map(slug => {
    const losses = analysed.analysis.layers
      .map(l => ({
        layer: l.layerIndex,
        loss: l.capabilities.find(c => c.capability.slug === slug)?.lossIncrease ?? 0,
      }))
      .sort((a, b) => b.loss - a.loss)
    const text = (l?: { layer: number; loss: number }) =>
      l ? `layer ${l.layer} (${l.loss >= 0.005 ? '+' : ''}${decimals(l.loss)})` : '–'
    return [slug, text(losses[0]), text(losses[1]), text(losses.at(-1))]
  })
  say(table(['skill', 'most needed', 'next', 'least needed'], mostNeeded))

  await timed('propose', () =>
    runJob(client, documents.proposeStudents, { modelId: parentId, probeDatasetId }, 'propose'),
  )
  const { recipes } = await client.query<{ recipes: { nodes: Recipe[] } }>(documents.recipes, {
    parentModelId: parentId,
  })
  heading('3. Students it proposes')
  say(
    'Quality is measured on held-out samples against the parent: exp(-(student loss - parent loss)), 1.0 is the parent.',
  )
  const chosen = chooseRecipe(recipes.nodes, analysed.analysis)
  say(
    table(
      ['recipe', 'skill', 'layers kept', 'parameters', 'quality'],
      recipes.nodes.map(r => [
        r.id === chosen.id ? colors.green(`${r.name} ←`) : r.name,
        r.capability.slug,
        ranges(r.layers),
        quantity(r.estimatedParameterCount),
        r.estimatedQuality.toFixed(3),
      ]),
    ),
  )
  say(
    `${colors.green('←')} is built next: ${isGood(chosen, parent.layerCount) ? 'the smallest that keeps half of the layers and 0.95 of its skill, of several the one whose missing layers the other skills need least' : 'the best, as none keeps half of the layers and 0.95 of its skill'}.`,
  )
  for (const layer of chosen.layers) say(`  ${colors.dim(`keeps ${ranges([layer])}: ${layer.reason}`)}`)

  await client.mutate(documents.approveRecipe, { recipeId: chosen.id })
  const built = await timed('build', () => runJob(client, documents.buildStudent, { recipeId: chosen.id }, 'build'))
  type Built = { recipe: { measuredQuality: number | null; student: Model } }
  const find = () => client.query<Built>(documents.recipe, { id: chosen.id })
  const measured = await timed('evaluate', async () => {
    const { jobs } = await client.query<{ jobs: { nodes: { id: string; type: string }[] } }>(documents.jobs, {})
    const evaluation = jobs.nodes.find(j => j.type === 'MODEL_EVALUATE')
    if (evaluation) await watchJob(client, evaluation.id, 'evaluate')
    return (await find()).recipe
  })
  const student = measured.student
  heading('4. The student')
  const shared = 100 * (1 - student.parameterCount / parent.parameterCount)
  say(
    `${student.name}: ${student.layerCount} of ${parent.layerCount} layers, ${quantity(student.parameterCount)} parameters (${shared.toFixed(0)} % fewer), built in ${built.durationMs} ms.`,
  )
  say(
    `Of its ${quantity(student.sizeBytes, 'bytes')} it added ${quantity(student.uniqueBytes, 'bytes')} of tensors: every tensor is shared with its parent.`,
  )
  if (measured.measuredQuality !== null)
    say(
      `Quality on ${chosen.capability.name}: ${measured.measuredQuality.toFixed(3)} measured after building, ${chosen.estimatedQuality.toFixed(3)} predicted.`,
    )

  const { healed, durationMs, lessons } = await timed('heal', () => heal(client, folder, parent, student))
  heading('5. What it can still do, and what healing gives back')
  say(
    `The student then learned from its parent's words on ${quantity(healing.tokens)} tokens of ${lessons.toLocaleString('en')} texts of all seven skills, in ${seconds(durationMs)}.`,
  )
  const models = [parent, student, healed]
  const scores = await timed('examine', async () => {
    for (const model of models)
      await runJob(client, documents.evaluateModel, { modelId: model.id, probeDatasetId }, `examine ${model.name}`)
    return Promise.all(models.map(({ id }) => accuracies(client, id)))
  })
  const percent = (share: number | null | undefined) => (share == null ? '–' : `${(100 * share).toFixed(0)}%`)
  const means = scores.map(of => slugs.reduce((sum, slug) => sum + (of.get(slug) ?? 0), 0) / slugs.length)
  say('Exactly right answers on held-out items that no training text has:')
  say(
    table(
      ['skill', 'parent', 'cut', 'cut and healed'],
      [...slugs.map(slug => [slug, ...scores.map(of => percent(of.get(slug)))]), ['mean', ...means.map(percent)]],
    ),
  )

  heading('6. The same questions to all three')
  await timed('questions', () => compare(client, questions, models))
}

const folder = await mkdtemp(join(tmpdir(), 'hartonomous-demo-'))
say(colors.bold('Hartonomous: a language model goes in, a working student comes out.'))
say(`Starting a platform on the temporary folder ${folder}, which is removed at the end …`)
// Also where the start fails or is interrupted.
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
const interruptedStart = () => process.exit(130)
const stops = ['SIGINT', 'SIGTERM'] as const
for (const stop of stops) process.once(stop, interruptedStart)
const platform = await timed('start', () => launchPlatform(folder)).catch((error: unknown) => {
  process.stderr.write(`The demo failed: ${error instanceof Error ? error.message : String(error)}\n`)
  return process.exit(1)
})
for (const stop of stops) process.off(stop, interruptedStart)
const client = connectPlatform(platform.url)
const tidy = async () => {
  await client.close()
  await platform.stop()
  await rm(folder, { recursive: true, force: true })
}
let interrupted = false
const interrupt = () => {
  if (interrupted) process.exit(130)
  interrupted = true
  say('\nInterrupted.')
  void tidy().finally(() => process.exit(130))
}
for (const stop of stops) process.on(stop, interrupt)
try {
  await report(client, folder)
  const total = times.reduce((sum, [, ms]) => sum + ms, 0)
  heading('Time')
  say(`${times.map(([stage, ms]) => `${stage} ${seconds(ms)}`).join(', ')}; together ${seconds(total)}.`)
  heading('Next')
  say(
    '  npm start                                              serve it; the explorer opens at http://127.0.0.1:4000/graphql',
  )
  say('  npx hartonomous ingest hf:HuggingFaceTB/SmolLM2-135M-Instruct     a model people know')
  say('  npx hartonomous ingest ./some-model.gguf               or a GGUF file of your own')
  say('  npx hartonomous --help                                 analyze, propose, approve, build, generate …')
} catch (error) {
  if (!interrupted) {
    process.stderr.write(`The demo failed: ${error instanceof Error ? error.message : JSON.stringify(error)}\n`)
    process.exitCode = 1
  }
} finally {
  if (!interrupted) await tidy()
}
