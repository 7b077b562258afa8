#!/usr/bin/env node
// Nightly check: what the platform exports opens in transformers and says the same tokens, for models as they came, cut, healed,
// quantised and pruned; and PEFT puts an exported adapter onto the exported base so that it says what we do.
// node test/nightly/transformers-export.mjs PYTHON [FOLDER OF MODELS]   (after `npm run build`; PYTHON has torch, transformers and peft)
import { dirname } from 'node:path'
import { generatedElsewhere, readArguments, report, startPlatform, verdict } from './export-checks.mjs'

/** Below this difference of two logits, float32 rounding may decide which token comes first. */
const tieMargin = 1e-3

const { python, cases } = readArguments()
const platform = await startPlatform()
const rows = [['model', 'layers', 'prompt', 'tokens', 'least margin', 'verdict']]

/** With `base` the model's adapter on that model's export, else the model's own export. */
async function compare(name, modelId, prompts, base) {
  const layers = String(await platform.layerCount(modelId))
  const files = await platform.exported(base ?? modelId, { format: 'SAFETENSORS' })
  const [file] = files
  const refused = files.notes.find(note => note.startsWith('transformers refuses'))
  if (refused) {
    rows.push([name, layers, '', '', '', refused])
    return
  }
  const adapter = base && dirname((await platform.exported(modelId, { format: 'PEFT' }))[0])
  const more = adapter ? ['--adapter', adapter] : []
  const answers = await generatedElsewhere(python, 'greedy-tokens.py', dirname(file), prompts, more)
  for (const [i, prompt] of prompts.entries()) {
    const theirs = answers[i]
    const said = verdict(await platform.generated(modelId, prompt), theirs, tieMargin)
    rows.push([name, layers, prompt, String(theirs.tokens.length), Math.min(...theirs.margins).toFixed(4), said])
  }
}

try {
  for (const { name, source, layers, prompts } of cases) {
    const parent = await platform.ingest(source, name)
    await compare(name, parent, prompts)
    const student = await platform.buildStudent(parent, layers)
    await compare(`${name}, student`, student, prompts)
    await compare(`${name}, student healed`, await platform.healed(student), prompts)
    const lowRank = await platform.healed(student, { train: 'LORA', lora: { keepAdapter: true }, learningRate: 2e-3 })
    await compare(`${name}, adapter of the student`, lowRank, prompts, student)
    await compare(`${name}, INT4`, await platform.quantised(parent, 'INT4'), prompts)
    await compare(`${name}, INT8`, await platform.quantised(parent, 'INT8'), prompts)
    const pruned = await platform.pruned(parent, false)
    if (pruned) await compare(`${name}, pruned`, pruned, prompts)
  }
} finally {
  report(rows)
  await platform.stop()
}
