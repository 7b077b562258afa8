#!/usr/bin/env node
// Nightly check: what the platform exports opens in transformers and says the same tokens, for models as they came and for students.
// node test/nightly/transformers-export.mjs PYTHON [FOLDER OF MODELS]   (after `npm run build`; PYTHON has torch and transformers)
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { launchPlatform } from '../../dist/lib/client/launch-platform.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
const [python, models = join(root, '../shared/models')] = process.argv.slice(2)
const tokensPerPrompt = 16
/** Below this difference of two logits, float32 rounding may decide which token comes first. */
const tieMargin = 1e-3

const stories = ['Once upon a time', 'One day, Lily and Tom went to the park to', 'The dog was very']
const cases = [
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

if (!python || !existsSync(join(root, 'dist/gateway/main.js'))) {
  console.error('Usage: node test/nightly/transformers-export.mjs PYTHON [FOLDER OF MODELS]   (after npm run build)')
  process.exit(2)
}

const dataFolder = mkdtempSync(join(tmpdir(), 'hartonomous-nightly-'))
const platform = await launchPlatform(dataFolder)

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

async function buildStudent(parentModelId, layers) {
  const { recipe } = await mutate(
    'createRecipe',
    { parentModelId, name: 'nightly', objective: 'opens in transformers', layers },
    'recipe { id }',
  )
  await mutate('approveRecipe', { recipeId: recipe.id }, 'recipe { id }')
  const { job } = await mutate('buildStudent', { recipeId: recipe.id }, 'job { id }')
  await finished(job.id)
  const built = await query('query($id: ID!) { recipe(id: $id) { student { id } } }', { id: recipe.id })
  return built.recipe.student.id
}

/** Token ids the platform makes. */
async function generated(modelId, prompt) {
  const { job } = await mutate(
    'generate',
    { modelId, prompt, maxTokens: tokensPerPrompt, temperature: 0 },
    'job { output }',
  )
  return job.output
}

async function inTransformers(folder, prompts) {
  // Not spawnSync: while this process sleeps, the server closes idle connections that the next request would then use.
  const script = join(root, 'test/nightly/greedy-tokens.py')
  const child = spawn(python, [script, folder, String(tokensPerPrompt)], { timeout: 300_000 })
  child.stdin.end(JSON.stringify(prompts))
  const ended = new Promise((resolve, reject) => child.on('error', reject).on('close', resolve))
  const [output, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  if (code !== 0) throw new Error(`transformers: ${errors.trim().split('\n').at(-1)}`)
  return JSON.parse(output)
}

/** `equal`, `tie` (they part where two logits are equal up to rounding), or where they part. */
function verdict(ours, theirs) {
  if (ours.promptTokens !== theirs.prompt.length)
    return `DIFFERENT PROMPT: ${ours.promptTokens} tokens here, ${theirs.prompt.length} there`
  const at = theirs.tokens.findIndex((token, i) => token !== ours.tokenIds[i])
  if (at < 0 && ours.tokenIds.length === theirs.tokens.length) return 'equal'
  if (at >= 0 && theirs.margins[at] < tieMargin) return `tie at token ${at}`
  return `DIFFERENT from token ${at < 0 ? theirs.tokens.length : at}`
}

const rows = [['model', 'layers', 'prompt', 'tokens', 'least margin', 'verdict']]
let failures = 0

async function compare(name, modelId, prompts) {
  const { model } = await query('query($id: ID!) { model(id: $id) { layerCount } }', { id: modelId })
  const { job } = await mutate('exportModel', { modelId, format: 'SAFETENSORS' }, 'job { id }')
  const { files } = (await finished(job.id)).output
  const answers = await inTransformers(join(dataFolder, 'exports', dirname(files[0].path)), prompts)
  for (const [i, prompt] of prompts.entries()) {
    const theirs = answers[i]
    const said = verdict(await generated(modelId, prompt), theirs)
    if (said.startsWith('DIFFERENT')) failures++
    const least = Math.min(...theirs.margins).toFixed(4)
    rows.push([name, String(model.layerCount), prompt, String(theirs.tokens.length), least, said])
  }
}

try {
  for (const { name, source, layers, prompts } of cases) {
    if (!existsSync(source)) {
      console.error(`skipped: ${name} (${source} is not here)`)
      continue
    }
    const { job } = await mutate('ingestModel', { source, name }, 'job { id }')
    const parent = (await finished(job.id)).model.id
    await compare(name, parent, prompts)
    await compare(`${name}, student`, await buildStudent(parent, layers), prompts)
  }
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => row[column].length)))
  for (const row of rows) console.log(row.map((cell, column) => cell.padEnd(widths[column])).join('  '))
} finally {
  await platform.stop()
  rmSync(dataFolder, { recursive: true, force: true })
}
if (failures > 0 || rows.length === 1) process.exitCode = 1
