import { expect, test } from 'vitest'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import type { Graph } from '../../../../compute/graph/ir.js'
import { printGraph } from '../../../../compute/graph/print.js'
import { packHeads } from '../../../../compute/inference/pack-heads.js'
import { apply, applyAll, reshape, reshapeTo } from '../../../../compute/ops/apply.js'
import { createSession, floats, int32s, int64s } from '../../../../compute/runtime/session.js'

const [batch, seq, heads, kvHeads, size] = [2, 3, 4, 2, 16]
const widths = [heads * size, kvHeads * size, kvHeads * size]
const width = widths.reduce((a, b) => a + b)

/** Attention over the parts of one value; `spoil` puts something between the parts and it. */
function attentionGraph(spoil: boolean): Graph {
  const g = graphBuilder('heads')
  const ids = g.input('input_ids', 'int64', ['batch', 'seq'])
  const x = g.input('x', 'float32', ['tokens', width])
  const last = g.input('last_positions', 'int32', ['batch'])
  const total = g.input('total_length', 'int32', [])
  // Room for positions as in a model: without it ONNX Runtime works out the wrong width for the packed form.
  const past = ['keys', 'values'].map(name => g.input(`past.${name}`, 'float32', ['batch', kvHeads, 'past', size]))
  const shape = apply(g, 'Shape', [ids], {}, { name: 'batch_and_seq' })
  const parts = applyAll(g, 'Split', [x, g.int64s(widths)], { axis: 1 }, { name: ['q', 'k', 'v'] })
  const inputs = parts.map((part, i) => {
    const own = widths[i]!
    const sizes = apply(g, 'Concat', [shape, g.int64s([own])], { axis: 0 }, { name: `shape.${i}` })
    const value = spoil && i === 1 ? apply(g, 'Neg', [part!], {}, { name: 'spoilt' }) : part!
    return reshapeTo(g, value, sizes, ['batch', 'seq', own], `heads.${i}`)
  })
  const attributes = { num_heads: heads, kv_num_heads: kvHeads, scale: 0.25, do_rotary: 0 }
  const [attended] = applyAll(g, 'GroupQueryAttention', [...inputs, ...past, last, total], attributes, {
    name: ['attended', 'keys', 'values'],
  })
  // As in a model. ONNX Runtime's shape inference does not know packed heads: as an output of the graph their width would be said to be 0.
  g.output(reshape(g, attended!, [-1, heads * size], ['tokens', heads * size], 'flat'))
  return g.build()
}

async function run(graph: Graph) {
  const session = await createSession(graph, { weightsFolder: '/tmp', threads: 1 })
  const tokens = batch * seq
  const x = Float32Array.from({ length: tokens * width }, (_, i) => Math.sin(i * 1.7))
  const feeds = {
    input_ids: int64s(new Array<number>(tokens).fill(0), [batch, seq]),
    x: floats(x, [tokens, width]),
    last_positions: int32s([seq - 1, seq - 1]),
    total_length: int32s([seq], []),
    'past.keys': floats(new Float32Array(batch * kvHeads * seq * size), [batch, kvHeads, seq, size]),
    'past.values': floats(new Float32Array(batch * kvHeads * seq * size), [batch, kvHeads, seq, size]),
  }
  const results = await session.run(feeds, ['flat'])
  await session.dispose()
  return results.flat!
}

test('parts of one value go to attention as one, with the same result', async () => {
  const graph = attentionGraph(false)
  const packed = packHeads(graph)
  expect(graph.nodes.map(node => node.op).filter(op => op === 'Reshape')).toHaveLength(4)
  expect(printGraph(packed)).toMatchInlineSnapshot(`
    "graph heads
      input input_ids: int64[batch, seq]
      input x: float32[tokens, 128]
      input last_positions: int32[batch]
      input total_length: int32[]
      input past.keys: float32[batch, 2, past, 16]
      input past.values: float32[batch, 2, past, 16]
      constant int64[64]: int64[1] = {64}
      constant int64[32]: int64[1] = {32}
      constant int64[-1,64]: int64[2] = {-1, 64}
      constant packed_heads.128: int64[1] = {128}
      batch_and_seq: int64[2] = Shape(input_ids)
      packed_shape.128: int64[3] = Concat(batch_and_seq, packed_heads.128, axis=0)
      shape.0: int64[3] = Concat(batch_and_seq, int64[64], axis=0)
      shape.1: int64[3] = Concat(batch_and_seq, int64[32], axis=0)
      shape.2: int64[3] = Concat(batch_and_seq, int64[32], axis=0)
      x.packed: float32[batch, seq, 128] = Reshape(x, packed_shape.128)
      attended: float32[batch, seq, 64]; keys: float32[batch, 2, total, 16]; values: float32[batch, 2, total, 16] = GroupQueryAttention(x.packed, _, _, past.keys, past.values, last_positions, total_length, num_heads=4, kv_num_heads=2, scale=0.25, do_rotary=0)
      flat: float32[tokens, 64] = Reshape(attended, int64[-1,64])
      output flat: float32[tokens, 64]
    "
  `)
  const [expected, given] = [await run(graph), await run(packed)]
  expect(given.shape).toEqual(expected.shape)
  expect(given.data).toEqual(expected.data)
})

test('values are known by their names: a graph that was copied node by node packs alike', () => {
  const graph = attentionGraph(false)
  const nodes = graph.nodes.map(node => ({ ...node, inputs: node.inputs.map(input => input && { ...input }) }))
  expect(printGraph(packHeads({ ...graph, nodes }))).toBe(printGraph(packHeads(graph)))
})

test('a graph with something between the parts and attention stays as it is', () => {
  const graph = attentionGraph(true)
  expect(packHeads(graph)).toBe(graph)
})
