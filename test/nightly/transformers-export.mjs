#!/usr/bin/env node
// Nightly check: what the platform exports opens in transformers and says the same tokens, for models as they came, cut, healed,
// quantised and pruned.
// node test/nightly/transformers-export.mjs PYTHON [FOLDER OF MODELS]   (after `npm run build`; PYTHON has torch and transformers)
import { dirname } from 'node:path'
import { generatedElsewhere, readArguments, report, startPlatform, verdict } from './export-checks.mjs'

/** Below this difference of two logits, float32 rounding may decide which token comes first. */
const tieMargin = 1e-3

const { python, cases } = readArguments()
const platform = await startPlatform()
const rows = [['model', 'layers', 'prompt', 'tokens', 'least margin', 'verdict']]

async function compare(name, modelId, prompts) {
  const layers = String(await platform.layerCount(modelId))
  const files = await platform.exported(modelId, { format: 'SAFETENSORS' })
  const [file] = files
  const refused = files.notes.find(note => note.startsWith('transformers refuses'))
  if (refused) {
    rows.push([name, layers, '', '', '', refused])
    return
  }
  const answers = await generatedElsewhere(python, 'greedy-tokens.py', dirname(file), prompts)
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
    await compare(`${name}, INT4`, await platform.quantised(parent, 'INT4'), prompts)
    await compare(`${name}, INT8`, await platform.quantised(parent, 'INT8'), prompts)
    const pruned = await platform.pruned(parent, false)
    if (pruned) await compare(`${name}, pruned`, pruned, prompts)
  }
} finally {
  report(rows)
  await platform.stop()
}
