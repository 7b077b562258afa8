// Fusing a small model: what is timed and what is applied, outputs before and after, the way back, and what a cut of it is.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { readTensorFloat32 } from '../../../../compute/formats/float-weights.js'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { quantize } from '../../../../compute/formats/quantize.js'
import type { Graph } from '../../../../compute/graph/ir.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { collectGarbage } from '../../../../compute/handlers/collect-garbage.js'
import { foldableNorms, foldNorms } from '../../../../compute/handlers/fold-norms.js'
import { fuseModel } from '../../../../compute/handlers/fuse-model.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { quantiseManifest } from '../../../../compute/handlers/quantise-manifest.js'
import { fuseGraph } from '../../../../compute/inference/fuse-graph.js'
import { openModel } from '../../../../compute/inference/model.js'
import { buildModelGraph } from '../../../../compute/inference/model-graph.js'
import { extractLayers } from '../../../../compute/surgery/extract-layers.js'
import { type Fusion, fusionSchema } from '../../../../lib/fusion.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { quantizationSchema } from '../../../../lib/quantization.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let folder: string
let source: string
let probeSet: string

beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  folder = await mkdtemp(join(tmpdir(), 'pico-'))
  // Heads of 16: attention rotates them by itself.
  await writePicoLlama(folder, { hidden: 64, intermediate: 96, heads: 4, keyValueHeads: 2, layers: 3 })
  source = (await ingestModel({ source: folder }, context)).manifest
  const samples = ['probe', 'validation'].flatMap(split =>
    ['one two three four', 'a b c d e f'].map(prompt => ({
      task: 'words',
      subtask: 'any',
      split,
      prompt,
      completion: ' five six seven',
    })),
  )
  probeSet = (await context.payloads.put([Buffer.from(samples.map(s => JSON.stringify(s)).join('\n'))])).hash
})
afterAll(async () => {
  await context.dispose()
  await rm(folder, { recursive: true, force: true })
})

const fuse = (given: Record<string, unknown>, manifest = source) =>
  fuseModel({ manifest, options: fusionSchema.parse({ rounds: 3, ...given }), probeSet }, context)
const states = (rows: { fusion: string; mode: string; state: string }[], mode = 'STEP') =>
  Object.fromEntries(rows.filter(row => row.mode === mode).map(({ fusion, state }) => [fusion, state]))

/** Logits at the end of a prompt and of three tokens after it. */
async function logits(manifest: Manifest, on = context): Promise<number[][]> {
  const model = await openModel(manifest, on)
  const sequence = model.startSequence()
  const found: number[][] = []
  for (const ids of [[1, 5, 9, 12, 7], [20], [3], [8]]) found.push([...(await sequence.append(ids))])
  await model.dispose()
  return found
}
const deviation = (a: number[][], b: number[][]) =>
  Math.max(...a.map((row, i) => Math.max(...row.map((value, j) => Math.abs(value - b[i]![j]!)))))

test('what reaches the threshold is applied, says the same, and gives the model before back', async () => {
  const { manifest: hash, source: from, applied, rows, check } = await fuse({ threshold: 0 })
  expect(applied).toEqual(['NORM_WEIGHT', 'QKV', 'GATE_UP', 'NORM_ATTENTION'])
  expect(from).toBe(source)
  expect(states(rows)).toEqual({
    NORM_WEIGHT: 'APPLIED',
    QKV: 'APPLIED',
    GATE_UP: 'APPLIED',
    NORM_ATTENTION: 'APPLIED',
    RESIDUAL_NORM: 'BUILT_IN',
    ALL: 'BELOW_THRESHOLD',
  })
  for (const row of rows) {
    expect(row.sites).toBeGreaterThan(0)
    expect(row.lower!).toBeLessThanOrEqual(row.speedup!)
    expect(row.speedup!).toBeLessThanOrEqual(row.upper!)
  }
  expect(check!.positions).toBeGreaterThan(4)
  expect(check!.largestDeviation).toBeLessThan(1e-5)
  const [before, fused] = [await readManifest(context.payloads, source), await readManifest(context.payloads, hash)]
  expect(fused).toMatchObject({ fusions: applied, fusedFrom: source, parameterCount: before.parameterCount })
  const expected = await logits(before)
  expect(deviation(expected, await logits(fused))).toBeLessThan(1e-5 * Math.max(...expected[0]!.map(Math.abs)))

  // Fusing again begins with what it was fused from.
  expect((await fuse({ threshold: 1000 }, hash)).manifest).toBe(source)
  // A garbage collection that knows a student of the one before and the fused model keeps the one before, whole.
  const { hash: student } = await writeManifest(context.payloads, extractLayers(before, [0], source))
  await collectGarbage({ manifests: [student, hash], payloads: [probeSet] }, context)
  expect(deviation(expected, await logits(await readManifest(context.payloads, fused.fusedFrom!)))).toBe(0)
})

test('what does not reach it is told with its factor and not applied, alone or all together', async () => {
  for (const together of [false, true]) {
    const { manifest, applied, rows, check } = await fuse({ threshold: 1000, together })
    expect(manifest).toBe(source)
    expect(applied).toEqual([])
    expect(check).toBeUndefined()
    expect(new Set(rows.map(row => row.state))).toEqual(new Set(['BELOW_THRESHOLD', 'BUILT_IN']))
    expect(rows.every(row => row.speedup! > 0 && row.milliseconds! > 0)).toBe(true)
  }
  const { applied, rows } = await fuse({ threshold: 0, together: true, only: ['QKV', 'GATE_UP'] })
  expect(applied).toEqual(['QKV', 'GATE_UP'])
  expect(states(rows)).toEqual({ QKV: 'APPLIED', GATE_UP: 'APPLIED', ALL: 'APPLIED' })
  // One alone is judged by its own figure.
  expect((await fuse({ threshold: 0, together: true, only: ['QKV'] })).applied).toEqual(['QKV'])
})

test('a fused graph has fewer, larger products, and attention reads them as they are', async () => {
  const model = checkBuildable(await readManifest(context.payloads, source))
  const graph = buildModelGraph(model, 'generate', () => ({ location: '', offset: 0, length: 0 }))
  const counts = ({ nodes }: Graph) => {
    const of = (op: string) => nodes.filter(node => node.op === op).length
    return { products: of('Gemm'), splits: of('Split'), norms: of('SkipSimplifiedLayerNormalization') }
  }
  const fused = async (...fusions: Fusion[]) => counts(await fuseGraph(graph, model, fusions, context))
  // Seven products of each of three layers, and the head.
  expect(counts(graph)).toEqual({ products: 22, splits: 0, norms: 6 })
  expect(await fused('RESIDUAL_NORM', 'QKV')).toEqual({ products: 16, splits: 3, norms: 6 })
  expect(await fused('RESIDUAL_NORM', 'GATE_UP')).toEqual({ products: 19, splits: 3, norms: 6 })
  expect(await fused('RESIDUAL_NORM', 'NORM_ATTENTION')).toEqual({ products: 16, splits: 0, norms: 6 })
  expect(await fused()).toEqual({ products: 22, splits: 0, norms: 0 })
})

test('outputs that differ by more than is allowed refuse the fusion', async () => {
  const { manifest, applied, rows, check } = await fuse({ threshold: 0, only: ['NORM_WEIGHT'], tolerance: 1e-12 })
  expect(check!.largestDeviation).toBeGreaterThan(1e-12)
  expect(manifest).toBe(source)
  expect(applied).toEqual([])
  expect(rows[0]).toMatchObject({ state: 'OUTPUTS_DIFFER', reason: expect.stringContaining('is allowed') })
})

test('a folded projection is the matrix times the norm’s weights, offset included', async () => {
  const manifest = await readManifest(context.payloads, source)
  const model = { ...checkBuildable(manifest), normOffset: 1 }
  const folded = await foldNorms(manifest, model, foldableNorms(model).slice(0, 1), context)
  const values = async (of: Manifest, role: string) =>
    readTensorFloat32(context.payloads, of.tensors.find(t => t.role === role)!)
  const [norm, before, after] = [
    await values(manifest, 'layers.0.attn_norm'),
    await values(manifest, 'layers.0.k'),
    await values(folded, 'layers.0.k'),
  ]
  expect(after[130]).toBeCloseTo(before[130]! * (norm[130 % 64]! + 1), 6)
  expect(new Set(await values(folded, 'layers.0.attn_norm'))).toEqual(new Set([0]))
  expect(await values(folded, 'layers.1.k')).toEqual(await values(manifest, 'layers.1.k'))
})

test('on quantised kernels steps do all of it already; taking it out of them changes no number', async () => {
  const options = quantizationSchema.parse({ type: 'INT4', method: 'ROUND_TO_NEAREST' })
  const { manifest: hash } = await quantiseManifest(source, options, undefined, context)
  const onCodes = { ...context, env: { ...context.env, HARTONOMOUS_KERNELS: 'quantised' as const } }
  const { rows, applied } = await fuseModel(
    { manifest: hash, options: fusionSchema.parse({ rounds: 3, threshold: 1000 }), probeSet },
    onCodes,
  )
  expect(applied).toEqual([])
  expect(states(rows)).toEqual({
    NORM_WEIGHT: 'NOT_APPLICABLE',
    QKV: 'BUILT_IN',
    GATE_UP: 'BUILT_IN',
    NORM_ATTENTION: 'BUILT_IN',
    RESIDUAL_NORM: 'BUILT_IN',
  })
  expect(states(rows, 'PROMPT')).toMatchObject({ QKV: 'BELOW_THRESHOLD', RESIDUAL_NORM: 'BUILT_IN' })
  const manifest = await readManifest(context.payloads, hash)
  const whole = await logits(manifest, onCodes)
  const apart = await logits(manifest, { ...onCodes, fusions: { step: [], generate: [] } } as TestHandlerContext)
  expect(deviation(whole, apart)).toBeLessThan(1e-5 * Math.max(...whole[0]!.map(Math.abs)))
})

test('a build fuses last; a cut of a fused model keeps what its graph does and no way back to more layers', async () => {
  const stages = { fusion: fusionSchema.parse({ threshold: 0, rounds: 3, only: ['QKV'] }) }
  const built = await buildStudent(
    { parent: source, layers: [{ from: 0, to: 2 }], stages: { fusion: { ...stages.fusion, probeSet } } },
    context,
  )
  expect(built.stages?.map(({ stage }) => stage)).toEqual(['extract', 'fuse'])
  expect(built.stages?.[1]?.measurements).toMatchObject({ applied: ['QKV'] })
  expect((await readManifest(context.payloads, built.manifest)).fusedFrom).toBe(built.stages?.[0]?.manifest)
  const cut = await buildStudent({ parent: built.manifest, layers: [{ from: 0, to: 1 }] }, context)
  const manifest = await readManifest(context.payloads, cut.manifest)
  expect(manifest.fusions).toEqual(['QKV'])
  expect(manifest.fusedFrom).toBeUndefined()
  expect((await logits(manifest))[0]!.every(Number.isFinite)).toBe(true)
})

test('without room for joined weights nothing is timed that would stay as it is', async () => {
  const small = { ...context, env: { ...context.env, HARTONOMOUS_DERIVED_BYTES: 20_000 } }
  const { rows, applied } = await fuseModel(
    { manifest: source, options: fusionSchema.parse({ rounds: 3, threshold: 0, only: ['QKV'] }), probeSet },
    small,
  )
  expect(applied).toEqual([])
  for (const row of rows) {
    expect(row).toMatchObject({ state: 'NOT_APPLICABLE', reason: expect.stringContaining('no room') })
    expect(row.speedup).toBeUndefined()
  }
})

test('norms folded into 16-bit projections make them float32, which the row says in bytes', async () => {
  const whole = await readManifest(context.payloads, source)
  const halves = await Promise.all(
    whole.tensors.map(async tensor => {
      if (tensor.shape.length < 2) return tensor
      const values = await readTensorFloat32(context.payloads, tensor)
      const { hash: payload, bytes } = await context.payloads.put([quantize('F16', values)])
      return { ...tensor, dtype: 'F16', bytes, payload }
    }),
  )
  const { sourceFiles: _, ...rest } = whole
  const { hash } = await writeManifest(context.payloads, { ...rest, tensors: halves })
  const { manifest, rows } = await fuse({ threshold: 0, only: ['NORM_WEIGHT'] }, hash)
  const sum = (tensors: Manifest['tensors']) => tensors.reduce((bytes, tensor) => bytes + tensor.bytes, 0)
  const after = sum((await readManifest(context.payloads, manifest)).tensors)
  expect(after).toBeGreaterThan(sum(halves))
  expect(rows[0]).toMatchObject({
    state: 'APPLIED',
    reason: expect.stringContaining(`${sum(halves)} bytes are ${after}`),
  })
})
