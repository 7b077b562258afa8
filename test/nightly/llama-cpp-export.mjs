#!/usr/bin/env node
// Nightly check: GGUF files that the platform writes open in llama.cpp, which says the same tokens as we do of the same file.
// node test/nightly/llama-cpp-export.mjs PYTHON [FOLDER OF MODELS]   (after `npm run build`; PYTHON has llama-cpp-python)
import { basename } from 'node:path'
import { generatedElsewhere, readArguments, report, startPlatform, verdict } from './export-checks.mjs'

/** Below this difference of two logits, float32 rounding may decide which token comes first. */
const tieMargin = 2e-3
/** llama.cpp rounds activations to 8 bits before it multiplies them by blocks of codes (or 16 for F16), which moves logits by some tenths. */
const roundedTieMargin = 0.5

const { python, cases } = readArguments()
const platform = await startPlatform()
const rows = [['model', 'layers', 'file', 'prompt', 'tokens', 'least margin', 'verdict']]

async function compare(name, modelId, prompts, quantization) {
  const layers = String(await platform.layerCount(modelId))
  const [file] = await platform.exported(modelId, { format: 'GGUF', ...(quantization && { quantization }) })
  const again = await platform.ingest(file, `${name}, back`)
  const answers = await generatedElsewhere(python, 'greedy-tokens-llama-cpp.py', file, prompts)
  // What is stored as blocks in part (a head) rounds, whatever most of the file is called.
  const margin = quantization === 'F32' ? tieMargin : roundedTieMargin
  for (const [i, prompt] of prompts.entries()) {
    const theirs = answers[i]
    const ours = await platform.generated(again, prompt)
    let said = verdict(ours, theirs, margin)
    if (!quantization || quantization === 'F32') {
      const before = await platform.generated(modelId, prompt)
      if (before.tokenIds.join() !== ours.tokenIds.join()) said = 'DIFFERENT from the model it was written from'
    }
    const least = Math.min(...theirs.margins).toFixed(4)
    rows.push([name, layers, basename(file), prompt, String(theirs.tokens.length), least, said])
  }
}

try {
  for (const { name, source, layers, prompts } of cases) {
    const parent = await platform.ingest(source, name)
    await compare(name, parent, prompts)
    const student = await platform.buildStudent(parent, layers)
    for (const quantization of [undefined, 'F32', 'F16', 'Q8_0', 'Q4_1', 'Q4_0'])
      await compare(`${name}, student`, student, prompts, quantization)
    const healed = await platform.healed(student)
    for (const quantization of [undefined, 'F32'])
      await compare(`${name}, student healed`, healed, prompts, quantization)
    // At blocks of 32 these are ggml's own types; of 64, the same weights with scales repeated; with a minimum at 8 bits float32.
    for (const [said, type, more] of [
      ['INT4', 'INT4', {}],
      ['INT8', 'INT8', {}],
      ['INT4 in blocks of 64', 'INT4', { blockSize: 64 }],
      ['INT8 with minimum', 'INT8', { symmetric: false }],
    ]) {
      const quantised = await platform.quantised(parent, type, more)
      for (const quantization of [undefined, 'F32']) await compare(`${name}, ${said}`, quantised, prompts, quantization)
    }
    for (const byLayer of [false, true]) {
      const pruned = await platform.pruned(parent, byLayer)
      if (pruned) await compare(`${name}, pruned${byLayer ? ' by layer' : ''}`, pruned, prompts, 'F32')
    }
  }
} finally {
  report(rows)
  await platform.stop()
}
