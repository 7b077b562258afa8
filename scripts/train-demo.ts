// Trains the demo model from nothing: `npm run demo:train -- FOLDER [--steps N] [--seed N]` writes a Hugging Face folder and prints what it knows.
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { parseRole } from '../compute/architectures/registry.js'
import { readManifest } from '../compute/formats/manifest.js'
import { loadTokenizer, type ModelTokenizer } from '../compute/formats/tokenizer.js'
import { exportsFolder } from '../compute/handlers/export-folder.js'
import { exportModel } from '../compute/handlers/export-model.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { seededRandom } from '../compute/inference/sampling.js'
import { adamWDefaults } from '../compute/training/adamw.js'
import type { TrainingBatch } from '../compute/training/batch-feeds.js'
import { openTrainingModel, type TrainingModel } from '../compute/training/training-model.js'
import { writeTrained } from '../compute/training/write-trained.js'
import { DEFAULT_SEED, makeCorpus, type Task } from '../demo/corpus.js'
import { projectFile } from '../lib/project.js'

/**
 * Stochastic depth per task, so that each layer comes to matter for some tasks and to be spare for the rest: while a task trains, its home
 * layers take part; each other layer is skipped at random, the later the more often, and at first always.
 */
const homes: Record<Task, readonly number[]> = {
  conversation: [0, 5],
  code_generation: [0, 1, 3],
  question_answering: [4],
  summarization: [0, 1, 2],
  mathematical_reasoning: [0, 6],
  translation: [0, 3],
  creative_writing: [7],
}
/** @param done share of the schedule, 0 to 1 */
function skipRate(layer: number, layerCount: number, done: number): number {
  const rate = 0.35 + (0.3 * layer) / (layerCount - 1)
  return rate + (1 - rate) * Math.max(0, 1 - done / 0.4)
}

/** Documents of a step over all tasks, and least of a subtask. */
const documentsPerStep = 224
const leastOfSubtask = 4
const adamRate = 0.003
const muonRate = 0.02
const warmupSteps = 100
/** Share of the schedule in which the rates fall to 0. */
const decayShare = 0.6
/** Steps between two looks at what each subtask's documents still cost. */
const lookEvery = 50

interface Document {
  prompt: number[]
  completion: number[]
}
interface Subtask {
  task: Task
  documents: Document[]
  /** Nats per completion: what is not yet known is asked more often. */
  loss: number
}

const say = (line: string) => process.stdout.write(`${line}\n`)

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { steps: { type: 'string', default: '2000' }, seed: { type: 'string', default: '1' } },
  })
  const [folder] = positionals
  const [steps, seed] = [Number(values.steps), Number(values.seed)]
  if (!folder || !Number.isInteger(steps) || steps < 1 || !Number.isInteger(seed)) {
    process.stderr.write('npm run demo:train -- FOLDER [--steps 2000] [--seed 1]\n')
    process.exitCode = 2
    return
  }
  const dataFolder = await mkdtemp(join(tmpdir(), 'train-demo-'))
  const context = await standaloneContext(dataFolder, { jobId: 'train-demo' })
  try {
    // Shapes and tokenizer are the demo model's; every weight is replaced before the first step.
    const { manifest: hash } = await ingestModel({ source: projectFile('demo', 'model') }, context)
    const manifest = await readManifest(context.payloads, hash)
    const tokenizer = await loadTokenizer(manifest, context.payloads)
    const subtasks = documentsOf(tokenizer)
    const roles = manifest.tensors.flatMap(t => (t.role ? [t.role] : []))
    const matrix = (role: string) => role !== 'embed' && !/norm$/.test(role)
    const training = await openTrainingModel(manifest, context, {
      trained: roles,
      layerGates: true,
      crossEntropy: true,
      optimiser: adamWDefaults,
      muon: { of: matrix, rateFactor: muonRate / adamRate, momentum: 0.95, weightDecay: 0.05 },
      decayed: () => false,
      clip: 1,
      maximumRows: documentsPerStep * 64,
      seed,
    })
    begin(training, seed)
    await learn(training, subtasks, steps, seed)
    const { hash: trained } = await writeTrained(manifest, training.tensors, context)
    await training.dispose()
    await exportModel({ manifest: trained, format: 'SAFETENSORS', name: 'demo' }, context)
    await mkdir(folder, { recursive: true })
    await cp(join(exportsFolder(dataFolder), context.jobId), resolve(folder), { recursive: true })
    say(`${folder}: config.json, model.safetensors and the tokenizer`)
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}

/** The corpus as tokens; the answer ends with the end-of-text token. */
function documentsOf({ encode, encodePrompt, eosTokenIds }: ModelTokenizer): Subtask[] {
  const subtasks = new Map<string, Subtask>()
  for (const { task, subtask, prompt, completion } of makeCorpus(DEFAULT_SEED).train) {
    const own = subtasks.get(subtask) ?? { task, documents: [], loss: 1 }
    own.documents.push({ prompt: encodePrompt(prompt), completion: [...encode(completion), eosTokenIds[0]!] })
    subtasks.set(subtask, own)
  }
  return [...subtasks.values()]
}

/** Weights before the first step: blocks add nothing to the residual stream yet, other matrices keep the size of what goes through them. */
function begin({ tensors }: TrainingModel, seed: number): void {
  const random = seededRandom(seed)
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  for (const { name, shape, weight } of tensors) {
    const { role } = parseRole(name)
    if (shape.length < 2) weight.fill(1)
    else if (role === 'o' || role === 'down') weight.fill(0)
    else {
      const deviation = role === 'embed' ? 0.05 : shape[1]! ** -0.5
      for (let i = 0; i < weight.length; i++) weight[i] = deviation * normal()
    }
  }
}

/** One document per row, padded to the longest; only the completion counts, each token alike. */
function batchOf(documents: readonly Document[], share: number, layerGates?: readonly number[]): TrainingBatch {
  const tokens = documents.reduce((sum, { completion }) => sum + completion.length, 0)
  const rows = documents.map(({ prompt, completion }) => {
    const ids = [...prompt, ...completion]
    const crossEntropyWeights = Float32Array.from(ids, (_, at) =>
      at >= prompt.length - 1 && at < ids.length - 1 ? share / tokens : 0,
    )
    return { ids, crossEntropyWeights, layerGates }
  })
  return { rows, seq: Math.max(...rows.map(({ ids }) => ids.length)) }
}

async function learn(training: TrainingModel, subtasks: Subtask[], steps: number, seed: number): Promise<void> {
  const random = seededRandom(seed + 1)
  const { layerCount } = training.model.dimensions
  const started = performance.now()
  const drawn = ({ documents }: Subtask, count: number) =>
    Array.from({ length: count }, () => documents[Math.floor(random() * documents.length)]!)
  for (let step = 1; step <= steps; step++) {
    const done = (step - 1) / steps
    const level = Math.min(1, step / warmupSteps) * Math.min(1, (1 - done) / decayShare)
    const need = (subtask: Subtask) => 0.15 + Math.min(1, subtask.loss)
    const needed = subtasks.reduce((sum, subtask) => sum + need(subtask), 0)
    const spare = documentsPerStep - leastOfSubtask * subtasks.length
    const batches = Object.entries(homes).map(([task, home]) => {
      const gates = Array.from({ length: layerCount }, (_, layer) =>
        home.includes(layer) || random() >= skipRate(layer, layerCount, done) ? 1 : 0,
      )
      const documents = subtasks
        .filter(subtask => subtask.task === task)
        .flatMap(subtask => drawn(subtask, leastOfSubtask + Math.round((spare * need(subtask)) / needed)))
      return batchOf(documents, documents.length / documentsPerStep, gates)
    })
    const { crossEntropy } = await training.step(batches, adamRate * level, step)
    if (step % lookEvery === 0 || step === steps) {
      for (const subtask of subtasks) {
        const looked = drawn(subtask, 32)
        const tokens = looked.reduce((sum, { completion }) => sum + completion.length, 0)
        subtask.loss = (await training.losses(batchOf(looked, tokens / looked.length))).crossEntropy
      }
      const seconds = (performance.now() - started) / 1000
      const known = subtasks.filter(({ loss }) => loss < 0.05).length
      say(
        `step ${step}/${steps}, loss ${crossEntropy.toFixed(3)} nats per token, ${known} of ${subtasks.length} subtasks below 0.05 nats per answer, ${(step / seconds).toFixed(1)} steps/s, ${Math.round(((steps - step) * seconds) / step)} s left`,
      )
    }
  }
}

await main()
