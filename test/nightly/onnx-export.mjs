#!/usr/bin/env node
// Nightly check: ONNX folders that the platform writes open in transformers.js and onnxruntime-genai, which say the same tokens as we do.
// node test/nightly/onnx-export.mjs PYTHON MODULES [FOLDER OF MODELS]   (after `npm run build`; PYTHON has onnxruntime-genai, MODULES is a
// folder that @huggingface/transformers is installed in)
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { generatedElsewhere, readArguments, report, startPlatform, verdict } from './export-checks.mjs'

/**
 * Below this difference of two logits, rounding may decide which token comes first: that of float32; of weights to float16, which moves logits by
 * hundredths; of activations to 8 bits where they are multiplied by blocks, which moves them by some tenths.
 */
const tieMargins = { fp32: 1e-3, fp16: 0.05, q8: 0.5, q4: 0.5 }

const { python, others, cases } = readArguments('MODULES')
const [modules] = others
const platform = await startPlatform()
const rows = [['model', 'layers', 'weights', 'program', 'prompt', 'tokens', 'least margin', 'verdict']]

async function compare(name, modelId, prompts, quantization) {
  const layers = String(await platform.layerCount(modelId))
  const files = await platform.exported(modelId, { format: 'ONNX', ...(quantization && { quantization }) })
  const folder = dirname(files.find(file => file.endsWith('genai_config.json')))
  const { dtype } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))['transformers.js_config']
  const programs = {
    'onnxruntime-genai': () => generatedElsewhere(python, 'greedy-tokens-genai.py', folder, prompts),
    'transformers.js': () =>
      generatedElsewhere(process.execPath, 'greedy-tokens-transformers-js.mjs', folder, prompts, [modules, dtype]),
  }
  for (const [program, answer] of Object.entries(programs)) {
    const answers = await answer()
    for (const [i, prompt] of prompts.entries()) {
      const theirs = answers[i]
      const said = verdict(await platform.generated(modelId, prompt), theirs, tieMargins[dtype])
      const least = Math.min(...theirs.margins).toFixed(4)
      rows.push([name, layers, dtype, program, prompt, String(theirs.tokens.length), least, said])
    }
  }
}

try {
  for (const { name, source, layers, prompts } of cases) {
    const parent = await platform.ingest(source, name)
    for (const quantization of ['F32', 'F16']) await compare(name, parent, prompts, quantization)
    const student = await platform.buildStudent(parent, layers)
    await compare(`${name}, student`, student, prompts, 'F32')
    await compare(`${name}, student healed`, await platform.healed(student), prompts, 'F32')
    const quantised = await platform.quantised(parent, 'INT4')
    for (const quantization of [undefined, 'F32']) await compare(`${name}, INT4`, quantised, prompts, quantization)
    const pruned = await platform.pruned(parent, false)
    if (pruned) await compare(`${name}, pruned`, pruned, prompts, 'F32')
  }
} finally {
  report(rows)
  await platform.stop()
}
