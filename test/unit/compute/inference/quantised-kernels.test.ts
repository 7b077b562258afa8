import { readFile, rm } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dequantize } from '../../../../compute/formats/dequantize.js'
import { ensureFloat32, listDerived, type StoredTensor } from '../../../../compute/formats/float-weights.js'
import { ggmlTypeByName } from '../../../../compute/formats/ggml-types.js'
import { ensureQuantised, matrixForm } from '../../../../compute/formats/quantised-weights.js'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import type { Graph } from '../../../../compute/graph/ir.js'
import {
  readsPromptsOnCodes,
  takesQuantisedKernels,
  useQuantisedKernels,
} from '../../../../compute/inference/quantised-kernels.js'
import { apply } from '../../../../compute/ops/apply.js'
import { evaluate, type Tensor, tensor } from '../../../../compute/ops/reference.js'
import { createSession, floats, int64s } from '../../../../compute/runtime/session.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

/** Bytes offset of the half-precision numbers in a block, whose exponents must not be random. */
const halves: Record<string, readonly number[]> = {
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q8_0: [0],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
}
const dtypes = Object.keys(halves)

function random(seed: number) {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
/** A stored matrix of random blocks. */
async function storedMatrix(dtype: string, rows: number, columns: number, seed: number): Promise<StoredTensor> {
  const next = random(seed)
  const { blockSize, blockBytes } = ggmlTypeByName(dtype)!
  const bytes = new Uint8Array(((rows * columns) / blockSize) * blockBytes).map(() => Math.floor(next() * 256))
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < bytes.length; at += blockBytes) {
    // Half-precision numbers around 1/64 with either sign.
    for (const half of halves[dtype]!)
      view.setUint16(at + half, (next() < 0.5 ? 0x8000 : 0) | (9 << 10) | Math.floor(next() * 1024), true)
  }
  const { hash } = await context.payloads.put([bytes])
  return { name: `${dtype}.${seed}`, dtype, shape: [rows, columns], bytes: bytes.length, payload: hash }
}
async function payloadBytes(hash: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const chunk of context.payloads.open(hash)) chunks.push(chunk)
  return Buffer.concat(chunks)
}
const inputs = (count: number) => {
  const next = random(99)
  return Float32Array.from({ length: count }, () => next() * 2 - 1)
}
/** Greatest difference over the greatest value. */
const relative = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (v, i) => Math.abs(v - b[i]!))) / Math.max(...Array.from(b, Math.abs))

const [columns, tokens] = [512, 3]

describe.each(dtypes)('a matrix of %s blocks', dtype => {
  test('holds scale * (code - zero) + offset equal to what the formulas of ggml give', async () => {
    const stored = await storedMatrix(dtype, 6, columns, 5)
    const matrix = await ensureQuantised(context, [stored])
    const { bits, blockSize, offsets } = matrix.form
    const file = await readFile(matrix.path)
    const bytes = (s: { offset: number; length: number }) =>
      new Uint8Array(file.subarray(s.offset, s.offset + s.length))
    const floatsOf = (s: { offset: number; length: number }) => new Float32Array(bytes(s).buffer)
    const [codes, scales, minima] = [bytes(matrix.codes), floatsOf(matrix.scales), floatsOf(matrix.offsets)]
    const values = new Float32Array(6 * columns)
    dequantize(dtype, await payloadBytes(stored.payload), values)
    const worst = values.reduce((most, value, i) => {
      const code = bits === 8 ? codes[i]! : (codes[i >> 1]! >> (4 * (i & 1))) & 15
      const block = Math.floor(i / blockSize)
      const own = scales[block]! * (code - 2 ** (bits - 1)) + (offsets ? minima[block]! : 0)
      return Math.max(most, Math.abs(own - value) / Math.max(1e-3, Math.abs(value)))
    }, 0)
    expect(worst).toBeLessThan(1e-4)
  })

  test('multiplies like its float32 form within 1 % of the greatest product, alone and beside others', async () => {
    const stored = await Promise.all([24, 8, 8].map((rows, i) => storedMatrix(dtype, rows, columns, 10 + i)))
    const roles = new Map(stored.map((tensor, i) => [`w${i}`, tensor]))
    const g = graphBuilder('linear')
    const x = g.input('x', 'float32', ['tokens', columns])
    for (const [role, { shape }] of roles) {
      const path = await ensureFloat32(context, roles.get(role)!)
      const location = path.slice(context.dataFolder.length + 1)
      const weight = g.weight(role, shape, { location, offset: 0, length: shape[0]! * columns * 4 })
      g.output(apply(g, 'Gemm', [x, weight], { transB: 1 }, { name: `${role}.out` }))
    }
    const graph = g.build()
    const alone: Graph = { ...graph, nodes: graph.nodes.slice(0, 1), outputs: graph.outputs.slice(0, 1) }
    const feeds = { x: floats(inputs(tokens * columns), [tokens, columns]) }
    const run = async (built: Graph) => {
      const session = await createSession(built, { weightsFolder: context.dataFolder, threads: 1, prepack: true })
      const results = await session.run(feeds, session.outputs)
      await session.dispose()
      return results
    }
    const exact = await run(graph)
    for (const one of [alone, graph]) {
      const rewritten = await useQuantisedKernels(one, { tensors: roles as never }, context)
      expect(rewritten.nodes.filter(node => node.op === 'MatMulNBits')).toHaveLength(1)
      expect(rewritten.constants.some(constant => roles.has(constant.name))).toBe(false)
      const results = await run(rewritten)
      for (const [name, result] of Object.entries(results)) {
        expect(result.shape).toEqual(exact[name]!.shape)
        expect(relative(result.data as Float32Array, exact[name]!.data as Float32Array)).toBeLessThan(1e-2)
      }
    }
  })
})

test('an embedding table that is also the head is read from the head’s codes, as its definition says', async () => {
  const stored = await storedMatrix('Q8_0', 10, columns, 3)
  const length = 10 * columns * 4
  const location = (await ensureFloat32(context, stored)).slice(context.dataFolder.length + 1)
  const g = graphBuilder('tied')
  const ids = g.input('ids', 'int64', ['tokens'])
  const x = g.input('x', 'float32', ['tokens', columns])
  const table = g.weight('embed', [10, columns], { location, offset: 0, length })
  g.output(apply(g, 'Gather', [table, ids], {}, { name: 'embedded' }))
  g.output(apply(g, 'Gemm', [x, table], { transB: 1 }, { name: 'logits' }))
  const graph = await useQuantisedKernels(g.build(), { tensors: new Map([['embed', stored]]) as never }, context)
  expect(graph.nodes.map(node => node.op)).toEqual(['GatherBlockQuantized', 'MatMulNBits'])
  const session = await createSession(graph, { weightsFolder: context.dataFolder, threads: 1, prepack: true })
  const feeds = { ids: int64s([9, 0, 9]), x: floats(inputs(3 * columns), [3, columns]) }
  const results = await session.run(feeds, ['embedded', 'logits'])
  await session.dispose()

  const matrix = await ensureQuantised(context, [stored])
  const file = await readFile(matrix.path)
  const given = new Map<string, Tensor>([
    ['ids', tensor([3], [9, 0, 9])],
    ['x', tensor([3, columns], feeds.x.data as Float32Array)],
  ])
  for (const { name, type, shape } of graph.constants) {
    const section = name.endsWith('.scales') ? matrix.scales : matrix.codes
    const bytes = new Uint8Array(file.subarray(section.offset, section.offset + section.length))
    given.set(name, tensor(shape as number[], type === 'uint8' ? bytes : new Float32Array(bytes.buffer)))
  }
  const expected = evaluate(graph.nodes, given)
  expect(relative(results.embedded!.data as Float32Array, expected.get('embedded')!.data)).toBeLessThan(1e-6)
  expect(relative(results.logits!.data as Float32Array, expected.get('logits')!.data)).toBeLessThan(1e-2)
})

test('plain numbers, and rows that are no whole number of blocks, have no quantised form', () => {
  expect(matrixForm({ dtype: 'F16', shape: [4, 32] })).toBeUndefined()
  expect(matrixForm({ dtype: 'Q4_0', shape: [4, 48] })).toBeUndefined()
  expect(matrixForm({ dtype: 'Q4_0', shape: [64] })).toBeUndefined()
})

test('a lost or cut derived file is made again, the same bytes, and is known by its payload', async () => {
  const stored = await storedMatrix('Q4_1', 6, columns, 77)
  const { path } = await ensureQuantised(context, [stored])
  const before = await readFile(path)
  await rm(path)
  expect((await ensureQuantised(context, [stored])).path).toBe(path)
  expect(await readFile(path)).toEqual(before)
  const listed = []
  for await (const file of listDerived(context.dataFolder)) listed.push(file)
  expect(listed.find(file => file.path === path)).toMatchObject({ payload: stored.payload, bytes: before.length })
})

test('quantised kernels are used only where the cache holds their forms beside the float32 ones', async () => {
  const stored = await storedMatrix('Q4_1', 64, columns, 78)
  const tensors = new Map([['w', stored]]) as never
  // 4 bits, and a scale and an offset of 4 bytes for 32 elements; beside 4 bytes each.
  const bytes = 64 * columns * (0.5 + 8 / 32 + 4)
  expect(takesQuantisedKernels({ tensors }, { HARTONOMOUS_DERIVED_BYTES: bytes })).toBe(true)
  expect(takesQuantisedKernels({ tensors }, { HARTONOMOUS_DERIVED_BYTES: bytes - 1 })).toBe(false)
  const plain = new Map([['w', { ...stored, dtype: 'F32' }]]) as never
  expect(takesQuantisedKernels({ tensors: plain }, { HARTONOMOUS_DERIVED_BYTES: 1e12 })).toBe(false)
})

test.each([
  ['Q8_0', true],
  ['Q4_0', false],
  ['Q4_1', false],
  ['Q5_1', false],
  ['Q6_K', false],
  ['F32', false],
])('prompts of a model stored as %s run on its codes: %s', (dtype, expected) => {
  const matrix = (of: string, shape = [64, columns]) => ({ dtype: of, shape })
  const tensors = (of: string) =>
    new Map([
      ['embed', matrix('F32')],
      ['layers.0.attn_norm', matrix('F32', [columns])],
      ['layers.0.q', matrix('Q8_0')],
      ['layers.0.down', matrix(of)],
    ])
  expect(readsPromptsOnCodes({ tensors: tensors(dtype) as never })).toBe(expected)
})
