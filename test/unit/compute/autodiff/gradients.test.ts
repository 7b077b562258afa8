import { tmpdir } from 'node:os'
import { describe, expect, test } from 'vitest'
import { gradients } from '../../../../compute/autodiff/gradients.js'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import type { Graph, GraphNode, Value } from '../../../../compute/graph/ir.js'
import { printGraph } from '../../../../compute/graph/print.js'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { apply, applyAll, reshape } from '../../../../compute/ops/apply.js'
import { derivatives } from '../../../../compute/ops/derivatives.js'
import { evaluate, sizeOf, type Tensor, tensor } from '../../../../compute/ops/reference.js'
import { type Attributes, type OpName, ops } from '../../../../compute/ops/table.js'
import { createSession, floats, int64s, type RuntimeTensor } from '../../../../compute/runtime/session.js'

/** A shape: random numbers of it. `int64`: a constant. `ids`: whole numbers as a fed input. */
type Given = readonly number[] | { int64: readonly number[] } | { ids: readonly number[]; shape: readonly number[] }

interface Case {
  inputs: readonly Given[]
  attributes?: Record<string, unknown>
  /** Moves the random numbers, which lie in (-1, 1). */
  shift?: number
}
const made = <K extends OpName>(inputs: readonly Given[], attributes: Attributes<K> = {}, shift = 0): Case => ({
  inputs,
  attributes,
  shift,
})
const ids = (values: readonly number[], shape: readonly number[] = [values.length]) => ({ ids: values, shape })
const norms: Case[] = [
  made<'LayerNormalization'>([[3, 8], [8]], { axis: -1, epsilon: 1e-2 }),
  made<'LayerNormalization'>([[2, 3, 4], [4]], { axis: -1, epsilon: 1e-5 }),
]
const broadcasting: Case[] = [
  made([
    [2, 3],
    [2, 3],
  ]),
  made([
    [2, 1, 3],
    [4, 1],
  ]),
  made([[3], [2, 3]]),
]
const away = (cases: Case[]) => cases.map(c => ({ ...c, shift: 2 }))

/** Every op that has a derivative, in each form that has its own rule. */
const cases: { readonly [K in OpName]: readonly Case[] } = {
  Add: broadcasting,
  Sub: broadcasting,
  Mul: broadcasting,
  Div: away(broadcasting),
  Max: broadcasting,
  Neg: [made([[2, 3]])],
  Exp: [made([[2, 3]])],
  Log: [made([[2, 3]], {}, 2)],
  Sqrt: [made([[2, 3]], {}, 2)],
  Cast: [],
  Sign: [],
  Sigmoid: [made([[2, 3]])],
  FastGelu: [made([[4, 5]], {}, 0.5)],
  Gather: [
    made<'Gather'>([[5, 3], ids([4, 0, 4])], { axis: 0 }),
    made<'Gather'>([[5, 3], ids([4, 0, 4, 1], [2, 2])]),
    made<'Gather'>([[2, 5, 3], ids([1, 1])], { axis: 1 }),
    made<'Gather'>([[2, 3, 4], ids([3, 0, 3, 1], [2, 2])], { axis: 2 }),
  ],
  GatherElements: [
    made<'GatherElements'>([[3, 5], ids([4, 0, 2], [3, 1])], { axis: 1 }),
    made<'GatherElements'>([[3, 5], ids([2, 2, 0, 1, 0], [1, 5])], { axis: 0 }),
  ],
  ScatterElements: [
    made<'ScatterElements'>([[3, 5], ids([4, 0, 0, 1, 2, 2], [3, 2]), [3, 2]], { axis: 1, reduction: 'add' }),
  ],
  ScatterND: [],
  Transpose: [made<'Transpose'>([[2, 3, 4]], { perm: [2, 0, 1] })],
  Split: [made<'Split'>([[2, 7], { int64: [3, 4] }], { axis: 1 })],
  Concat: [
    made<'Concat'>(
      [
        [2, 3],
        [2, 1],
        [2, 4],
      ],
      { axis: 1 },
    ),
  ],
  Reshape: [made([[2, 6], { int64: [3, -1] }]), made([[2, 6], { int64: [0, 2, 3] }])],
  Expand: [made([[1, 3], { int64: [4, 2, 3] }]), made([[], { int64: [2, 2] }])],
  Shape: [],
  Gemm: [0, 1].flatMap(transA =>
    [0, 1].flatMap(transB => {
      const [a, b] = [transA ? [4, 3] : [3, 4], transB ? [5, 4] : [4, 5]]
      return [
        made<'Gemm'>([a, b], { transA, transB, alpha: 0.5 }),
        made<'Gemm'>([a, b, [5]], { transA, transB, beta: 0.5 }),
      ]
    }),
  ),
  FusedMatMul: [0, 1].flatMap(transA =>
    [0, 1].map(transB =>
      made<'FusedMatMul'>([transA ? [2, 2, 4, 3] : [2, 2, 3, 4], transB ? [2, 2, 5, 4] : [2, 2, 4, 5]], {
        transA,
        transB,
        alpha: 0.5,
      }),
    ),
  ),
  ReduceSum: [
    made<'ReduceSum'>([[2, 3, 4], { int64: [-1] }], { keepdims: 1 }),
    made<'ReduceSum'>([[2, 3, 4], { int64: [0, 2] }], { keepdims: 0 }),
    made<'ReduceSum'>([[2, 3]], { keepdims: 0 }),
  ],
  ReduceSumSquare: [
    made<'ReduceSumSquare'>([[2, 3, 4], { int64: [1] }], { keepdims: 0 }),
    made<'ReduceSumSquare'>([[2, 3]], { keepdims: 0 }),
  ],
  ReduceL2: [made<'ReduceL2'>([[3, 4], { int64: [-1] }], { keepdims: 0 })],
  Softmax: [made<'Softmax'>([[3, 5]], { axis: -1 }), made<'Softmax'>([[2, 2, 5]], { axis: 2 })],
  LogSoftmax: [made<'LogSoftmax'>([[3, 5]], { axis: -1 }), made<'LogSoftmax'>([[2, 2, 5]], { axis: -1 })],
  TopK: [],
  ArgMax: [],
  SimplifiedLayerNormalization: norms,
  SkipSimplifiedLayerNormalization: [
    made<'SkipSimplifiedLayerNormalization'>([[3, 8], [3, 8], [8]], { epsilon: 1e-2 }),
  ],
  LayerNormalization: [...norms, made<'LayerNormalization'>([[3, 8], [8], [8]], { axis: -1, epsilon: 1e-5 })],
  SkipLayerNormalization: [made<'SkipLayerNormalization'>([[3, 8], [3, 8], [8], [8]], { epsilon: 1e-2 })],
  RotaryEmbedding: [0, 1].map(interleaved =>
    made<'RotaryEmbedding'>([[2, 3, 16], ids([0, 1, 2, 2, 3, 4], [2, 3]), [6, 4], [6, 4]], {
      interleaved,
      num_heads: 2,
    }),
  ),
  MatMulNBits: [],
  GatherBlockQuantized: [],
  GroupQueryAttention: [],
}
/** Inputs that have a derivative in principle and are never asked for it: tables. */
const constantInputs: Partial<Record<OpName, number[]>> = { RotaryEmbedding: [2, 3] }

/** sum over outputs of sum(y * random): its gradient sees every entry. */
function lossOf(op: OpName, { inputs, attributes, shift = 0 }: Case) {
  const random = seededRandom(7)
  const numbers = (shape: readonly number[], move = 0) =>
    tensor(
      shape,
      Array.from({ length: sizeOf(shape) }, () => 2 * random() - 1 + move),
    )
  const g = graphBuilder(op)
  const given = new Map<string, Tensor>()
  const whole = new Set<string>()
  const wrt: Value[] = []
  const feed = (name: string, type: 'float32' | 'int64', value: Tensor): Value => {
    given.set(name, value)
    if (type === 'int64') whole.add(name)
    return g.input(name, type, value.shape)
  }
  const values = inputs.map((input, i) => {
    if ('int64' in input) return g.int64s(input.int64)
    if ('ids' in input) return feed(`x${i}`, 'int64', tensor(input.shape, input.ids))
    const value = feed(`x${i}`, 'float32', numbers(input, shift))
    if (!constantInputs[op]?.includes(i)) wrt.push(value)
    return value
  })
  const outputs = applyAll(g, op, values, attributes as Attributes<typeof op>)
  const forward = evaluate(g.nodes, given, g.build().constants)
  const terms = outputs.flatMap((y, i) => {
    if (!y) return []
    const shape = forward.get(y.name)!.shape
    const exact = { ...y, shape } // what rules know of shapes is what the run gives
    const weights = feed(`weights${i}`, 'float32', numbers(shape))
    return [apply(g, 'ReduceSum', [apply(g, 'Mul', [exact, weights])], { keepdims: 0 })]
  })
  const loss = terms.reduce((a, b) => apply(g, 'Add', [a, b]))
  return { g, loss, given, whole, wrt }
}

/** Central differences of a node list's scalar in float64. */
function finiteDifferences(
  graph: Graph,
  nodes: readonly GraphNode[],
  loss: Value,
  given: Map<string, Tensor>,
  x: Value,
) {
  const h = 1e-5
  const original = given.get(x.name)!
  const at = (index: number, step: number) => {
    const data = original.data.slice()
    data[index]! += step
    const values = new Map(given).set(x.name, { ...original, data })
    return evaluate(nodes, values, graph.constants).get(loss.name)!.data[0]!
  }
  return Array.from(original.data, (_, i) => (at(i, h) - at(i, -h)) / (2 * h))
}

const worst = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  const scale = Math.max(1, ...Array.from(b, Math.abs))
  return Math.max(...Array.from(b, (value, i) => Math.abs(value - a[i]!))) / scale
}
const toRuntime = ({ shape, data }: Tensor, whole: boolean): RuntimeTensor =>
  whole ? int64s([...data], shape) : floats(Float32Array.from(data), shape)

describe.each(Object.entries(cases).filter(([, list]) => list.length > 0))('%s', (op, list) => {
  test('its gradients are the finite differences of its float64 definition, and its kernels give both', async () => {
    for (const one of list) {
      const { g, loss, given, whole, wrt } = lossOf(op as OpName, one)
      const forward = [...g.nodes]
      g.output(loss)
      const found = gradients(g, loss, wrt)
      for (const value of found) g.output(value)
      const graph = g.build()
      const session = await createSession(graph, { weightsFolder: tmpdir(), threads: 1 })
      const feeds = Object.fromEntries([...given].map(([name, value]) => [name, toRuntime(value, whole.has(name))]))
      const names = [...new Set([loss, ...found].map(v => v.name))]
      const ran = await session.run(feeds, names)
      await session.dispose()
      const exact = evaluate(graph.nodes, given, graph.constants)
      expect(worst(ran[loss.name]!.data as Float32Array, exact.get(loss.name)!.data)).toBeLessThan(1e-5)
      found.forEach((gradient, i) => {
        const expected = finiteDifferences(graph, forward, loss, given, wrt[i]!)
        expect(exact.get(gradient.name)!.shape).toEqual(given.get(wrt[i]!.name)!.shape)
        expect(worst(exact.get(gradient.name)!.data, expected)).toBeLessThan(1e-7)
        expect(worst(ran[gradient.name]!.data as Float32Array, expected)).toBeLessThan(2e-5)
      })
    }
  })
})

test('an op has a gradient check, or a reason why it has no derivative', () => {
  for (const op of Object.keys(ops) as OpName[]) {
    const rule = derivatives[op]
    if (typeof rule === 'function') expect(cases[op].length, op).toBeGreaterThan(0)
    else expect(rule.reason.length, op).toBeGreaterThan(10)
  }
})

describe('gradients of a graph', () => {
  test('a value used twice gets the sum of both uses', () => {
    const g = graphBuilder('square')
    const x = g.input('x', 'float32', [3])
    const y = apply(g, 'ReduceSum', [apply(g, 'Mul', [x, apply(g, 'Add', [x, x])])], { keepdims: 0 })
    const [dx] = gradients(g, y, [x])
    const values = evaluate(g.nodes, new Map([['x', tensor([3], [1, -2, 3])]]), g.build().constants)
    expect([...values.get(dx!.name)!.data]).toEqual([4, -8, 12])
  })

  test('the loss itself, and a value that it does not depend on, have ones and zeros', () => {
    const g = graphBuilder('apart')
    const x = g.input('x', 'float32', [2])
    const apart = g.input('apart', 'float32', ['rows', 2])
    const loss = apply(g, 'ReduceSum', [x], { keepdims: 0 })
    const found = gradients(g, loss, [x, apart])
    const given = new Map([
      ['x', tensor([2], [1, 2])],
      ['apart', tensor([3, 2], [1, 2, 3, 4, 5, 6])],
    ])
    const values = evaluate(g.nodes, given, g.build().constants)
    expect([...values.get(found[0]!.name)!.data]).toEqual([1, 1])
    expect(values.get(found[1]!.name)).toEqual(tensor([3, 2], [0, 0, 0, 0, 0, 0]))
  })

  test('only what was asked for is differentiated', () => {
    const g = graphBuilder('frozen')
    const [x, w] = [g.input('x', 'float32', [2, 3]), g.input('w', 'float32', [4, 3])]
    const y = apply(g, 'Gemm', [x, w], { transB: 1 })
    const loss = apply(g, 'ReduceSum', [apply(g, 'Mul', [y, y])], { keepdims: 0 })
    const before = g.nodes.length
    gradients(g, loss, [x])
    const added = g.nodes.slice(before).filter(node => node.op === 'Gemm')
    expect(added).toHaveLength(1)
  })

  test('a loss that is no scalar, and an op without derivative on the way, are refused by name', () => {
    const g = graphBuilder('refused')
    const x = g.input('x', 'float32', [2, 3])
    expect(() => gradients(g, x, [x])).toThrow('loss x [2,3] is not a scalar')
    const sign = apply(g, 'Sign', [x], {}, { name: 'direction' })
    const loss = apply(g, 'ReduceSum', [sign], { keepdims: 0 })
    expect(() => gradients(g, loss, [x])).toThrow('direction: Sign has no derivative, it is constant wherever')
  })

  test('a cross-entropy never makes a tensor of [rows, vocabulary] but the probabilities and their copy with 1 taken away', () => {
    const g = graphBuilder('cross entropy')
    const x = g.input('x', 'float32', ['rows', 4])
    const w = g.input('w', 'float32', [9, 4])
    const targets = g.input('targets', 'int64', ['rows', 1])
    const logits = apply(g, 'Gemm', [x, w], { transB: 1 }, { name: 'logits' })
    const normalised = apply(g, 'LogSoftmax', [logits], { axis: -1 }, { name: 'normalised' })
    const chosen = apply(g, 'GatherElements', [normalised, targets], { axis: 1 }, { name: 'chosen' })
    const flat = reshape(g, chosen, [-1], ['rows'], 'flat')
    const loss = apply(g, 'ReduceSum', [flat], { keepdims: 0 }, { name: 'loss' })
    for (const value of gradients(g, loss, [x, w])) g.output(value)
    expect(printGraph(g.build())).toMatchSnapshot()
  })
})
