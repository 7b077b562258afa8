// An architecture that no file here knows, described by data alone, goes all the way: Starcoder 2, whose numbers transformers gives.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Architecture } from '../../../../compute/architectures/architecture.js'
import {
  biasesOf,
  decoderConfig,
  embedding,
  finalNorm,
  gatedLayer,
  head,
  hiddenShape,
  type LayerTensor,
  layerPlaces,
  wholePlace,
} from '../../../../compute/architectures/decoder-tensors.js'
import { architectures } from '../../../../compute/architectures/registry.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { analyzeCapabilities } from '../../../../compute/handlers/analyze-capabilities.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { evaluateModel } from '../../../../compute/handlers/evaluate-model.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { generateText } from '../../../../compute/handlers/generate-text.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { proposeStudents } from '../../../../compute/handlers/propose-students.js'
import { openModel } from '../../../../compute/inference/model.js'
import { type Golden, readGolden, writeGoldenFolder, writeGoldenGguf } from '../../../testkit/golden-models.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

// LayerNorm, RoPE, grouped-query attention with biases, a feed-forward block without gate: a mixture that no family here has.
const ungated: readonly LayerTensor[] = [
  ...gatedLayer.filter(([, component]) => component !== 'FEED_FORWARD'),
  ['up', 'FEED_FORWARD', 'mlp.c_fc.weight', 'ffn_up.weight', d => [d.intermediateSize, d.hiddenSize]],
  ['down', 'FEED_FORWARD', 'mlp.c_proj.weight', 'ffn_down.weight', d => [d.hiddenSize, d.intermediateSize]],
]
const starcoder2: Architecture = {
  name: 'starcoder2',
  aliases: ['starcoder2'],
  tensors: [
    embedding,
    ...layerPlaces([
      ...ungated,
      ...biasesOf(
        ungated,
        ungated.map(([role]) => role),
      ),
    ]),
    finalNorm,
    wholePlace('final_norm_bias', 'NORM', ['model.norm.bias'], ['output_norm.bias'], hiddenShape),
    head,
  ],
  norm: 'layer',
  positions: 'rotary',
  ropeLayout: { safetensors: 'half', gguf: 'half' },
  activation: 'gelu_tanh',
  understood: { hidden_act: ['gelu_pytorch_tanh'] },
  defaults: () => ({ normEpsilon: 1e-5 }),
  huggingFaceConfig: (d, roles) => ({
    architectures: ['Starcoder2ForCausalLM'],
    model_type: 'starcoder2',
    ...decoderConfig(d, roles),
    hidden_act: 'gelu_pytorch_tanh',
    norm_epsilon: d.normEpsilon,
    sliding_window: null,
  }),
}

const registry = architectures as Architecture[]
let context: TestHandlerContext
let golden: Golden
let probeSet: string
const sources: Record<string, string> = {}
const manifests: Record<string, string> = {}

beforeAll(async () => {
  registry.push(starcoder2)
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  golden = await readGolden('starcoder2')
  sources.safetensors = await writeGoldenFolder(golden, join(context.dataFolder, 'hf'))
  sources.gguf = await writeGoldenGguf(golden, join(context.dataFolder, 'gguf'))
  for (const [format, source] of Object.entries(sources)) {
    manifests[format] = (await ingestModel({ source }, context)).manifest
  }
  const probes = join(context.dataFolder, 'probes')
  await mkdir(probes)
  const line = (task: string, split: string, prompt: string, completion: string) =>
    JSON.stringify({ task, subtask: 'words', split, prompt, completion })
  const lines = ['one two', 'red blue', 'cat dog', 'sun moon'].flatMap((words, i) => [
    line('naming', i % 2 ? 'probe' : 'validation', `say ${words}`, ` ${words}`),
    line('counting', i % 2 ? 'validation' : 'probe', `count ${words}`, ' two'),
  ])
  await writeFile(join(probes, 'probe.jsonl'), lines.join('\n'))
  probeSet = (await importProbes({ source: probes }, context)).probeSet
})
afterAll(async () => {
  registry.splice(registry.indexOf(starcoder2), 1)
  await context.dispose()
})

describe.each(['safetensors', 'gguf'])('an architecture made of data alone, from %s', format => {
  const manifest = () => manifests[format]!

  test('gives the logits and the loss of transformers', async () => {
    const model = await openModel(await readManifest(context.payloads, manifest()), context)
    const { ids, completionStart, nll, skipped } = golden
    const { logits } = await model.forward({ ids: [ids], wantLogits: 'last' })
    const expected = golden.logits[String(ids.length - 1)]!
    expect(Math.max(...expected.map((value, i) => Math.abs(logits[0]![i]! - value)))).toBeLessThan(5e-5)
    const gates = [new Float32Array([1, 1, 1]), new Float32Array([1, 1, 1])]
    gates[1]![skipped.layer] = 0
    const scores = await model.score(
      gates.map(() => ({ ids, completionStart })),
      { gates },
    )
    expect(Math.abs(scores[0]!.nll / nll - 1)).toBeLessThan(1e-6)
    expect(Math.abs(scores[1]!.nll / skipped.nll - 1)).toBeLessThan(1e-6)
    await model.dispose()
  })

  test('generates text', async () => {
    const request = { manifest: manifest(), prompt: 'hello', maxTokens: 8, temperature: 0 }
    const result = await generateText(request, context)
    expect(result.completionTokens).toBeGreaterThan(0)
  })

  test('is analysed, cut as proposed, measured and exported', async () => {
    const evaluation = { manifest: manifest(), probeSet, maxTokens: 64 }
    const analysis = await analyzeCapabilities(evaluation, context)
    expect(analysis.layers.map(l => l.layerIndex)).toEqual([0, 1, 2])
    const { proposals } = await proposeStudents(
      { ...evaluation, modelName: 'made-up', layers: analysis.layers },
      context,
    )
    const [proposal] = proposals
    const student = await buildStudent({ parent: manifest(), layers: proposal!.layers }, context)
    expect(student.parameterCount).toBe(proposal!.parameterCount)
    const { scores } = await evaluateModel(
      { ...evaluation, manifest: student.manifest, split: 'validation', capabilities: [proposal!.capability!] },
      context,
    )
    expect(scores[0]!.loss).toBeCloseTo(proposal!.studentLoss, 4)
    const exporting = { ...context, jobId: `made-up-${format}` }
    await exportModel({ manifest: student.manifest, name: 'made-up', format: 'SAFETENSORS' }, exporting)
    const again = await ingestModel({ source: join(context.dataFolder, 'exports', exporting.jobId) }, context)
    const reread = await evaluateModel(
      { ...evaluation, manifest: again.manifest, split: 'validation', capabilities: [proposal!.capability!] },
      context,
    )
    expect(reread.scores[0]!.loss).toBeCloseTo(proposal!.studentLoss, 5)
  })
})
