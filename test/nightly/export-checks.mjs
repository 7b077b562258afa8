// What the nightly checks of exports share: models with prompts, a platform of their own driven through GraphQL, and how answers compare.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { launchPlatform } from '../../dist/lib/client/launch-platform.js'

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
const tokensPerPrompt = 16

const stories = ['Once upon a time', 'One day, Lily and Tom went to the park to', 'The dog was very']
const allCases = models => [
  {
    name: 'SmolLM2-135M (GGUF, Q4_1)',
    source: join(models, 'smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf'),
    layers: [
      { from: 0, to: 21 },
      { from: 29, to: 30 },
    ],
    prompts: ['The capital of France is', 'def fibonacci(n):', 'In 1969, 3 + 4 =', 'Größe: naïve café — 你好 🙂'],
  },
  {
    name: 'stories260K (SafeTensors)',
    source: join(models, 'stories260K'),
    layers: [
      { from: 0, to: 2 },
      { from: 3, to: 5 },
    ],
    prompts: stories,
  },
  {
    name: 'babyllama-tok105 (SafeTensors)',
    source: join(models, 'babyllama-tok105'),
    layers: [{ from: 1, to: 4 }],
    prompts: stories,
  },
  {
    name: 'demo model (SafeTensors)',
    source: join(root, 'demo/model'),
    layers: [{ from: 0, to: 6 }],
    prompts: ['3 + 4 =', 'The', 'Question: ', 'Once'],
  },
]

/** PYTHON, what else is needed, and the folder of models from the command line, with the models that are there. */
export function readArguments(...others) {
  const [python, ...rest] = process.argv.slice(2)
  const [models = join(root, '../shared/models')] = rest.slice(others.length)
  if (!python || rest.length < others.length || !existsSync(join(root, 'dist/gateway/main.js'))) {
    const names = ['PYTHON', ...others].join(' ')
    console.error(`Usage: node ${process.argv[1]} ${names} [FOLDER OF MODELS]   (after npm run build)`)
    process.exit(2)
  }
  const cases = allCases(models).filter(({ name, source }) => {
    if (!existsSync(source)) console.error(`skipped: ${name} (${source} is not here)`)
    return existsSync(source)
  })
  return { python, others: rest.slice(0, others.length), cases }
}

/** A platform on a fresh data folder, and what the checks ask of it. */
export async function startPlatform() {
  const dataFolder = mkdtempSync(join(tmpdir(), 'hartonomous-nightly-'))
  // Whose tokens are compared with float32 elsewhere.
  const platform = await launchPlatform(dataFolder, { HARTONOMOUS_KERNELS: 'float32' })

  async function query(operation, variables) {
    const response = await fetch(`${platform.url}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: operation, variables }),
    })
    const { data, errors } = await response.json()
    if (errors?.length) throw new Error(errors[0].message)
    return data
  }

  async function mutate(field, input, selection) {
    const type = `${field[0].toUpperCase()}${field.slice(1)}Input!`
    const answer = await query(
      `mutation($input: ${type}) { ${field}(input: $input) { ${selection} userErrors { message code } } }`,
      { input },
    )
    const [error] = answer[field].userErrors
    if (error) throw new Error(`${field}: ${error.message} [${error.code}]`)
    return answer[field]
  }

  async function finished(id) {
    for (;;) {
      const { job } = await query(
        'query($id: ID!) { job(id: $id) { state output model { id } error { code message } } }',
        { id },
      )
      if (job.state === 'SUCCEEDED') return job
      if (job.state === 'FAILED' || job.state === 'CANCELLED')
        throw new Error(`${job.error?.code}: ${job.error?.message}`)
      await new Promise(resolve => setTimeout(resolve, 200))
    }
  }

  async function ingest(source, name) {
    const { job } = await mutate('ingestModel', { source, name }, 'job { id }')
    return (await finished(job.id)).model.id
  }

  async function buildStudent(parentModelId, layers, more = {}) {
    const { recipe } = await mutate(
      'createRecipe',
      // Measured on one capability: what is checked here is not how good it is.
      { parentModelId, name: 'nightly', objective: 'opens elsewhere', layers, capability: 'translation', ...more },
      'recipe { id }',
    )
    await mutate('approveRecipe', { recipeId: recipe.id }, 'recipe { id }')
    const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
    await finished(job.id)
    const built = await query('query($id: ID!) { recipe(id: $id) { student { id } } }', { id: recipe.id })
    return built.recipe.student.id
  }

  /**
   * The model without a key/value head in each layer, or `byLayer` in every second, and with narrower feed-forward blocks; undefined where it has
   * one key/value head only.
   */
  async function pruned(parentModelId, byLayer) {
    const { model } = await query(
      'query($id: ID!) { model(id: $id) { layerCount keyValueHeadCount intermediateSize } }',
      { id: parentModelId },
    )
    const { layerCount, keyValueHeadCount, intermediateSize } = model
    if (keyValueHeadCount < 2) return undefined
    const each = value => Array.from({ length: layerCount }, (_, layer) => value(layer))
    const narrow = intermediateSize - 32 * Math.ceil(intermediateSize / 200)
    return buildStudent(parentModelId, [{ from: 0, to: layerCount }], {
      headPruning: { metric: 'RANDOM', removePerLayer: each(layer => (byLayer && layer % 2 === 1 ? 0 : 1)) },
      feedForwardPruning: {
        metric: 'RANDOM',
        keepPerLayer: each(layer => (byLayer && layer % 2 === 0 ? intermediateSize : narrow)),
      },
    })
  }

  /** The model in 4- or 8-bit blocks; of what came in blocks the values as they are. */
  async function quantised(modelId, type, more = {}) {
    const few = { method: 'ROUND_TO_NEAREST', samplesPerCapability: 1 }
    const { job } = await mutate('quantizeModel', { modelId, type, requantize: true, ...few, ...more }, 'job { id }')
    return (await finished(job.id)).model.id
  }

  /** A student trained for a few steps after its parent; fails where held-out loss does not fall. */
  async function healed(modelId, more = {}) {
    const { model } = await query('query($id: ID!) { model(id: $id) { parameterCount } }', { id: modelId })
    // Small models move slowly, and cost nothing.
    const steps =
      model.parameterCount > 1e7
        ? { tokens: 1024, learningRate: 3e-4 }
        : { tokens: 8192, batchRows: 2, learningRate: 1e-3 }
    const few = {
      capability: 'translation',
      sequence: 128,
      heldOutSamples: 2,
      looks: 2,
      promptWeight: 1,
      ...steps,
      ...more,
    }
    const { job } = await mutate('distillStudent', { modelId, ...few }, 'job { id }')
    return (await finished(job.id)).model.id
  }

  /** Paths of the files of an export. */
  async function exported(modelId, options) {
    const { job } = await mutate('exportModel', { modelId, ...options }, 'job { id }')
    const { files, notes = [] } = (await finished(job.id)).output
    return Object.assign(
      files.map(file => join(dataFolder, 'exports', file.path)),
      { notes },
    )
  }

  /** What the platform continues a prompt with. */
  async function generated(modelId, prompt) {
    const input = { modelId, prompt, maxTokens: tokensPerPrompt, temperature: 0 }
    return (await mutate('generate', input, 'job { output }')).job.output
  }

  async function layerCount(id) {
    return (await query('query($id: ID!) { model(id: $id) { layerCount } }', { id })).model.layerCount
  }

  async function stop() {
    await platform.stop()
    rmSync(dataFolder, { recursive: true, force: true })
  }
  return { ingest, buildStudent, pruned, quantised, healed, exported, generated, layerCount, stop }
}

/** What another program, a script beside this one, continues the prompts with: [{ prompt, tokens, margins }]. */
export async function generatedElsewhere(python, script, model, prompts, more = []) {
  // Not spawnSync: while this process sleeps, the server closes idle connections that the next request would then use.
  const child = spawn(python, [resolve(root, 'test/nightly', script), ...more, model, String(tokensPerPrompt)], {
    timeout: 300_000,
  })
  child.stdin.end(JSON.stringify(prompts))
  const ended = new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  const [output, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  if (code !== 0) throw new Error(`${script}: ${errors.trim().split('\n').at(-1)}`)
  return JSON.parse(output)
}

/** `equal`, `tie` (they part where two logits are nearer to each other than `tieMargin`), or where they part. */
export function verdict(ours, theirs, tieMargin) {
  if (ours.promptTokens !== theirs.prompt.length)
    return `DIFFERENT PROMPT: ${ours.promptTokens} tokens here, ${theirs.prompt.length} there`
  const at = theirs.tokens.findIndex((token, i) => token !== ours.tokenIds[i])
  if (at < 0 && ours.tokenIds.length === theirs.tokens.length) return 'equal'
  if (at >= 0 && theirs.margins[at] < tieMargin) return `tie at token ${at} (margin ${theirs.margins[at].toFixed(4)})`
  return `DIFFERENT from token ${at < 0 ? theirs.tokens.length : at}`
}

/** Prints the rows and sets the exit code: failures, or nothing checked. */
export function report(rows) {
  const counts = { equal: 0, tie: 0, DIFFERENT: 0 }
  for (const row of rows.slice(1)) counts[row.at(-1).split(' ')[0]]++
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => row[column].length)))
  for (const row of rows) console.log(row.map((cell, column) => cell.padEnd(widths[column])).join('  '))
  console.log(
    `${rows.length - 1} answers: ${counts.equal} equal, ${counts.tie} part at a tie, ${counts.DIFFERENT} different`,
  )
  if (rows.length === 1 || rows.some(row => row.at(-1).startsWith('DIFFERENT'))) process.exitCode = 1
}
